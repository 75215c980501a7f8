"""The database behind the store: SQLite in WAL mode beside the images, or PostgreSQL, with one behavior.

On either, one transaction writes at a time and what is committed survives a power cut; readers never wait. An error
of the database becomes one that a person can act on.
"""

import errno
import json
import logging
import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, insert, select, text, update
from sqlalchemy.engine import URL, ExceptionContext, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, NoSuchModuleError, StatementError
from sqlalchemy.exc import TimeoutError as NoConnectionError

from lib.errors import BadInputError, LiverLoopError, SettingsError, StorageError, UnavailableError
from lib.store.layout import Layout
from lib.store.migrations import migrate
from lib.store.schema import SCHEMA_VERSION, facts, metadata

logger = logging.getLogger(__name__)

_WAIT_MS = 60_000  # for another process's transaction; ours take milliseconds
_ONE_STATE = "REPEATABLE READ"
_LOCK = 0x4C69_7665_724C  # of all writers on a PostgreSQL database; any number will do
_LOCKED = "another program keeps it locked; end that one or try again"
_SQLITE_REASONS: dict[str, tuple[type[StorageError], str]] = {
    "SQLITE_FULL": (StorageError, "the disk is full; free space, nothing was changed"),
    "SQLITE_READONLY": (UnavailableError, "it is read-only; change its permissions, nothing was changed"),
    "SQLITE_CANTOPEN": (UnavailableError, "it can't be opened; check the folder's permissions"),
    "SQLITE_BUSY": (UnavailableError, _LOCKED),
    "SQLITE_IOERR_SHMSIZE": (StorageError, "the disk is full; free space, nothing was changed"),
    "SQLITE_IOERR": (UnavailableError, "the disk reports an error; check it"),
    "SQLITE_CORRUPT": (StorageError, "it is damaged; move it away and run scripts/ledger.py import with an archive"),
    "SQLITE_NOTADB": (StorageError, "it is not a ledger; move it away or name another"),
}


