"""SIGTERM and Ctrl-C: what runs is finished, up to a limit, and what is dropped is said.

MONAI Label starts uvicorn, which would wait for requests without limit, and for a training as well. Its handler of
signals is replaced by ours, which tells it to stop once nothing runs.
"""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from lib.web.traffic import Traffic

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_LOOK_S = 0.05
_END_S = 10.0  # for the process to end when nothing runs any more


class Stopping:
    """Stops a server that uvicorn runs.

    Args:
        traffic: the server's requests.
        limit_s: for those that run.
        end_jobs: ends background work; returns what it ended, in words.
        close: called when no request runs any more, or the limit is over.
    """

    def __init__(
        self, traffic: Traffic, limit_s: float, end_jobs: Callable[[], Sequence[str]], close: Callable[[], object]
    ) -> None:
        self._traffic, self._limit_s = traffic, limit_s
        self._end_jobs, self._close = end_jobs, close
        self._server: Any = None
        self.has_begun = False

    def install(self) -> bool:
        """Handle signals from now on; call it when uvicorn has begun. False where it has not, or not in this thread."""
        if threading.current_thread() is not threading.main_thread():
            return False
        self._server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
        if not hasattr(self._server, "should_exit"):
            return False
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)
        return True

    def _on_signal(self, number: int, _: object) -> None:
        if self.has_begun:  # whoever asks twice does not want to wait
            # Not here: the main thread may hold the lock of the log.
            threading.Thread(target=self._end_now, args=(128 + number, "asked twice to stop"), daemon=True).start()
            return
        self.has_begun = True
        threading.Thread(target=self._stop, name="stop", daemon=True).start()

    def _stop(self) -> None:
        end = time.monotonic() + self._limit_s
        self._traffic.close()
        running = self._traffic.running()
        waits = f", {_listed(running)} get at most {self._limit_s:g} s" if running else ""
        logger.warning("stopping: no more requests are taken%s; stop again to end at once", waits)
        try:
            for told in self._end_jobs():
                logger.warning("ended with the server: %s", told)
        except Exception:
            logger.exception("background work could not be ended")
        while self._traffic.running():
            if time.monotonic() > end:
                self._end_now(0, f"the limit of {self._limit_s:g} s is over")
            time.sleep(_LOOK_S)
        self._close()
        self._server.should_exit = True
        end = time.monotonic() + _END_S
        while threading.main_thread().is_alive():  # it has more to do after uvicorn, such as to say that it has stopped
            if time.monotonic() > end:
                self._end_now(0, f"it did not end within {_END_S:g} s")
            time.sleep(_LOOK_S)
        _exit(0)  # without waiting for PyTorch to be unloaded, which takes seconds

    def _end_now(self, code: int, why: str) -> None:
        """End the process without waiting for any thread."""
        logger.warning("stopped: %s; %s", why, f"dropped: {_listed(self._traffic.running()) or 'nothing'}")
        try:
            for told in self._end_jobs():
                logger.warning("ended with the server: %s", told)
        finally:
            _exit(code)


def _exit(code: int) -> NoReturn:
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)


def _listed(running: dict[str, int]) -> str:
    return ", ".join(f"{count} x {name}" for name, count in sorted(running.items()))
