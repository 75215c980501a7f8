"""What sending and taking in SEGs needs to know of images: of which study they are, and where their slices lie."""

from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from lib.dicom_seg.source import SourceSeries
from lib.errors import NotFoundError


class ImageSeries(Protocol):
    """Images that are series of a PACS; an image's id is its Series Instance UID."""

    def study_of(self, image_id: str) -> str:
        """Study Instance UID.

        Raises:
            NotFoundError: no such image is known.
            UnavailableError: the PACS would have to be asked and can't be reached.
        """

    def studies_with_images(self, study_uids: Collection[str]) -> set[str]:
        """Those of these studies that hold an image of ours, as far as is known here; the PACS is not asked."""

    def is_here(self, image_id: str) -> bool:
        """Whether `source` knows the series without asking the PACS, as it was fetched once."""

    def source(self, image_id: str) -> SourceSeries:
        """Headers and geometry, which are kept here since the series was fetched.

        Raises:
            NotFoundError: it never was, or the PACS has no such series.
            UnavailableError: they can't be had now.
        """

    def path(self, image_id: str) -> Path:
        """The volume's file; fetched first if it isn't here.

        Raises:
            NotFoundError: the PACS has no such series.
            BadInputError: it is no CT that can be read.
            UnavailableError: the PACS can't be reached.
            StorageError: the disk refused.
        """


def source_of_image(images: ImageSeries, image_id: str) -> SourceSeries:
    """Headers and geometry of an image, which is fetched if it never was.

    Raises:
        NotFoundError, BadInputError, UnavailableError, StorageError: as `ImageSeries.path`.
    """
    try:
        return images.source(image_id)
    except NotFoundError:
        images.path(image_id)
        return images.source(image_id)