class Ledger:
    """What is known of a studies folder.

    Args:
        url: `sqlite:////path/to/file` or `postgresql://user@host/database`; a password does not belong into it.
        belongs_to: what the ledger is about, such as the folder's id; another one than at its first opening is
            refused. None: not checked.

    Raises:
        SettingsError: the URL is of another kind or holds a password, or the ledger is of another folder or of a
            newer LiverLoop.
        StorageError: it can't be opened or written.
    """

    def __init__(self, url: str, belongs_to: str | None = None, may_be_new: bool = True) -> None:
        self.url = checked_url(url)
        self._one_writer = threading.Lock()  # SQLite's own waiting is a sleep that grows
        self.engine = _engine(self.url)
        self._writers = self.engine.execution_options(liverloop_writes=True)
        # A reader sees the same from first to last; a writer on PostgreSQL what the one before it committed.
        self._readers = self.engine if self._is_sqlite else self.engine.execution_options(isolation_level=_ONE_STATE)
        with self.writing() as connection:
            metadata.create_all(connection)
            self._check(connection, belongs_to, may_be_new)

    @property
    def name(self) -> str:
        """The database as it may be shown: no user, no password."""
        return self.url.database or "" if self._is_sqlite else f"{self.url.host or 'local'}/{self.url.database}"

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that sees one state of the ledger and changes nothing.

        Raises:
            StorageError: the database can't be read.
        """
        with self._explained(), self._readers.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction: alone until its end, committed and on disk then, undone if an exception leaves the block.

        Raises:
            StorageError: the database can't be written.
        """
        alone = self._one_writer if self._is_sqlite else nullcontext()
        with self._explained(), alone, self._writers.begin() as connection:
            yield connection

    def fact(self, connection: Connection, key: str) -> str | None:
        """A single value, None if it was never set."""
        return connection.scalar(select(facts.c.value).where(facts.c.key == key))

    def set_fact(self, connection: Connection, key: str, value: str) -> None:
        """Set a single value."""
        if not connection.execute(update(facts).where(facts.c.key == key).values(value=value)).rowcount:
            connection.execute(insert(facts).values(key=key, value=value))

    def close(self) -> None:
        """Close the connections; the ledger can't be used afterwards."""
        self.engine.dispose()

    @property
    def _is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    def _check(self, connection: Connection, belongs_to: str | None, may_be_new: bool) -> None:
        stored = self.fact(connection, "schema")
        if stored is None:
            self.set_fact(connection, "schema", str(SCHEMA_VERSION))
            self.set_fact(connection, "made_at", str(time.time()))
        elif int(stored) > SCHEMA_VERSION:
            msg = f"the ledger {self.name} was made by a newer LiverLoop (schema {stored}); update this one"
            raise SettingsError(msg)
        elif int(stored) < SCHEMA_VERSION:
            told = "the ledger %s is brought from schema %s to %d; a LiverLoop of before can't use it any more"
            logger.warning(told, self.name, stored, SCHEMA_VERSION)  # seen in scripts as well, which log no less
            migrate(connection, int(stored))
            self.set_fact(connection, "schema", str(SCHEMA_VERSION))
        if belongs_to is None:
            return
        owner = self.fact(connection, "belongs_to")
        if owner is None and not may_be_new:
            msg = (
                f"the ledger {self.name} is new, and the studies folder has versions of another one; name that by "
                "--conf ledger, or to begin anew move the folder's ledger/ away"
            )
            raise SettingsError(msg)
        if owner is None:
            self.set_fact(connection, "belongs_to", belongs_to)
        elif owner != belongs_to:
            msg = (
                f"the ledger {self.name} belongs to other studies ({owner}), not to these ({belongs_to}); give each "
                "studies folder a ledger of its own"
            )
            raise SettingsError(msg)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except StatementError as error:
            raise _explained(error, self.name) from error
        except NoConnectionError as error:
            msg = f"all connections to the ledger {self.name} are in use; try again"
            raise UnavailableError(msg) from error


def open_ledger(layout: Layout, url: str) -> Ledger:
    """The ledger of a studies folder, made if there is none.

    Args:
        layout: of the folder.
        url: of `ledger` in the settings; empty: SQLite in the folder.

    Raises:
        SettingsError, StorageError: see `Ledger`.
    """
    in_use = layout.in_use()  # before the folder gets its id
    return Ledger(url or f"sqlite:///{layout.database}", belongs_to=layout.studies_id(), may_be_new=not in_use)


def checked_url(url: str) -> URL:
    """A ledger's URL with the driver that we use.

    Raises:
        SettingsError: not a URL, another database, a password in it, or SQLite without a file.
    """
    shown = re.sub(r":[^/].*@|[?].*", "...", url)  # whatever could be a password
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (ArgumentError, NoSuchModuleError, ValueError):
        msg = f"ledger = {shown!r} is not a database's URL; use postgresql://user@host/database"
        raise SettingsError(msg) from None  # its own words may hold the password
    if parsed.password is not None or {"password", "sslpassword"} & parsed.query.keys():
        msg = (
            "the ledger's URL holds a password, which logs and process lists would show; put it into the variable "
            "PGPASSWORD or the file ~/.pgpass"
        )
        raise SettingsError(msg)
    if backend == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            msg = f"ledger = {shown!r} names no file; use sqlite:////path/to/ledger.sqlite"
            raise SettingsError(msg)
        return parsed.set(drivername="sqlite+pysqlite")
    if backend in {"postgresql", "postgres"}:
        if not parsed.database:
            msg = f"ledger = {shown!r} names no database; use postgresql://user@host/database"
            raise SettingsError(msg)
        return parsed.set(drivername="postgresql+psycopg")
    msg = f"ledger = {shown!r} is of the kind {backend!r}; use sqlite or postgresql"
    raise SettingsError(msg)


