"""The files of label versions: written once, never changed."""

import shutil
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from lib.errors import BadInputError
from lib.files import atomic_write, file_sha256
from lib.store.door import checked_identifier
from lib.store.layout import STORED, Layout, checked_tag
from lib.store.versions import Version
from lib.volume import Volume, same_geometry
from lib.volume_io import read_label, suffix_of, write_label

_SHA_IN_NAME = 12  # digits of the hash of what was sent


class _OtherContentError(Exception):
    """A file is not exactly the label that was checked."""


def write(layout: Layout, image_id: str, tag: str, sent: Path, label: Volume) -> tuple[Path, Path | None]:
    """Keep a label, and the file that came where that is not the same bytes.

    Args:
        layout: where files lie.
        image_id: of the image.
        tag: of the label.
        sent: the file that came.
        label: what is in it, on the image's grid with our indices.

    Returns:
        Both paths within the folder of versions; the second is None where the file that came is kept as the label.
    """
    folder = Path(checked_identifier(image_id, "image id")) / checked_tag(tag)
    # Sorted by name is sorted by time.
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}Z-{file_sha256(sent)[:_SHA_IN_NAME]}"
    file = folder / f"{stamp}{STORED}"
    if suffix_of(sent) == STORED:
        with suppress(_OtherContentError), atomic_write(layout.versions / file) as temporary:
            shutil.copyfile(sent, temporary)
            if not holds(temporary, label):  # the copy: what lies in the folder may be written over meanwhile
                raise _OtherContentError
            return file, None
    write_label(layout.versions / file, label)
    kept = folder / f"{stamp}.sent{suffix_of(sent)}"
    with atomic_write(layout.versions / kept) as temporary:
        shutil.copyfile(sent, temporary)
    return file, kept


def verified(layout: Layout, version: Version) -> Path:
    """A version's file.

    Raises:
        BadInputError: it is missing or not what was saved.
    """
    path = layout.versions / version.file
    if not path.is_file() or file_sha256(path) != version.sha256:
        msg = (
            f"the file of version {version.number} of {version.image_id} is missing or damaged; run "
            "scripts/ledger.py check"
        )
        raise BadInputError(msg)
    return path


def comes_from(version: Version, sha256: str) -> bool:
    """Whether a file of this hash is a version, or what a version was made from."""
    return sha256 == version.sha256 or f"-{sha256[:_SHA_IN_NAME]}." in version.file


def holds(path: Path, label: Volume, tolerance_mm: float = 0.0) -> bool:
    """Whether a file holds exactly this label: our indices, voxel for voxel, on the image's own grid."""
    stored = read_label(path)
    return same_geometry(stored, label, tolerance_mm) and np.array_equal(stored.array, label.array)
