"""Servers that start within a second, for tests that start many."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.loop.preparation import Preparation
from tests.loop.running_server import PLAIN, RunningServer, wait_until


class PreparedServer(RunningServer):
    """A real server that can be killed and started again; the arguments are those of `RunningServer`.

    Args:
        preparation: what it is made from.
        studies: the studies folder, or the address of a PACS.
        folder: gets the log.
        app: an app folder that may be written to.
        conf: `--conf` overrides of `app.yaml`.
        environment: variables that `lib` doesn't read while it is imported.
    """

    def __init__(
        self,
        preparation: Preparation,
        studies: Path | str,
        folder: Path,
        *,
        app: Path,
        conf: dict[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        # Choosing another engine takes seconds of the CPU after each start, and is done anew where that was killed.
        conf = {"inference.engine": "pytorch", **(conf or {})}
        super().__init__(None, studies, folder, app=app, conf=conf, environment=environment)
        self._more = {"TMPDIR": str(self.temporary), **(environment or {})}
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
        arguments = self._command[len(PLAIN) :]
        self._process = self._preparation.copy(arguments, self._more, self.log_file, self.folder)

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
