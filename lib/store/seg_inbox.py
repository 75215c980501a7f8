"""The way of labels from the PACS: SEGs that other programs stored there become versions.

Each SEG is taken in once, however many servers look: its row and its version are added in one transaction. What can't
be taken in is noted and told once.
"""

import logging
import tempfile
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from sqlalchemy import Connection

from lib.dicom_seg.source import UNREADABLE
from lib.dicomweb.answers import Series
from lib.dicomweb.client import Pacs
from lib.errors import BadInputError, LiverLoopError, NotFoundError, UnavailableError, frames_of
from lib.settings import Settings
from lib.store import events, segs, versions
from lib.store import images as image_rows
from lib.store.image_series import ImageSeries
from lib.store.label_store import Noting, OvertakenError
from lib.store.layout import STORED
from lib.store.ledger import Ledger
from lib.store.seg_authors import SegAuthors
from lib.store.seg_label import SEG, content_time, label_of
from lib.store.seg_matching import SegMatching, UnusableSegError
from lib.store.versions import Version
from lib.volume_io import write_label

logger = logging.getLogger(__name__)

MODALITY = "SEG"
SOURCE = "pacs"  # of versions that were SEGs
_LATER_S = 3600.0  # until what may be usable one day is looked at again
_PAGE = 50
_MOST_BYTES = 1 << 30  # of a SEG, which is read into memory as a whole
_MOST_STUDIES = 1000  # whose last look is remembered


class LabelTaker(Protocol):
    """A store, as far as taking in SEGs needs it."""

    settings: Settings
    ledger: Ledger

    def save(
        self,
        image_id: str,
        path: str | Path,
        tag: str,
        info: Mapping[str, Any] | None = None,
        *,
        author: str,
        source: str = "client",
        noting: Noting | None = None,
    ) -> Version:
        """See `lib.store.store.Store.save`."""


