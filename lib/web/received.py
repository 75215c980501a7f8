"""Images and labels that come with a request: what they are is seen in their content, not in the name they have."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from lib.errors import BadInputError
from lib.uploads import suffix_by_content
from lib.volume_io import IMAGE_SUFFIXES, LABEL_SUFFIXES

_HEAD_BYTES = 65_536  # an NRRD's first segment is named there


def image_suffix(file: BinaryIO, name: str) -> str:
    """`.nii`, `.nii.gz` or `.nrrd`; the file is left at its beginning.

    Args:
        file: what was sent.
        name: for messages.

    Raises:
        BadInputError: none of those.
    """
    suffix = _suffix(file, name)
    return IMAGE_SUFFIXES[-1] if suffix == ".seg.nrrd" else suffix


@contextmanager
def received_label(file: BinaryIO, name: str) -> Iterator[Path]:
    """A label as a temporary file with the suffix by which it is read.

    Args:
        file: what was sent.
        name: for messages.

    Raises:
        BadInputError: neither NIfTI nor NRRD.
        OSError: the disk refused.
    """
    suffix = _suffix(file, name)
    with tempfile.NamedTemporaryFile(prefix="liverloop-", suffix=suffix) as copy:
        shutil.copyfileobj(file, copy)
        copy.flush()
        yield Path(copy.name)


def _suffix(file: BinaryIO, name: str) -> str:
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    suffix = suffix_by_content(head)
    if suffix in LABEL_SUFFIXES:
        return str(suffix)
    if not head:
        msg = f"{name}: the file is empty"
    elif suffix == ".dcm":
        msg = f"{name}: a DICOM file; send the files of a series as a session, or the volume as NIfTI or NRRD"
    else:
        msg = f"{name}: neither NIfTI nor NRRD by its content (it begins with {head[:4]!r}); export it again"
    raise BadInputError(msg)
