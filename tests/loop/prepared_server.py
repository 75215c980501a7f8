"""Servers that start within a second, for tests that start many."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.loop.running_server import PATIENCE_S, REPOSITORY, RunningServer, wait_until


class Preparation:
    """A process that has imported all that a server needs; use it as a context manager.

    Args:
        folder: gets its temporary files and what it printed.
        environment: variables of the servers beside those that they need.
        program: the module that is this process.
    """

    def __init__(
        self, folder: Path, environment: Mapping[str, str] | None = None, program: str = "tests.loop.prepared_parent"
    ) -> None:
        self._program = program
        self._more = dict(environment or {})
        self.temporary = folder / "temporary"
        self.temporary.mkdir(parents=True)
        self._log = folder / "preparation.log"
        self._parent: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Preparation":
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MONAI_LABEL_")}
        own = {
            "TMPDIR": str(self.temporary),
            "MONAI_LABEL_SESSION_PATH": str(self.temporary / "sessions"),
            "PYTHONUNBUFFERED": "1",
            "MONAI_LABEL_RELOAD_APP_LIB": "false",  # or each copy would import the whole of `lib` again
            **self._more,
        }
        with self._log.open("wb") as log:
            self._parent = subprocess.Popen(
                [sys.executable, "-m", self._program],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=inherited | own,
                cwd=REPOSITORY,
            )
        self._read()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._parent is not None
        assert self._parent.stdin is not None
        self._parent.stdin.close()
        self._parent.wait()
        assert self._parent.stdout is not None
        self._parent.stdout.close()

    def ask(self, **asked: Any) -> dict[str, Any]:
        """Let the process do something, see `tests.loop.prepared_parent`."""
        assert self._parent is not None
        assert self._parent.stdin is not None
        self._parent.stdin.write(json.dumps(asked) + "\n")
        self._parent.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._parent is not None
        assert self._parent.stdout is not None
        line = self._parent.stdout.readline()
        if not line:
            msg = f"the prepared process ended:\n{self._log.read_text(errors='replace')[-4000:]}"
            raise RuntimeError(msg)
        return dict(json.loads(line))


class Copy:
    """A copy of the prepared process, as far as `RunningServer` needs `subprocess.Popen`."""

    def __init__(self, preparation: Preparation, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._preparation = preparation

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._preparation.ask(pid=self.pid)["code"]
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        end = time.monotonic() + (PATIENCE_S if timeout is None else timeout)
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("the prepared server", PATIENCE_S if timeout is None else timeout)
            time.sleep(0.005)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


class PreparedServer(RunningServer):
    """A real server that can be killed and started again; the arguments are those of `RunningServer`.

    Args:
        preparation: what it is made from.
        studies: the studies folder, or the address of a PACS.
        folder: gets the log.
        app: an app folder that may be written to.
        conf: `--conf` overrides of `app.yaml`.
    """

    def __init__(
        self,
        preparation: Preparation,
        studies: Path | str,
        folder: Path,
        *,
        app: Path,
        conf: dict[str, Any] | None = None,
    ) -> None:
        # Choosing another engine takes seconds of the CPU after each start, and is done anew where that was killed.
        super().__init__(studies, folder, app=app, conf={"inference.engine": "pytorch", **(conf or {})})
        self.temporary = preparation.temporary
        self._preparation = preparation

    def __enter__(self) -> "PreparedServer":
        self.start()
        try:
            self.wait()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def start(self) -> None:
        """Start it and don't wait for an answer."""
        pid = self._preparation.ask(
            arguments=self._command[2:],  # those behind `monailabel start_server`
            log=str(self.log_file),
            folder=str(self.folder),
        )["pid"]
        self._process = Copy(self._preparation, pid)  # type: ignore[assignment]

    def wait(self) -> None:
        """Wait until it answers."""
        wait_until(self._answers, "the first answer of the prepared server", pause_s=0.02)

    def code(self) -> int | None:
        """Its exit code, None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def kill(self) -> None:
        """End it between two of its instructions, like a power cut does."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGKILL)
        assert self._process.wait() == -signal.SIGKILL