@dataclass
class _Study:
    """When a study was last looked at; who looks, holds the lock."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    at: float = float("-inf")


@dataclass(frozen=True)
class _Found:
    """A SEG that was fetched.

    Args:
        path: its file.
        study_uid: where it lies in the PACS, as the next two.
        series_uid: of the SEG.
        sop_uid: of the SEG.
        made: for its place among others, see `content_time`.
    """

    path: Path
    study_uid: str
    series_uid: str
    sop_uid: str
    made: tuple[str, str]


class SegInbox:
    """Looks for SEGs of other programs and saves them as versions.

    Args:
        store: where labels are kept.
        pacs: where SEGs are.
        images: the series that they were made for.
        on_version: called with each new version, after it was saved.
        every_s: a study is asked for at most once in so many seconds.
        quiet_s: after the PACS could not be reached, `look` does not ask it for so many seconds, so that requests
            don't wait for it.
        patience_s: `look` waits for so long while a study is looked at already, for which an image may be fetched.
    """

    def __init__(
        self,
        store: LabelTaker,
        pacs: Pacs,
        images: ImageSeries,
        on_version: Callable[[Version], object] | None = None,
        *,
        every_s: float = 2.0,
        quiet_s: float = 15.0,
        patience_s: float = 10.0,
    ) -> None:
        self._store = store
        self._pacs = pacs
        self._impatient = Pacs(replace(pacs.settings, retries=0)) if pacs.settings.retries else pacs  # somebody waits
        self._images = images
        self._on_version = on_version
        self._every_s = every_s
        self._quiet_s = quiet_s
        self._patience_s = patience_s
        self._quiet_until = 0.0
        self._studies: OrderedDict[str, _Study] = OrderedDict()
        self._studies_lock = threading.Lock()
        self.authors = SegAuthors()
        self._matching = SegMatching(store.ledger, store.settings, pacs, images)
        segs.note_pacs(store.ledger, pacs.name)

    def look(self, image_id: str) -> list[Version]:
        """Take in what the PACS has for an image now, before somebody works on it. Never raises what is ours.

        SEGs of other images of the same study are taken in as well where that needs no fetching of an image.

        Args:
            image_id: a series of the PACS.

        Returns:
            The new versions, by the time when their SEGs were made.
        """
        if time.monotonic() < self._quiet_until:
            return []
        try:
            study_uid = self._images.study_of(image_id)
            with self._turn(study_uid) as is_due:
                if not is_due:
                    return []
                listed = list(self._listed_in(study_uid, self._impatient))
                return self._take_in(study_uid, listed, image_id)
        except UnavailableError as error:
            self._quiet_until = time.monotonic() + self._quiet_s
            logger.warning("SEGs of %s can't be looked for now: %s", image_id, error)
        except NotFoundError:  # the series was deleted, which is told to whoever wants it
            return []
        except (LiverLoopError, OSError) as error:
            logger.warning("SEGs of %r can't be looked for: %s", image_id[:80], error)  # anybody can ask for anything
        return []

    def look_through(self, listed: Iterable[Series] | None = None) -> list[Version]:
        """Take in what is new among all SEGs of the PACS; images that they are of are fetched.

        Args:
            listed: series as the PACS lists them, such as those of the last days; None: all. Page by page they are
                asked for as they are used up.

        Raises:
            UnavailableError: the PACS or the ledger can't be reached.
            StorageError: the disk refused.
        """
        found: list[Version] = []
        remaining = iter(self._pacs.find_series(MODALITY) if listed is None else listed)
        while page := list(islice(remaining, _PAGE)):
            new = self._not_done([one for one in page if one.modality == MODALITY])
            for study_uid in dict.fromkeys(one.study_uid for one in new):
                with self._turn(study_uid, at_once=True):
                    # All of the study, also those on other pages, as the oldest comes first.
                    found += self._take_in(study_uid, list(self._listed_in(study_uid, self._pacs)), None)
        return found

    def look_at_study(self, study_uid: str) -> list[Version]:
        """`look_through` one study at once, such as when something has just been stored in it."""
        return self.look_through(self._listed_in(study_uid, self._pacs))

    @staticmethod
    def _listed_in(study_uid: str, pacs: Pacs) -> Iterator[Series]:
        try:
            for one in pacs.find_series(MODALITY, study_uid=study_uid):
                if one.modality == MODALITY:
                    yield one
        except NotFoundError:  # so do some PACS answer for a study without SEGs
            return

    @contextmanager
    def _turn(self, study_uid: str, *, at_once: bool = False) -> Iterator[bool]:
        """Be the only one here who looks at a study; whether it is time to."""
        with self._studies_lock:
            study = self._studies.setdefault(study_uid, _Study())
            self._studies.move_to_end(study_uid)
            while len(self._studies) > _MOST_STUDIES:
                self._studies.popitem(last=False)
        if not study.lock.acquire(timeout=-1 if at_once else self._patience_s):
            yield False
            return
        try:
            is_due = at_once or time.monotonic() >= study.at + self._every_s
            try:
                yield is_due
            finally:
                if is_due:
                    study.at = time.monotonic()
        finally:
            study.lock.release()

    def _not_done(self, listed: Sequence[Series]) -> list[Series]:
        """Those series, in studies with images of ours, of which the PACS has more or fewer SEGs than are done with."""
        ours = self._images.studies_with_images({one.study_uid for one in listed})
        with self._store.ledger.reading() as connection:
            rows = list(segs.of_series(connection, [one.series_uid for one in listed]).values())
            done = [row.series_uid for row in rows if not self._is_due(connection, row, None)]
        counts = Counter(done)
        return [one for one in listed if one.study_uid in ours and counts[one.series_uid] != one.instances]

    def _is_due(self, connection: Connection, row: segs.Seg, image_id: str | None) -> bool:
        """Whether a SEG that is known is to be looked at again: it was to wait, or its image is here by now."""
        if row.next_try_at is None:
            return False
        if row.next_try_at <= time.time():
            return True
        wanted = image_id is None or image_id == row.image_id
        return wanted and bool(row.image_id) and image_rows.find(connection, row.image_id) is not None

    def _take_in(self, study_uid: str, listed: Sequence[Series], image_id: str | None) -> list[Version]:
        """Take in what is new in SEG series of one study, the oldest first."""
        taken_in = []
        with tempfile.TemporaryDirectory(prefix="liverloop-seg-") as folder:
            fetched: list[_Found] = []
            for number, series in enumerate(listed):
                fetched += self._fetch(study_uid, series, image_id, Path(folder) / str(number))
            for found in sorted(fetched, key=lambda one: (one.made, one.sop_uid)):
                try:
                    version = self._take_in_one(found, image_id)
                except OvertakenError:  # another server was first
                    continue
                except UnusableSegError as unusable:
                    self._note(found, unusable)
                    continue
                except (BadInputError, NotFoundError) as error:
                    self._note(found, UnusableSegError(str(error), ""))
                    continue
                except UnavailableError as error:
                    self._pacs.check()  # raises where it is not about this SEG or its image
                    self._note(found, UnusableSegError(str(error), "", later=True))
                    continue
                except LiverLoopError:
                    raise
                except Exception as error:  # or one SEG would keep all others out
                    logger.error("the SEG %s can't be taken in: %s", found.sop_uid, frames_of(error))
                    self._note(found, UnusableSegError(_fault(error), "", later=True))
                    continue
                if version is not None:
                    taken_in.append(version)
                    if self._on_version is not None:
                        self._on_version(version)
        return taken_in

    def _fetch(self, study_uid: str, series: Series, image_id: str | None, folder: Path) -> list[_Found]:
        """Those SEGs of a series that are new, as files."""
        new = self._new_in(study_uid, series, image_id)
        if not new:
            return []
        folder.mkdir()
        try:
            self._pacs.fetch(study_uid, series.series_uid, folder)
        except NotFoundError:  # deleted meanwhile
            return []
        except UnavailableError as error:
            self._pacs.check()  # raises where it is not about this series
            self._note_unfetched(study_uid, series, new, str(error))
            return []
        except (LiverLoopError, OSError):
            raise
        except Exception as error:  # or one series would keep all others out
            logger.error("the SEG series %s can't be fetched: %s", series.series_uid, frames_of(error))
            self._note_unfetched(study_uid, series, new, _fault(error))
            return []
        return [
            _Found(path, study_uid, series.series_uid, sop_uid, _made(path))
            for sop_uid in new
            if (path := folder / f"{sop_uid}.dcm").is_file()
        ]

    def _note_unfetched(self, study_uid: str, series: Series, sop_uids: Iterable[str], reason: str) -> None:
        for sop_uid in sop_uids:
            found = _Found(Path(), study_uid, series.series_uid, sop_uid, ("", ""))
            self._note(found, UnusableSegError(reason, "", later=True))

    def _new_in(self, study_uid: str, series: Series, image_id: str | None) -> list[str]:
        """SOP Instance UIDs of a SEG series that are to be looked at."""
        with self._store.ledger.reading() as connection:
            rows = segs.of_series(connection, [series.series_uid])
        ours = [row for row in rows.values() if row.direction == segs.SENT]
        if len(ours) == len(rows) == series.instances:
            return []  # as we stored it; others are asked for, as some viewers replace the one SEG of a series
        try:
            sop_uids = self._pacs.instances(study_uid, series.series_uid)
        except NotFoundError:  # deleted meanwhile
            return []
        with self._store.ledger.reading() as connection:
            known = segs.known(connection, sop_uids)
            return [uid for uid in sop_uids if uid not in known or self._is_due(connection, known[uid], image_id)]

    def _take_in_one(self, found: _Found, image_id: str | None) -> Version | None:
        """Save a SEG as a version; None where it is ours, or was saved before."""
        dataset = _read(found.path)
        candidates = self._matching.candidates(dataset, found.study_uid)
        own = self._matching.own_version(found.sop_uid, candidates)
        if own is not None:
            with self._store.ledger.writing() as connection:
                segs.note_sent(connection, own)
            return None
        if image_id is not None:
            self._matching.check_is_here([one for one in candidates if one != image_id])
        chosen, seg = self._matching.read_for(dataset, candidates)
        try:
            label = label_of(seg, dataset, self._store.settings.labels)
            with self._store.ledger.reading() as connection:
                if self._noted_before(connection, found, chosen):
                    return None
            info = {**label.info, SEG: {**label.info[SEG], "study_uid": found.study_uid}}
            path = found.path.with_name(f"{found.sop_uid}{STORED}")
            write_label(path, label.volume)
            noting = partial(self._note_version, found)
            author = self.authors.of(found.sop_uid) or label.author
            version = self._store.save(chosen, path, label.tag, info, author=author, source=SOURCE, noting=noting)
        except (BadInputError, NotFoundError) as error:
            raise UnusableSegError(str(error), chosen, later=isinstance(error, NotFoundError)) from error
        if notes := label.info[SEG]["notes"]:  # which quote what another program wrote into it
            logger.info("the SEG %s of %s has %d notes, see its version", found.sop_uid, chosen, len(notes))
        return version

    def _noted_before(self, connection: Connection, found: _Found, image_id: str) -> bool:
        """Whether a version was made from it whose row is gone, as in a ledger that was made from an archive."""
        changes = events.history(connection, image_id, kind="image changed", limit=1)
        for version in versions.history(connection, image_id):
            if changes and version.saved_at < changes[0].at:  # of what the image was then
                break
            seg = version.info.get(SEG)
            if version.source == SOURCE and isinstance(seg, Mapping) and seg.get("sop_uid") == found.sop_uid:
                with self._store.ledger.writing() as writing:
                    segs.note_taken_in(writing, found.sop_uid, found.series_uid, version)
                return True
        return False

    @staticmethod
    def _note_version(found: _Found, connection: Connection, version: Version) -> None:
        if not segs.note_taken_in(connection, found.sop_uid, found.series_uid, version):
            raise OvertakenError

    def _note(self, found: _Found, unusable: UnusableSegError) -> None:
        wait_s = _LATER_S if unusable.later else None
        with self._store.ledger.writing() as connection:
            new = segs.note_not_taken_in(
                connection, found.sop_uid, found.series_uid, unusable.image_id, unusable.reason, wait_s
            )
        if new:
            # The reason may quote what another program wrote into it.
            logger.warning("the SEG %s is not taken in; the reason is in the ledger's events", found.sop_uid)


def _fault(error: Exception) -> str:
    return f"an unexpected fault ({type(error).__name__}); look into the server's log"


def _read(path: Path) -> Dataset:
    if path.stat().st_size > _MOST_BYTES:
        msg = f"the SEG has {path.stat().st_size / 2**30:.1f} GiB; store each structure as a SEG of its own"
        raise BadInputError(msg)
    try:
        return pydicom.dcmread(path)
    except (*UNREADABLE, InvalidDicomError) as error:
        msg = f"the SEG is damaged ({type(error).__name__}); store it again"
        raise BadInputError(msg) from error


def _made(path: Path) -> tuple[str, str]:
    try:
        return content_time(pydicom.dcmread(path, stop_before_pixels=True))
    except (*UNREADABLE, InvalidDicomError):  # told when it is read
        return "", ""