def _engine(url: URL) -> Engine:
    # As many connections as the server has threads; those beyond the first few are closed after use.
    options: dict[str, Any] = {"pool_size": 8, "max_overflow": 72, "pool_timeout": _WAIT_MS / 1000}
    options["hide_parameters"] = True  # hashes and what clients send don't belong into a log's traceback
    dumps = partial(json.dumps, allow_nan=False)  # NaN is not JSON, and PostgreSQL refuses it
    if url.get_backend_name() == "postgresql":
        engine = create_engine(url, json_serializer=dumps, pool_pre_ping=True, **options)
        event.listen(engine, "handle_error", _refuse_value)

        @event.listens_for(engine, "begin")
        def _wait_for_other_writers(connection: Connection) -> None:
            if connection.get_execution_options().get("liverloop_writes"):
                wait = text("SELECT set_config('lock_timeout', :wait, true), pg_advisory_xact_lock(:key)")
                connection.execute(wait, {"wait": str(_WAIT_MS), "key": _LOCK})

        return engine
    try:
        Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        kind = UnavailableError if error.errno in {errno.EROFS, errno.EACCES, errno.EPERM} else StorageError
        msg = f"can't make the folder of the ledger {url.database}: {error.strerror}"
        raise kind(msg) from error
    engine = create_engine(url, json_serializer=dumps, **options)
    event.listen(engine, "handle_error", _refuse_value)

    @event.listens_for(engine, "connect")
    def _settle(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # we begin transactions ourselves, below
        connection.execute(f"PRAGMA busy_timeout = {_WAIT_MS}")
        _switch_to_wal(connection)
        connection.execute("PRAGMA synchronous = FULL")  # a committed label survives a power cut
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA cache_size = -65536")  # KiB, negative by SQLite's convention

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # Immediate: a transaction that reads first and writes later could not be granted the lock otherwise.
        writes = connection.get_execution_options().get("liverloop_writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Where two switch a new database at once, SQLite refuses one of them without the waiting of busy_timeout."""
    until = time.monotonic() + _WAIT_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() >= until:
                raise
            time.sleep(0.01)
        else:
            return


def _refuse_value(context: ExceptionContext) -> None:
    """Values that a driver can't send; not every driver says so by an exception of its own."""
    original = context.original_exception
    if isinstance(original, ValueError | OverflowError):
        reason = original.reason if isinstance(original, UnicodeEncodeError) else original  # the rest is the value
        msg = f"a value can't be stored: {reason}"
        raise BadInputError(msg) from original


def _explained(error: StatementError, name: str) -> LiverLoopError:
    """What to tell a person; statement and values, which may hold patient data, are left out."""
    original = error.orig
    if isinstance(original, LiverLoopError):
        return original
    if isinstance(original, sqlite3.Error):
        code = getattr(original, "sqlite_errorname", "") or ""
        for start, (kind, reason) in _SQLITE_REASONS.items():
            if code.startswith(start):
                return kind(f"can't use the ledger {name}: {reason}")
        return StorageError(f"the ledger {name} failed: {original}")
    if isinstance(error, DBAPIError):
        state = getattr(original, "sqlstate", None) or ""
        # The primary message alone: the others hold values. Errors before a connection have no such parts.
        diagnosis = getattr(getattr(original, "diag", None), "message_primary", None)
        reason = " ".join((diagnosis or str(original)).split())[:200]
        if isinstance(error, DataError):
            return BadInputError(f"a value can't be stored: {reason}")
        if isinstance(error, IntegrityError):
            return StorageError(f"the ledger {name} refused it: {reason}")
        if state == "55P03":
            return UnavailableError(f"can't use the ledger {name}: {_LOCKED}")
        if state.startswith("53"):  # out of disk, memory or connections
            return StorageError(f"the ledger {name} has no room left: {reason}")
        return UnavailableError(f"can't reach or use the ledger {name}: {reason}")
    return BadInputError(f"a value can't be stored: {original}")
