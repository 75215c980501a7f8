"""Images that are series of a PACS: fetched when they are needed, checked, and kept as volumes in a bounded folder."""

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, null, select, update

from lib.dicom.series import read_geometry, read_voxels
from lib.dicom_seg.source import SourceSeries
from lib.dicomweb.answers import is_uid
from lib.dicomweb.client import Pacs
from lib.errors import BadInputError, LiverLoopError, NotFoundError, UnavailableError
from lib.files import file_sha256
from lib.settings import PacsStoreSettings
from lib.store import images, inspection, leases, pacs_listing, segs, trainings, versions
from lib.store.image_files import Progress
from lib.store.images import FileState, Image
from lib.store.inspection import Inspection, fingerprint_of
from lib.store.layout import STORED, Layout
from lib.store.ledger import Ledger
from lib.store.pacs_asking import Objects, PacsAsking
from lib.store.pacs_cache import PacsCache
from lib.store.pacs_headers import read_source, write_headers
from lib.store.pacs_watch import PacsWatch
from lib.store.scan import Changes, scan
from lib.store.schema import images as images_table
from lib.store.schema import series as series_table
from lib.volume import Grid
from lib.volume_io import as_image, read_image, write_image

logger = logging.getLogger(__name__)

_TELL_EVERY_S = 10.0  # progress in the log
_AT_ONCE = 2  # series that are made volumes; a long one takes a gigabyte meanwhile
_GIGA = 10**9


@dataclass(frozen=True)
class _Known:
    """An image with what is known of its series; `key` of the objects that its volume was made of."""

    image: Image
    study_uid: str
    key: str | None


