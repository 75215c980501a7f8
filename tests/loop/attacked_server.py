"""A server that tests attack: its log may have errors, and nothing of it is needed any more at the end."""

import os
import signal
import socket
from contextlib import suppress

from tests.loop.running_server import RunningServer, wait_until


class AttackedServer(RunningServer):
    """Use it as a context manager; the arguments are those of `RunningServer`."""

    def run_to_end(self, *more: str) -> tuple[int | None, str]:
        """Exit code and output of a server that should not start, with more arguments than the usual ones.

        One that does start is ended at once, and has the code None.
        """
        process = self._process = self._begin(*more)
        try:
            wait_until(lambda: process.poll() is not None or self._is_open(), "a server's end", pause_s=0.05)
            return process.poll(), self.log()
        finally:
            self.end()

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """End it at once."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _is_open(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
