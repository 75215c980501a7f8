"""A PostgreSQL server of our own on a loopback port, with everything in a temporary folder, ended whatever happens.

Its administrator can only be reached through a socket in that folder. Ledgers belong to a user without any rights
beyond them, as a site's should.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import TupleRow

PASSWORD = "correct horse"
_ADMINISTRATOR = "postgres"
_USER = "liverloop"
_GUARDED = "guarded"  # must give the password
_PATIENCE_S = 60.0
_HOST_RULES = f"""\
local all all trust
host all {_USER} 127.0.0.1/32 trust
host all {_GUARDED} 127.0.0.1/32 scram-sha-256
"""


def programs() -> Path | None:
    """The folder of the newest server's programs, None if none is installed."""
    on_path = shutil.which("initdb")
    # Debian keeps them off PATH, one folder for each version.
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    candidates = [*found, *([Path(on_path).resolve()] if on_path else [])]
    return candidates[-1].parent if candidates else None


@contextmanager
def postgresql_or_skip() -> Iterator["PostgreSQL"]:
    """A running server; the test that asks for it is skipped where none is installed."""
    found = programs()
    if found is None:
        pytest.skip("no PostgreSQL server is installed; Debian's package is called postgresql")
    with PostgreSQL(found) as server:
        yield server


class PostgreSQL:
    """A server with its defaults, so also with fsync; use it as a context manager.

    Args:
        programs: where `initdb` and `postgres` are.
    """

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        # Not in pytest's own folder, which another user may not enter; and short, as a socket's path must be.
        self.folder = Path(tempfile.mkdtemp(prefix="liverloop-pg-"))
        self.port = _free_port()
        self._made = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "PostgreSQL":
        try:
            self._initialize()
            self.start()
            with self._administrator() as connection:
                connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(_USER)))
                guarded = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} IN ROLE {}")
                connection.execute(
                    guarded.format(sql.Identifier(_GUARDED), sql.Literal(PASSWORD), sql.Identifier(_USER))
                )
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._programs / "postgres"), "-D", str(self._data)],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
                **_as_a_user(),
            )
        end = time.monotonic() + _PATIENCE_S
        while True:
            try:
                self._administrator().close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > end:
                    log_text = (self.folder / "server.log").read_text(errors="replace")
                    msg = f"PostgreSQL does not start:\n{log_text[-4000:]}"
                    raise RuntimeError(msg) from None
                time.sleep(0.05)

    def stop(self) -> None:
        """End it as an administrator does; clients are cut off."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(_PATIENCE_S)
            self._process = None

    def new_database(self) -> str:
        """The URL of an empty database."""
        self._made += 1
        name = f"ledger_{self._made}"
        with self._administrator() as connection:
            statement = sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(_USER))
            connection.execute(statement)
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Take a database away, whoever still uses it."""
        with self._administrator() as connection:
            name = sql.Identifier(url.rpartition("/")[2])
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))

    def url(self, database: str, user: str = _USER) -> str:
        """How a user reaches a database."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def guarded(self, url: str) -> str:
        """The same database for a user who must give `PASSWORD`."""
        return self.url(url.rpartition("/")[2], _GUARDED)

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _initialize(self) -> None:
        user = _as_a_user()
        if user:
            os.chown(self.folder, user["user"], user["group"])
        # Sorted as a person would, not by code point as C does: the ledger must not depend on it.
        subprocess.run(
            [
                self._programs / "initdb", "-D", self._data, "--username", _ADMINISTRATOR, "--auth", "trust",
                "--encoding", "UTF8", *self._collation(),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=self.folder,
            **user,
        )  # fmt: skip
        (self._data / "pg_hba.conf").write_text(_HOST_RULES)
        with (self._data / "postgresql.conf").open("a") as settings:
            settings.write(
                f"port = {self.port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{self.folder}'\n"
            )

    def _collation(self) -> list[str]:
        options = subprocess.run([self._programs / "initdb", "--help"], check=True, capture_output=True, text=True)
        if "--icu-locale" in options.stdout:
            return ["--locale", "C.UTF-8", "--locale-provider", "icu", "--icu-locale", "en-US"]
        return ["--locale", "C.UTF-8"]

    def _administrator(self) -> psycopg.Connection[TupleRow]:
        return psycopg.connect(
            host=str(self.folder), port=self.port, user=_ADMINISTRATOR, dbname="postgres", autocommit=True
        )


def _as_a_user() -> dict[str, Any]:
    """Whom to run the server as: it refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    entry = pwd.getpwnam(_ADMINISTRATOR)  # the package makes this user
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
