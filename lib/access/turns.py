"""Turns at something costly: some at once, some more wait, and whoever comes then is refused without waiting.

Each who waits keeps a thread of the server: without a limit a few dozen logins at once, which need no password, would
stop everybody's requests.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from lib.errors import TooManyLoginsError

_RETRY_S = 5


class Turns:
    """Turns at comparing passwords. Safe for many threads.

    Args:
        at_once: so many.
        waiting: so many more may wait.
        wait_s: for so long.
    """

    def __init__(self, at_once: int, waiting: int, wait_s: float = 20.0) -> None:
        self.wait_s = wait_s
        self._running = threading.BoundedSemaphore(at_once)
        self._places = threading.BoundedSemaphore(at_once + waiting)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """One turn.

        Raises:
            TooManyLoginsError: too many wait already, or it took too long.
        """
        with _acquired(self._places, 0), _acquired(self._running, self.wait_s):
            yield


@contextmanager
def _acquired(semaphore: threading.BoundedSemaphore, wait_s: float) -> Iterator[None]:
    if not semaphore.acquire(timeout=wait_s):
        msg = f"too many people log in at this moment; try again in {_RETRY_S} s"
        raise TooManyLoginsError(msg, _RETRY_S)
    try:
        yield
    finally:
        semaphore.release()
