"""A real server to measure: started as users start it, watched from outside, stopped with SIGTERM."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from lib.errors import LiverLoopError

_REPOSITORY = Path(__file__).resolve().parents[2]
SERVE = (sys.executable, str(_REPOSITORY / "scripts" / "serve.py"))
PLAIN = (str(Path(sys.executable).with_name("monailabel")), "start_server")
_START_S = 300.0
_STOP_S = 90.0  # more than `server.stop_seconds` and what comes after it
_LOOK_S = 0.1
_LINES = 15  # of the log, in a message
_MOST_TOLD = 10
_BAD_LINE = re.compile(r"\b(ERROR|CRITICAL)\b|Traceback \(most recent call last\)")


class ServerProcess:
    """A server in folders of its own; use it in a `with` block.

    Args:
        folder: gets `app/`, `run/` with sessions, temporary files and the log; `studies/` must be there.
        app: whose `app.yaml` and weights are used.
        conf: overrides of `app.yaml`.
        command: `SERVE` or `PLAIN`.

    Raises:
        LiverLoopError: it does not start.
    """

    def __init__(self, folder: Path, app: Path, conf: Mapping[str, object], command: Sequence[str] = SERVE) -> None:
        self.studies = folder / "studies"
        self.app = _copied(app, folder / "apps")
        self.temporary, self.sessions = folder / "run" / "temporary", folder / "run" / "sessions"
        for path in (self.temporary, self.sessions):
            path.mkdir(parents=True)
        self.log_file = folder / "run" / "server.log"
        self._conf = conf
        self._command = command
        self._port = _free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None
        self.start_s = 0.0

    def __enter__(self) -> "ServerProcess":
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MONAI_LABEL_")}
        environment |= {
            # MONAI Label runs a bare `python`.
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
            "TMPDIR": str(self.temporary),
            "MONAI_LABEL_SESSION_PATH": str(self.sessions),
            "PYTHONUNBUFFERED": "1",
        }
        command = [
            *self._command,
            *("--app", str(self.app), "--studies", str(self.studies), "--port", str(self._port)),
            *(part for key, value in self._conf.items() for part in ("--conf", key, str(value))),
        ]  # fmt: skip
        began = time.monotonic()
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment,
                start_new_session=True,  # Ctrl-C is for us: we stop it
            )  # fmt: skip
        try:
            self._wait_until_ready(began + _START_S)
        except BaseException:
            self._end()
            raise
        self.start_s = time.monotonic() - began
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    @property
    def process(self) -> psutil.Process:
        """The server's process."""
        assert self._process is not None
        return psutil.Process(self._process.pid)

    def has_ended(self) -> bool:
        """Whether it has ended, by itself or not."""
        assert self._process is not None
        return self._process.poll() is not None

    def stop(self) -> dict[str, Any]:
        """Stop it with SIGTERM, whatever runs.

        Returns:
            `code`: its exit code, None if it had to be killed; `seconds` until its end; `children`: how many processes
            it had, and `left`, how many of them were there afterwards.
        """
        assert self._process is not None
        if self.has_ended():
            return {"code": self._process.returncode, "seconds": 0.0, "children": 0, "left": 0}
        children = self.process.children(recursive=True)
        began = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        code: int | None = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(_STOP_S)
        seconds = time.monotonic() - began
        left = psutil.wait_procs(children, timeout=1)[1]
        self._end()
        return {"code": code, "seconds": seconds, "children": len(children), "left": len(left)}

    def bad_lines(self) -> list[str]:
        """The first errors in the log."""
        return bad_lines(self.log_file.read_text(encoding="utf-8", errors="replace").splitlines())

    def _wait_until_ready(self, end: float) -> None:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # our own machine needs no proxy
        while time.monotonic() < end:
            if self.has_ended():
                break
            with contextlib.suppress(OSError), opener.open(f"{self.url}/readyz", timeout=10):
                return
            time.sleep(_LOOK_S)
        lines = self.log_file.read_text(encoding="utf-8", errors="replace").splitlines()[-_LINES:]
        msg = "the server to be measured does not start: " + " | ".join(lines)
        raise LiverLoopError(msg)

    def _end(self) -> None:
        """End it and what it has started, and only those."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def bad_lines(lines: Sequence[str]) -> list[str]:
    """The first lines of a log that tell of an error or a crash, with what stands below the latter."""
    found = []
    for number, line in enumerate(lines):
        if _BAD_LINE.search(line):
            more = lines[number + 1 : number + 30] if "Traceback" in line else []
            ends = [one for one in more if one and not one.startswith((" ", "\t"))][:1]
            found.append(" ".join([line.strip(), *ends])[:400])
    return found[:_MOST_TOLD]


def _copied(app: Path, folder: Path) -> Path:
    """The app where its models may be written; `lib` is linked beside it, as its `main.py` expects."""
    copy = folder / app.name
    copy.mkdir(parents=True)
    (folder.parent / "lib").symlink_to(_REPOSITORY / "lib")
    for name in ("main.py", "app.yaml", "starter.pt"):
        shutil.copyfile(app / name, copy / name)
    return copy


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
