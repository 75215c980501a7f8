"""Labels to a PACS and back while a server runs: what `seg_outbox` and `seg_inbox` do, at the right time."""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from datetime import date, timedelta
from typing import Protocol

from lib.dicomweb.answers import Series
from lib.dicomweb.client import Pacs
from lib.errors import LiverLoopError
from lib.store import images as image_rows
from lib.store import leases
from lib.store.image_series import ImageSeries
from lib.store.layout import Layout
from lib.store.seg_inbox import MODALITY, LabelTaker, SegInbox
from lib.store.seg_outbox import SegOutbox
from lib.store.versions import Version

logger = logging.getLogger(__name__)

_NEW_DAYS = 3  # studies of so many days are looked at between two looks through the whole PACS
_RECENT_S, _MOST_RECENT = 3600.0, 50  # images that somebody has asked for, whose studies are looked at again
_PAUSE_S, _QUIET_S = 5.0, 15.0  # after the PACS could not be reached, unless it is polled more often; see both classes
_JOIN_S = 10.0


class _StudiesFolder(LabelTaker, Protocol):
    layout: Layout


class SegExchange:
    """Sends labels, and takes SEGs in: of an image when it is asked for, of those in use, of all from time to time.

    Args:
        store: where labels are kept.
        pacs: the PACS.
        images: its series.
        on_version: called with each version that a SEG became, in whatever thread.
        poll_s: seconds between two looks at the studies of images that are in use, and at new studies.
        walk_s: seconds from the end of one look through the whole PACS to the next; the first begins at the start.
    """

    def __init__(
        self,
        store: _StudiesFolder,
        pacs: Pacs,
        images: ImageSeries,
        on_version: Callable[[Version], object] | None = None,
        *,
        poll_s: float,
        walk_s: float,
    ) -> None:
        pause_s, quiet_s = min(_PAUSE_S, poll_s), min(_QUIET_S, poll_s)
        self.outbox = SegOutbox(store.ledger, store.layout, store.settings, pacs, images, pause_s=pause_s)
        self.inbox = SegInbox(store, pacs, images, on_version, quiet_s=quiet_s)
        self._ledger = store.ledger
        self._pacs = pacs
        self._poll_s = poll_s
        self._walk_s = walk_s
        self._recent: OrderedDict[str, float] = OrderedDict()  # when each image was asked for, the latest last
        self._asked_for: dict[str, None] = {}  # images that are to be looked at soon, in order
        self._recent_lock = threading.Lock()  # of both
        self._asked = threading.Event()
        self._walk_soon = threading.Event()
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self._said: dict[str, str | None] = {}

    def look(self, image_id: str) -> list[Version]:
        """Take in what the PACS has for an image that somebody asks for; see `SegInbox.look`."""
        found = self.inbox.look(image_id)
        self._note_use(image_id)
        return found

    def look_soon(self, image_id: str) -> None:
        """The same in the background, where nobody needs to wait for it. Returns at once."""
        self._note_use(image_id)
        with self._recent_lock:
            self._asked_for[image_id] = None
        self._asked.set()

    def look_at_study(self, study_uid: str, authors: Mapping[str, str]) -> list[Version]:
        """Take in what somebody has just stored in a study; see `SegInbox.look_at_study`.

        Args:
            study_uid: of the study.
            authors: who did, by SOP Instance UIDs, where that is known.
        """
        self.inbox.authors.note(authors)
        return self.inbox.look_at_study(study_uid)

    def wake(self) -> None:
        """A label was saved: send it soon. Returns at once."""
        self.outbox.wake()

    def look_through_soon(self) -> None:
        """Look through the whole PACS now, such as when its images have been listed."""
        self._walk_soon.set()

    def start(self) -> None:
        """Begin; does nothing where it has begun."""
        if self._threads:
            return
        self._stopped.clear()
        self.outbox.start()
        for name, work in (("segs-in-use", self._poll), ("segs-of-all", self._walk)):
            thread = threading.Thread(target=self._work, args=(name, work), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """End; what has begun is waited for some seconds only."""
        self._stopped.set()
        self._walk_soon.set()
        self._asked.set()
        self.outbox.stop()
        for thread in self._threads:
            thread.join(_JOIN_S)
        self._threads.clear()

    def _work(self, name: str, work: Callable[[], None]) -> None:
        while not self._stopped.is_set():
            try:
                work()
            except (LiverLoopError, OSError) as error:
                self._say(name, error)
                self._stopped.wait(self._poll_s)
            except Exception:
                logger.exception("SEGs of the PACS can't be looked for")
                self._stopped.wait(self._poll_s)
            else:
                self._said[name] = None

    def _poll(self) -> None:
        end = time.monotonic() + self._poll_s
        while (wait_s := end - time.monotonic()) > 0 and not self._stopped.is_set():
            self._asked.wait(wait_s)
            self._asked.clear()
            with self._recent_lock:
                asked_for, self._asked_for = self._asked_for, {}
            for image_id in asked_for:
                self.inbox.look(image_id)
        for image_id in self._in_use():
            if self._stopped.is_set():
                return
            self.inbox.look(image_id)
        first = date.today() - timedelta(days=_NEW_DAYS)
        self.inbox.look_through(self._until_stopped(first))

    def _walk(self) -> None:
        self._walk_soon.clear()
        self.inbox.look_through(self._until_stopped(None))
        if not self._stopped.is_set():  # or the end would be waited for that `clear` has just undone
            self._walk_soon.wait(self._walk_s)

    def _until_stopped(self, first_date: date | None) -> Iterator[Series]:
        for one in self._pacs.find_series(MODALITY, first_date=first_date):
            if self._stopped.is_set():
                return
            yield one

    def _note_use(self, image_id: str) -> None:
        with self._ledger.reading() as connection:
            if image_rows.find(connection, image_id) is None:  # anybody can ask for anything
                return
        with self._recent_lock:
            self._recent[image_id] = time.monotonic()
            self._recent.move_to_end(image_id)
            while len(self._recent) > _MOST_RECENT:
                self._recent.popitem(last=False)

    def _in_use(self) -> list[str]:
        """Images that somebody has in hand or has asked for lately."""
        since = time.monotonic() - _RECENT_S
        with self._recent_lock:
            recent = [image_id for image_id, at in self._recent.items() if at > since]
        with self._ledger.reading() as connection:
            held = [lease.image_id for lease in leases.list_all(connection)]
        return list(dict.fromkeys([*held, *recent]))

    def _say(self, name: str, error: Exception) -> None:
        """Once while it lasts."""
        if self._said.get(name) != str(error):
            self._said[name] = str(error)
            logger.warning("SEGs of the PACS can't be looked for now: %s", error)
