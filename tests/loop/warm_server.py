"""Servers of any program, started within two seconds; see `tests.loop.warm_parent`."""

import os
import signal
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import requests

from tests.loop.prepared_server import Copy, Preparation
from tests.loop.running_server import REPOSITORY, RunningServer, wait_until

PROGRAM = "tests.loop.warm_parent"
PLAIN = ("monailabel.main", "start_server")  # what the command `monailabel` runs
OURS = (str(REPOSITORY / "scripts" / "serve.py"),)


class WarmServer(RunningServer):
    """Use it as a context manager; the other arguments are those of `RunningServer`.

    Args:
        preparation: of the program `PROGRAM`.
        command: `PLAIN` or `OURS`.
        options: more arguments; with a certificate the server is asked by https.
    """

    def __init__(
        self,
        preparation: Preparation,
        studies: Path | str,
        folder: Path,
        *,
        app: Path,
        command: Sequence[str],
        conf: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
    ) -> None:
        super().__init__(studies, folder, app=app, command=command, conf=conf, environment=environment)
        self._command += options
        if "--tls-certificate" in options:
            self.url = self.url.replace("http:", "https:")
        self._preparation = preparation

    def __enter__(self) -> "WarmServer":
        self._start()
        try:
            wait_until(self._listens, f"the first answer of {' '.join(self._command)}", pause_s=0.05)
        except BaseException:
            self.end()
            raise
        return self

    def run_to_end(self, *more: str) -> tuple[int | None, str]:
        """Exit code and output of a server that should not start, with more arguments than the usual ones.

        One that does start is ended at once, and has the code None.
        """
        process = self._start(*more)
        try:
            wait_until(lambda: process.poll() is not None or self._is_open(), "a server's end", pause_s=0.05)
            return process.poll(), self.log()
        finally:
            self.end()

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """End it at once, as nothing of it is needed any more."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _start(self, *more: str) -> Copy:
        asked = {"environment": dict(self._environment), "log": str(self.log_file), "folder": str(self.folder)}
        process = Copy(self._preparation, self._preparation.ask(arguments=[*self._command, *more], **asked)["pid"])
        self._process = process  # type: ignore[assignment]
        return process

    def _is_open(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _listens(self) -> bool:
        """Whether it answers, be it that it asks for a login."""
        assert self._process is not None
        if self._process.poll() is not None:
            msg = f"the server ended with {self._process.returncode} before it answered:\n{self.log()[-4000:]}"
            raise RuntimeError(msg)
        try:
            return requests.get(f"{self.url}/info/", timeout=30).status_code in {200, 401}
        except requests.ConnectionError:
            return False
