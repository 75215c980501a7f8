"""Notice what comes and goes in a PACS while the server runs, in a thread of its own."""

import logging
import threading
import time
from collections.abc import Callable

from lib.dicomweb.client import Pacs
from lib.errors import LiverLoopError
from lib.store import pacs_listing
from lib.store.ledger import Ledger

logger = logging.getLogger(__name__)

_JOIN_S = 10.0


class _StoppedError(Exception):
    """The watching ends in the middle of a listing."""


class PacsWatch:
    """Lists the whole PACS from time to time, and between that, more often, the last days' studies.

    The first whole listing begins at the start. What goes wrong is logged, once while it lasts, and tried again.

    Args:
        ledger: what is known.
        pacs: which is asked.
        every_s: seconds from the end of one whole listing to the next.
        poll_s: seconds between two looks for new studies, and to the next try after a failure.
        on_walked: called after each whole listing.
        on_back: called when it can be listed again after a failure.
    """

    def __init__(
        self,
        ledger: Ledger,
        pacs: Pacs,
        *,
        every_s: float,
        poll_s: float,
        on_walked: Callable[[], object] = lambda: None,
        on_back: Callable[[], object] = lambda: None,
    ) -> None:
        self._ledger = ledger
        self._pacs = pacs
        self._every_s = every_s
        self._poll_s = poll_s
        self._on_walked = on_walked
        self._on_back = on_back
        self._walk_at = 0.0  # by the monotonic clock
        self._poll_at = 0.0
        self._wake = threading.Condition()
        self._stopped = False
        self._worker: threading.Thread | None = None
        self._said: str | None = None  # what the log told of the failure that lasts

    def start(self) -> None:
        """Begin; does nothing where it has begun."""
        if self._worker is not None:
            return
        self._stopped = False
        self._walk_at = time.monotonic()
        self._poll_at = self._walk_at + self._poll_s
        self._worker = threading.Thread(target=self._work, name="list-pacs", daemon=True)
        self._worker.start()

    def stop(self) -> None:
        """End; a request to the PACS that has begun is waited for some seconds only."""
        with self._wake:
            self._stopped = True
            self._wake.notify()
        if self._worker is not None:
            self._worker.join(_JOIN_S)
            self._worker = None

    def walk_soon(self) -> None:
        """List the whole PACS now, unless that goes on already."""
        with self._wake:
            self._walk_at = time.monotonic()
            self._wake.notify()

    def _work(self) -> None:
        while self._wait():
            whole = self._walk_at <= time.monotonic()
            try:
                if whole:
                    self._walk()
                else:
                    self._poll()
            except _StoppedError:
                return
            except Exception as error:
                self._poll_at = time.monotonic() + self._poll_s
                if whole:
                    self._walk_at = self._poll_at
                self._say(error)
            else:
                self._say(None)

    def _wait(self) -> bool:
        """Until something is due; False at the end."""
        with self._wake:
            while not self._stopped:
                wait = min(self._walk_at, self._poll_at) - time.monotonic()
                if wait <= 0:
                    return True
                self._wake.wait(wait)
        return False

    def _walk(self) -> None:
        begun = time.monotonic()
        with self._wake:
            self._walk_at = float("inf")
        count = pacs_listing.walk(self._ledger, self._pacs, self._between_pages)
        with self._wake:
            self._walk_at = min(self._walk_at, time.monotonic() + self._every_s)
        logger.info("the PACS at %s lists %d CT series, in %.1f s", self._pacs.name, count, time.monotonic() - begun)
        self._on_walked()

    def _between_pages(self, _: int) -> None:
        """New studies are not kept waiting by the listing of old ones."""
        if self._stopped:
            raise _StoppedError
        if self._poll_at <= time.monotonic():
            self._poll()

    def _poll(self) -> None:
        pacs_listing.poll(self._ledger, self._pacs)
        self._poll_at = time.monotonic() + self._poll_s

    def _say(self, error: Exception | None) -> None:
        if error is None:
            if self._said is not None:
                logger.info("the PACS at %s can be listed again", self._pacs.name)
                self._on_back()
            self._said = None
        elif not isinstance(error, LiverLoopError):
            logger.exception("listing the PACS at %s failed", self._pacs.name, exc_info=error)
            self._said = type(error).__name__
        elif self._said != str(error):
            self._said = str(error)
            logger.warning("the PACS can't be listed now; it is asked again every %.0f s: %s", self._poll_s, error)
