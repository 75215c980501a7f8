"""Who stored which SEG through this server, which the SEG itself does not tell: a viewer has no name for its user."""

import threading
from collections import OrderedDict
from collections.abc import Mapping

_MOST = 10_000


class SegAuthors:
    """Remembered in this process's memory, as a SEG is taken in within seconds. Safe for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[str, str] = OrderedDict()

    def note(self, authors: Mapping[str, str]) -> None:
        """Users by the SOP Instance UIDs of what they stored."""
        with self._lock:
            self._known.update(authors)
            while len(self._known) > _MOST:
                self._known.popitem(last=False)

    def of(self, sop_uid: str) -> str:
        """The user who stored it; empty where nobody logged in, or it came on another way."""
        with self._lock:
            return self._known.get(sop_uid, "")
