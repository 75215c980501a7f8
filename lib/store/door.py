"""What is checked before an image or a label is taken in, apart from where it is kept."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

from lib.errors import BadInputError
from lib.labels import Label, merge, remap
from lib.volume import Grid, Volume, corner_distance
from lib.volume_io import read_label, read_segments, suffix_of

# Any name that a file in the studies folder may have is fine; separators could lead out of it.
_FORBIDDEN = re.compile(r"^\.|[/\\\x00-\x1f\x7f]")
_MOST_BYTES = 240  # of the 255 that file systems allow; the rest is for the suffix


def checked_identifier(value: str, what: str) -> str:
    """An image id, label tag or session id that is safe as a file name.

    Raises:
        BadInputError: it is empty, too long, begins with a dot, or holds a path separator or control character.
    """
    if not value or _FORBIDDEN.search(value) or len(value.encode(errors="replace")) > _MOST_BYTES:
        msg = (
            f"{what} {value[:80]!r} is not allowed; it must have 1 to {_MOST_BYTES} bytes, not begin with a dot and "
            "hold no slash, backslash or control character"
        )
        raise BadInputError(msg)
    return value


@contextmanager
def named_in_errors(path: str | Path, name: str) -> Iterator[None]:
    """Replace the path or name of a temporary file in error messages by what the sender knows it as."""
    try:
        yield
    except BadInputError as error:
        raise BadInputError(str(error).replace(str(path), name).replace(Path(path).name, name)) from error


def checked_label(
    path: str | Path,
    image: Grid,
    label_info: Sequence[Mapping[str, Any]] | None,
    labels: Mapping[str, Label],
    tolerance_mm: float,
) -> Volume:
    """Read a client's label and bring it onto the image's grid and our indices.

    Args:
        path: what the client sent.
        image: the grid of the CT it belongs to.
        label_info: the client's names for the values, see `lib.labels.remap`.
        labels: our classes.
        tolerance_mm: how far a corner voxel may lie from the image's; formats round affines differently.

    Returns:
        uint8 label with exactly the image's shape and affine; axes that the client stored in another order or
        direction are turned back, voxel for voxel.

    Raises:
        BadInputError: unreadable, another shape, another place in the patient, or names we do not know.
    """
    label = _read(Path(path), label_info, labels)
    if corner_distance(label, image) > tolerance_mm or label.shape != image.shape:
        label = _turned(label, image)
    if label.shape != image.shape:
        msg = f"the label has {label.shape} voxels, its image {image.shape}; save it on the image's grid"
        raise BadInputError(msg)
    distance = corner_distance(label, image)
    if distance > tolerance_mm:
        msg = (
            f"the label lies up to {distance:.1f} mm away from its image (allowed {tolerance_mm:g} mm); it belongs to "
            "another image or was moved"
        )
        raise BadInputError(msg)
    return Volume(label.array, image.affine)


def _read(path: Path, label_info: Sequence[Mapping[str, Any]] | None, labels: Mapping[str, Label]) -> Volume:
    """The label with our indices; the names in a `.seg.nrrd` itself come before `label_info`."""
    segments = read_segments(path) if suffix_of(path) == ".seg.nrrd" else []
    if segments:
        first = segments[0][1]
        return Volume(merge(((name, mask.array) for name, mask in segments), first.shape, labels), first.affine)
    label = read_label(path)
    return Volume(remap(label.array, label_info, labels), label.affine)


def _turned(label: Volume, image: Grid) -> Volume:
    """The label with its voxel axes in the image's order and directions; voxels stay where they are.

    The two affines are compared with each other, not each with the patient: for a volume tilted by 45 degrees,
    rounding would decide which of the patient's axes is nearest.
    """
    turn = io_orientation(np.linalg.inv(image.affine) @ label.affine)
    affine = label.affine @ inv_ornt_aff(turn, label.shape)
    return Volume(np.ascontiguousarray(apply_orientation(label.array, turn)), affine)