class PacsImages:
    """The CT series of a PACS; see `lib.store.image_files.ImageFiles` for what its methods raise.

    Args:
        ledger: what is known.
        layout: of the working folder.
        settings: section `pacs` of `app.yaml`.
        pacs: which has the images.
        rescan_s: seconds from the end of one listing of the whole PACS to the next.
        in_use_s: see `PacsCache`; None: as there.
        on_listed: called after each listing of the whole PACS.
        on_back: called when the PACS can be listed again after a failure.
    """

    in_folder = False

    def __init__(
        self,
        ledger: Ledger,
        layout: Layout,
        settings: PacsStoreSettings,
        pacs: Pacs,
        rescan_s: float,
        in_use_s: float | None = None,
        on_listed: Callable[[], object] = lambda: None,
        on_back: Callable[[], object] = lambda: None,
    ) -> None:
        self.pacs = pacs
        self._asking = PacsAsking(pacs, settings.poll_seconds)
        self._ledger = ledger
        self._layout = layout
        most = int(settings.cache_gb * _GIGA)
        self._cache = PacsCache(layout, most) if in_use_s is None else PacsCache(layout, most, in_use_s)
        self._watch = PacsWatch(
            ledger, pacs, every_s=rescan_s, poll_s=settings.poll_seconds, on_walked=on_listed, on_back=on_back
        )
        self._converting = threading.BoundedSemaphore(_AT_ONCE)

    def path(self, image_id: str) -> Path:
        """The image's volume as the PACS has the series now, fetched if it is not here.

        While the PACS can't be reached, a volume that was fetched is given as it is.

        Raises:
            NotFoundError: the PACS has no such series, or it is no CT.
            UnavailableError: it can't be reached, and the image was never fetched or is no longer here.
            BadInputError: the series makes no volume; the reason is noted.
            StorageError: the disk is full; nothing of the series is left on it.
        """
        return self._given(image_id, {image_id})

    def _given(self, image_id: str, keep: Collection[str]) -> Path:
        """`path`; where something is fetched, no volume of `keep` is removed for it."""
        known = self._known(image_id)
        path = self._layout.image(image_id, STORED)
        self._cache.use(path)  # before it is looked at: from now on nobody removes it
        is_here = known.key is not None and known.image.grid is not None and known.image.file.is_of(path)
        was_down = self._asking.was_down
        try:
            if is_here and self._asking.seem_unchanged(known.study_uid, image_id, str(known.key)):
                self._cache.use(path)
                return path
            # With less patience where there is something to give without it.
            found = self._asking.objects(known.study_uid, image_id, patient=not is_here)
        except UnavailableError as error:
            if not is_here:
                raise
            level = logging.DEBUG if was_down else logging.WARNING  # once while it lasts
            logger.log(level, "the image %s is given as it was fetched: %s", image_id, error)
            self._cache.use(path)
            return path
        except NotFoundError:
            pacs_listing.note_gone(self._ledger, [image_id])
            raise self._gone(image_id) from None
        if not (is_here and known.key == found.key):
            _refuse_unreadable(known, found)
            with self._cache.locked(image_id):
                known = self._known(image_id)
                if known.key != found.key or known.image.grid is None or not known.image.file.is_of(path):
                    _refuse_unreadable(known, found)
                    self._fetch(known, found)
            self.trim(keep)
        self._cache.use(path)
        self._asking.note(image_id, found)
        return path

    def paths(self, found: Sequence[tuple[str, str]]) -> Mapping[str, Path]:
        """The volumes of many images, for a training, fetched where they are not here.

        Those that can't be had are left out and logged.
        """
        paths: dict[str, Path] = {}
        wanted = {image_id for image_id, _ in found}  # the first is still needed when the last has been fetched
        told = time.monotonic()
        for number, (image_id, _) in enumerate(found):
            if time.monotonic() - told > _TELL_EVERY_S:
                told = time.monotonic()
                logger.info("fetching labelled images from the PACS: %d of %d", number, len(found))
            try:
                paths[image_id] = self._given(image_id, wanted)
            except LiverLoopError as error:
                logger.warning("the image %s is left out: %s", image_id, error)
        return paths

    def grid(self, image_id: str) -> Grid:
        """Where the voxels of an image lie, without asking the PACS where that is known."""
        known = self._known(image_id)
        if known.image.grid is not None:
            return known.image.grid
        self.path(image_id)
        grid = self._known(image_id).image.grid
        assert grid is not None  # or `path` had raised
        return grid

    def source(self, image_id: str) -> SourceSeries:
        """The headers of the image's series as its volume was made of them, from the disk where they are there."""
        checked = self._known(image_id).image.image_id
        try:
            return read_source(self._cache.headers(checked))
        except FileNotFoundError:
            self._forget(checked)
            self.path(checked)
        return read_source(self._cache.headers(checked))

    def study_of(self, image_id: str) -> str:
        """Study Instance UID of an image."""
        return self._known(image_id).study_uid

    def studies_with_images(self, study_uids: Collection[str]) -> set[str]:
        """Those of these studies that hold an image, by the ledger."""
        with self._ledger.reading() as connection:
            return pacs_listing.studies_with_images(connection, study_uids)

    def is_here(self, image_id: str) -> bool:
        """Whether the headers of an image are on the disk, so that `source` needs no PACS."""
        return is_uid(image_id) and self._cache.headers(image_id).is_file()

    def ensure_fit(self, image_id: str) -> str | None:
        """Fetch an image that is to be handed out; why it can't be, None if it can.

        Raises:
            UnavailableError: the PACS can't be reached.
            StorageError: disk or ledger refused.
        """
        try:
            self.path(image_id)
        except (BadInputError, NotFoundError) as error:
            return str(error)
        return self._known(image_id).image.problem

    def is_at_hand(self, image_id: str) -> bool:
        """Whether an image's volume is on the disk, so that it can be given while the PACS is down."""
        return self._layout.image(image_id, STORED).is_file()

    def can_be_asked(self) -> bool:
        """Whether the PACS answers at all now, so that a failure is of one series alone."""
        return self._asking.can_be_asked()

    def note_if_unreadable(self, image_id: str) -> str | None:
        """Have a volume that can't be read fetched again; the series itself was decoded when it was fetched."""
        known = self._in_ledger(image_id)
        path = self._layout.image(image_id, STORED)
        if known is not None and path.is_file():
            try:
                read_image(path)
            except BadInputError as error:
                logger.warning("the image %s is fetched again: %s", image_id, error)
                self._forget(image_id)
        return None

    def look(self, progress: Progress | None = None) -> Changes:
        """Look through the labels of the working folder; `walk` and the background list the PACS."""
        return scan(self._ledger, self._layout, progress=progress, of_images=False)

    def walk(self, progress: Progress | None = None) -> int:
        """List the whole PACS now, see `lib.store.pacs_listing.walk`; minutes where it is large."""
        return pacs_listing.walk(self._ledger, self.pacs, progress)

    def list_soon(self) -> None:
        """Have the whole PACS listed in the background now."""
        self._watch.walk_soon()

    def watch(self) -> None:
        """List the PACS in the background, whole and for new studies."""
        self.trim()  # the bound may be another one since the last start
        self._watch.start()

    def stop(self) -> None:
        """End that."""
        self._watch.stop()

    def trim(self, keep: Collection[str] = ()) -> None:
        """Remove the longest unused volumes beyond what the folder may hold.

        Never those that somebody has in hand, nor, while a training runs, labelled ones.
        """
        with self._ledger.reading() as connection:
            kept = {*keep, *(lease.image_id for lease in leases.list_all(connection))}
            if trainings.running(connection, time.time()):
                query = select(images_table.c.image_id).where(images_table.c.labelled, images_table.c.size > 0)
                kept.update(connection.scalars(query))
        surplus = self._cache.trim(kept)
        if surplus:
            logger.warning(
                "fetched images take %.1f GB more than pacs.cache_gb, as all are in use; raise it if the disk has room",
                surplus / _GIGA,
            )

    def _known(self, image_id: str) -> _Known:
        """What is known of a series; one that the ledger does not have is asked for."""
        found = self._in_ledger(image_id)
        if found is None:
            self._ask_for(image_id)
            found = self._in_ledger(image_id)
        if found is None:
            with self._ledger.reading() as connection:
                if images.is_known(connection, image_id):
                    raise self._gone(image_id)
            msg = f"there is no CT series {image_id[:80]!r} in the PACS at {self.pacs.name}"
            raise NotFoundError(msg)
        return found

    def _gone(self, image_id: str) -> NotFoundError:
        return NotFoundError(
            f"the PACS at {self.pacs.name} no longer has the series {image_id}; it was deleted or moved"
        )

    def _in_ledger(self, image_id: str) -> _Known | None:
        columns = (series_table.c.study_uid, series_table.c.key)
        with self._ledger.reading() as connection:
            image = images.find(connection, image_id)
            row = connection.execute(select(*columns).where(series_table.c.image_id == image_id)).one_or_none()
        return None if image is None or row is None else _Known(image, row.study_uid, row.key)

    def _ask_for(self, image_id: str) -> None:
        if is_uid(image_id):
            found = self._asking.find(image_id)
            if found is not None and found.modality == "CT":
                pacs_listing.note_listed(self._ledger, [found])

    def _fetch(self, known: _Known, objects: Objects) -> None:
        """With the image's lock held."""
        image_id = known.image.image_id
        path = self._layout.image(image_id, STORED)
        begun = time.monotonic()
        with self._cache.fetching(image_id) as folder:
            self.pacs.fetch(known.study_uid, image_id, folder, list(objects.sop_uids))
            fetched = time.monotonic()
            for extra in (file for file in folder.iterdir() if file.stem not in objects.sop_uids):
                extra.unlink()  # came to the PACS after the others were listed; the next use finds it
            try:
                with self._converting:
                    grid = self._convert(folder, image_id)
            except BadInputError as error:
                problem = str(error).replace(f"{folder}/", "").replace(str(folder), f"series {image_id}")
                path.unlink(missing_ok=True)  # of other objects
                self._note_problem(known, objects.key, problem)
                raise BadInputError(problem) from error
        self._note_fetched(known, objects.key, Inspection(grid, fingerprint_of(path)), file_sha256(path))
        logger.info(
            "fetched the image %s: %d objects in %.1f s, %s voxels written in %.1f s",
            image_id, len(objects.sop_uids), fetched - begun,
            "x".join(map(str, grid.shape)), time.monotonic() - fetched,
        )  # fmt: skip

    def _convert(self, folder: Path, image_id: str) -> Grid:
        """Make a folder of DICOM files the image's volume and headers."""
        headers, series = read_geometry(folder)
        volume = as_image(read_voxels(series), series.grid.affine, f"series {image_id}")
        write_headers(self._cache.headers(image_id), headers, series)
        path = self._layout.image(image_id, STORED)
        write_image(path, volume)
        self._cache.use(path)  # before its lock is free, or another thread might remove it as long unused
        return volume.grid

    def _note_fetched(self, known: _Known, key: str, found: Inspection, sha256: str) -> None:
        """First and for good whether the objects are others; last the grid, without which it is fetched again."""
        image_id = known.image.image_id
        state = FileState.of(self._layout.image(image_id, STORED), STORED)
        is_other = known.key not in {None, key}
        with self._ledger.writing() as connection:
            inspection.release_twins(connection, [image_id])
            if is_other:
                images.note_changed(connection, image_id, state)
                versions.note_image_replaced(connection, [image_id])
                segs.look_again(connection, [image_id])
            else:
                images.note_touched(connection, image_id, state)
            _note_key(connection, image_id, key)
            image = images.get(connection, image_id)
        if is_other:
            logger.warning("the series %s has other objects now; labels that were made before do not count", image_id)
        inspection.note_found(self._ledger, self._layout, image, found, sha256)

    def _note_problem(self, known: _Known, key: str, problem: str) -> None:
        image_id = known.image.image_id
        with self._ledger.writing() as connection:
            images.note_problem(connection, image_id, problem)
            unread = {"grid": null(), "fingerprint": null(), "size": 0, "modified_ns": 0}
            connection.execute(update(images_table).where(images_table.c.image_id == image_id).values(unread))
            _note_key(connection, image_id, key)
        logger.warning("the image %s is not offered: %s", image_id, problem)

    def _forget(self, image_id: str) -> None:
        """Have a series fetched again although its volume is here.

        The key stays, by which the next fetch tells whether labels were made of other objects.
        """
        with self._ledger.writing() as connection:
            row = update(images_table).where(images_table.c.image_id == image_id)
            connection.execute(row.values(size=0, modified_ns=0))


def _note_key(connection: Connection, image_id: str, key: str) -> None:
    connection.execute(update(series_table).where(series_table.c.image_id == image_id).values(key=key))


def _refuse_unreadable(known: _Known, found: Objects) -> None:
    """A series that made no volume is not fetched again before it has other objects."""
    if known.key == found.key and known.image.grid is None and known.image.problem is not None:
        raise BadInputError(known.image.problem)
