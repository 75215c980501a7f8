"""Objects that a PACS sends deflated: whether they may be inflated, see `lib.dicom.deflated`."""

from pathlib import Path

from lib.dicom.deflated import MOST_BYTES, NotInflatableError
from lib.dicom.deflated import check_inflatable as check
from lib.dicomweb.faults import NoDicomwebError


def check_inflatable(path: Path, most_bytes: int = MOST_BYTES) -> None:
    """Refuse a DICOM file that is deflated and damaged, or too large to be inflated; others are not looked at.

    Args:
        path: a DICOM file.
        most_bytes: what it may have when inflated.

    Raises:
        NoDicomwebError: it can't be.
        InvalidDicomError, EOFError, ValueError, struct.error: it is no DICOM file.
    """
    try:
        check(path, most_bytes)
    except NotInflatableError as error:
        raise NoDicomwebError(str(error)) from error
