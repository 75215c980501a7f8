"""Processes that have imported what programs need, and copies of them, which begin at once."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE_S = 240.0
WARM = "tests.loop.warm_parent"  # of servers of any program; `tests.loop.prepared_parent` makes those of one


class Preparation:
    """A process that has imported all that a server needs; use it as a context manager.

    Args:
        folder: gets its temporary files and what it printed.
        program: the module that is this process.
    """

    def __init__(self, folder: Path, program: str = "tests.loop.prepared_parent") -> None:
        self._program = program
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
        """Let the process do something, see `tests.loop.copying`."""
        assert self._parent is not None
        assert self._parent.stdin is not None
        self._parent.stdin.write(json.dumps(asked) + "\n")
        self._parent.stdin.flush()
        return self._read()

    def copy(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path, folder: Path) -> "Copy":
        """A copy that runs a program.

        Args:
            arguments: of `tests.loop.prepared_parent`'s server; of `tests.loop.warm_parent`, the program and its own.
            environment: variables; `tests.loop.warm_parent` gets no others.
            log: gets what it prints.
            folder: where it runs.
        """
        asked = {"arguments": list(arguments), "environment": dict(environment), "log": str(log), "folder": str(folder)}
        return Copy(self, self.ask(**asked)["pid"])

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
