"""The way of labels to the PACS: each version that a person made is stored there as a DICOM SEG.

What waits is told by the ledger alone, so that nothing is lost when the PACS or the server is down. A SEG has the same
UIDs at every try and the PACS is asked for it before it is sent, so that it is stored once, whenever a server was
killed. Two servers may send at the same time.
"""

import logging
import threading
import time
from datetime import datetime

from pydicom.dataset import Dataset

from lib.dicom_seg.source import SourceSeries
from lib.dicom_seg.write import Provenance, write_seg
from lib.dicomweb.client import Pacs
from lib.errors import BadInputError, LiverLoopError, NotFoundError, StorageError, UnavailableError, frames_of
from lib.settings import Settings
from lib.store import images as image_rows
from lib.store import segs, version_files, versions
from lib.store.image_series import ImageSeries, source_of_image
from lib.store.layout import Layout
from lib.store.ledger import Ledger
from lib.store.meaning import meant
from lib.store.versions import Version

logger = logging.getLogger(__name__)

_LOOK_AGAIN_S = 60.0  # for what another process saved
_JOIN_S = 10.0


class SegOutbox:
    """Stores labels in the PACS, in a thread of its own between `start` and `stop`.

    Args:
        ledger: what is known.
        layout: where files lie.
        settings: our classes.
        pacs: where labels go.
        images: the series that were labelled.
        pause_s: until a PACS that can't be reached is tried again; it doubles up to `longest_pause_s`.
        longest_pause_s: see `pause_s`.
        refused_s: until a label that the PACS refused is sent again; five times longer after each further try, up to
            a day.
    """

    def __init__(
        self,
        ledger: Ledger,
        layout: Layout,
        settings: Settings,
        pacs: Pacs,
        images: ImageSeries,
        *,
        pause_s: float = 5.0,
        longest_pause_s: float = 300.0,
        refused_s: float = 60.0,
    ) -> None:
        self._ledger = ledger
        self._layout = layout
        self._settings = settings
        self._pacs = pacs
        self._images = images
        self._pause_s = pause_s
        self._longest_pause_s = longest_pause_s
        self._refused_s = refused_s
        self._done_up_to = 0  # key of a version; it and all before it are stored, or never will be
        self._woken = threading.Event()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        segs.note_pacs(ledger, pacs.name)

    def waiting(self) -> list[Version]:
        """The versions that are to be stored in the PACS and aren't yet, the oldest first."""
        with self._ledger.reading() as connection:
            return segs.versions_with(connection, [one.version_id for one in self._unsent() if not one.withdrawn])

    def push(self, limit: int = 100) -> int:
        """Store what waits and is due, the oldest first; a label that is refused doesn't keep the others from it.

        Args:
            limit: try at most so many.

        Returns:
            How many were stored.

        Raises:
            UnavailableError: the PACS or the ledger can't be reached; what was not stored still waits.
            StorageError: the disk or the ledger refused.
        """
        now = time.time()
        due = [one.version_id for one in self._unsent() if not one.withdrawn and (one.next_try_at or 0.0) <= now]
        with self._ledger.reading() as connection:
            chosen = segs.versions_with(connection, due[:limit])
        stored = 0
        for version in chosen:
            if self._stopped.is_set():
                break
            stored += self._try(version)
        return stored

    def seg_of(self, version: Version, source: SourceSeries) -> Dataset:
        """A version as DICOM SEG.

        Args:
            version: of an image's label.
            source: the image's series.

        Raises:
            BadInputError: the version's file is damaged, or series and label don't fit each other.
        """
        label = meant(version_files.verified(self._layout, version), version.info, self._settings)
        model_version = self._model_version(version)
        provenance = Provenance(
            f"LiverLoop {version.tag} v{version.number}",
            "SEMIAUTOMATIC" if model_version else "MANUAL",
            model_version=model_version or "",
            author=version.author,
            version=version.number,
            identity=segs.identity_of(version),
            made_at=datetime.fromtimestamp(version.saved_at),
        )
        return write_seg(label, source, self._settings.labels, provenance)

    def start(self) -> None:
        """Begin to store what waits, now and whenever `wake` is called."""
        if self._thread is None:
            self._stopped.clear()
            self._thread = threading.Thread(target=self._work, name="labels-to-pacs", daemon=True)
            self._thread.start()

    def wake(self) -> None:
        """A version was saved: store it soon. Returns at once."""
        self._woken.set()

    def stop(self) -> None:
        """End the thread; what it is just sending is waited for some seconds only, and sent again if need be."""
        self._stopped.set()
        self._woken.set()
        if self._thread is not None:
            self._thread.join(_JOIN_S)
            self._thread = None

    def _unsent(self) -> list[segs.Unsent]:
        with self._ledger.reading() as connection:
            last = versions.last_id(connection)
            found = segs.unsent(connection, self._done_up_to)
        self._done_up_to = min((one.version_id - 1 for one in found), default=last)
        return found

    def _try(self, version: Version, *, again: bool = False) -> bool:
        """Store one; False if it was refused, which is noted."""
        try:
            self._store(version)
        except UnavailableError as error:
            self._pacs.check()  # raises where it is not about this label
            return (
                self._refused(version, str(error)) if again else self._try(version, again=True)
            )  # it may be just back
        except (BadInputError, NotFoundError) as error:
            return self._refused(version, str(error))
        except LiverLoopError:
            raise
        except Exception as error:  # or one label would keep all others from the PACS
            logger.error(
                "version %d of %s can't be stored in the PACS: %s", version.number, version.image_id, frames_of(error)
            )
            return self._refused(version, f"an unexpected fault ({type(error).__name__}); look into the server's log")
        self._note_reachable(None)
        with self._ledger.writing() as connection:
            new = segs.note_sent(connection, version)
        if new:
            logger.info("version %d of %s is stored in the PACS", version.number, version.image_id)
        return True

    def _store(self, version: Version) -> None:
        study_uid = self._images.study_of(version.image_id)  # asks the PACS for a series that it has not listed yet
        # A SEG of a series that was deleted belongs to nothing, and would bring a patient back who is gone.
        with self._ledger.reading() as connection:
            is_there = image_rows.find(connection, version.image_id) is not None
        if is_there and self._pacs.has_instance(study_uid, *segs.uids_of(version)):
            return  # sent by a server that was killed before it could note it, or by another one
        if not is_there or self._pacs.series(study_uid, version.image_id) is None:
            msg = f"the PACS at {self._pacs.name} no longer has the series {version.image_id}; it was deleted or moved"
            raise NotFoundError(msg)
        self._pacs.store(self.seg_of(version, source_of_image(self._images, version.image_id)))

    def _refused(self, version: Version, reason: str) -> bool:
        with self._ledger.writing() as connection:
            new = segs.note_refused(connection, version, reason, self._refused_s, 5.0)
        if new:
            logger.warning("version %d of %s is not stored in the PACS: %s", version.number, version.image_id, reason)
        return False

    def _model_version(self, version: Version) -> str | None:
        """Of the model that a version started from, also where an old one was restored."""
        with self._ledger.reading() as connection:
            while version.model_version is None and version.restored_from is not None:
                version = versions.get(connection, version.image_id, version.tag, version.restored_from)
        return version.model_version

    def _work(self) -> None:
        failures = 0
        while not self._stopped.is_set():
            self._woken.clear()
            try:
                stored = self.push()
                failures = 0
                wait_s = 0.0 if stored else self._until_next()
            except (LiverLoopError, OSError) as error:
                failures += 1
                self._say(error)
            except Exception:
                failures += 1
                logger.exception("labels can't be stored in the PACS")
            if failures:
                wait_s = min(self._pause_s * 2 ** min(failures - 1, 20), self._longest_pause_s)
            self._woken.wait(wait_s)

    def _until_next(self) -> float:
        """Seconds until a label that was refused is to be tried again, or another process may have saved one."""
        times = [one.next_try_at for one in self._unsent() if not one.withdrawn and one.next_try_at is not None]
        return min(max(0.1, min(times, default=0.0) - time.time()) if times else _LOOK_AGAIN_S, _LOOK_AGAIN_S)

    def _say(self, error: Exception) -> None:
        try:
            self._note_reachable(str(error))
        except StorageError:  # the ledger's own trouble
            logger.warning("labels can't be stored in the PACS now: %s", error)

    def _note_reachable(self, problem: str | None) -> None:
        if not segs.note_reachable(self._ledger, problem):
            return
        if problem:
            logger.warning("labels wait for the PACS: %s", problem)
        else:
            logger.info("the PACS at %s can be reached again", self._pacs.name)
