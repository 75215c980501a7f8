"""Images that were just handed out, for the one part of 3D Slicer that can't send a login along.

Its MONAI Label module lets the Sample Data module download the image, by address alone. So who asked for the next image
with a login may fetch just this image without one: from the same address, by the same name of the server, for a few
minutes, a few times, while the login counts.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

SECONDS = 300.0
TIMES = 3  # so often Sample Data tries to load what it downloads
_MOST = 10_000


class HandedOut:
    """Remembers who may fetch what, in this process's memory. Safe for many threads.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, str, str], tuple[str, float, int]] = OrderedDict()

    def note(self, image_id: str, address: str, host: str, token: str) -> None:
        """An image was given to somebody who is logged in.

        Args:
            image_id: of the image.
            address: where they are.
            host: what they call the server: a page that gives its own name our address would call it otherwise.
            token: of their login.
        """
        with self._lock:
            self._known.pop((address, host, image_id), None)
            self._known[address, host, image_id] = (token, self._clock() + SECONDS, TIMES)
            if len(self._known) > _MOST:
                self._known.popitem(last=False)

    def take(self, image_id: str, address: str, host: str) -> str | None:
        """The token of who was given this image there; None: nobody, too long ago, or it was fetched too often."""
        with self._lock:
            token, until, left = self._known.pop((address, host, image_id), ("", 0.0, 0))
            if not token or self._clock() >= until:
                return None
            if left > 1:
                self._known[address, host, image_id] = (token, until, left - 1)
            return token
