"""Which image a SEG of the PACS was made for, and whether we have stored it ourselves."""

from collections.abc import Iterable, Sequence

from pydicom.dataset import Dataset

from lib.dicom_seg.read import SegLabel, read_seg
from lib.dicomweb.answers import is_uid
from lib.dicomweb.client import Pacs
from lib.errors import BadInputError, NotFoundError
from lib.settings import Settings
from lib.store import images as image_rows
from lib.store import segs, versions
from lib.store.image_series import ImageSeries, source_of_image
from lib.store.layout import FINAL
from lib.store.ledger import Ledger
from lib.store.versions import Version


class UnusableSegError(Exception):
    """A SEG is not to be taken in.

    Args:
        reason: in words; None: it only waits.
        image_id: the series that it was made for, empty if that is not known.
        later: whether it may become usable.
    """

    def __init__(self, reason: str | None, image_id: str, *, later: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.image_id = image_id
        self.later = later


class SegMatching:
    """Finds the image of a SEG.

    Args:
        ledger: what is known.
        settings: our classes.
        pacs: asked for the series of a study where a SEG names none.
        images: the series.
    """

    def __init__(self, ledger: Ledger, settings: Settings, pacs: Pacs, images: ImageSeries) -> None:
        self._ledger = ledger
        self._settings = settings
        self._pacs = pacs
        self._images = images

    def candidates(self, dataset: Dataset, study_uid: str) -> list[str]:
        """The images that a SEG may be made for: those it names, else all of its study.

        Raises:
            UnusableSegError: none of them is here; that may change.
            UnavailableError: the PACS can't be reached.
        """
        named = [uid for uid in series_it_names(dataset) if is_uid(uid)]
        wanted = named or [one.series_uid for one in self._pacs.find_series("CT", study_uid=study_uid)]
        with self._ledger.reading() as connection:
            here = [uid for uid in wanted if image_rows.find(connection, uid) is not None]
        if not here:
            which = f"the series {', '.join(named[:3])}" if named else "a series of its study"
            msg = f"the SEG was made for {which}, which is not among the images here"
            raise UnusableSegError(msg, named[0] if named else "", later=True)
        return here

    def own_version(self, sop_uid: str, candidates: Iterable[str]) -> Version | None:
        """The version that a SEG was made of by us, perhaps by a server that was killed before it could note that."""
        with self._ledger.reading() as connection:
            for image_id in candidates:
                for version in versions.history(connection, image_id, FINAL):
                    if segs.uids_of(version)[1] == sop_uid:
                        return version
        return None

    def check_is_here(self, candidates: Iterable[str]) -> None:
        """Make sure that nothing must be fetched to read a SEG, which can take long.

        Raises:
            UnusableSegError: an image must be; the SEG waits.
        """
        for image_id in candidates:
            if not self._images.is_here(image_id):
                raise UnusableSegError(None, image_id, later=True)

    def read_for(self, dataset: Dataset, candidates: Sequence[str]) -> tuple[str, SegLabel]:
        """The one image that a SEG fits, and what it says of it; images that were never fetched are.

        Raises:
            UnusableSegError: it fits none or several, or is damaged.
            UnavailableError: the PACS can't be reached.
            StorageError: the disk refused.
        """
        fitting: list[tuple[str, SegLabel]] = []
        faults: list[BadInputError | NotFoundError] = []
        for image_id in candidates:
            try:
                fitting.append((image_id, self._read(dataset, image_id)))
            except (BadInputError, NotFoundError) as error:
                faults.append(error)
        if not fitting:
            is_gone = any(isinstance(fault, NotFoundError) for fault in faults)  # it may come back
            raise UnusableSegError(str(faults[0]), candidates[0], later=is_gone)
        if len(fitting) > 1:
            names = ", ".join(image_id for image_id, _ in fitting[:3])
            msg = f"the SEG fits several series ({names}) and does not say for which it was made; store it anew"
            raise UnusableSegError(msg, "")
        return fitting[0]

    def _read(self, dataset: Dataset, image_id: str) -> SegLabel:
        source = source_of_image(self._images, image_id)
        try:
            return read_seg(dataset, source, self._settings.labels)
        except BadInputError:
            self._images.path(image_id)  # as the PACS has it now: it may have been fetched before it was whole
            now = source_of_image(self._images, image_id)
            if now.slices == source.slices:
                raise
        return read_seg(dataset, now, self._settings.labels)


def series_it_names(dataset: Dataset) -> list[str]:
    """The Series Instance UIDs that a SEG says it was made for."""
    named = dataset.get("ReferencedSeriesSequence") or ()
    return [str(item.SeriesInstanceUID) for item in named if item.get("SeriesInstanceUID")]
