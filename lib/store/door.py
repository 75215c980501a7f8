"""What is checked before an image or a label is taken in, apart from where it is kept."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from numpy.typing import NDArray

from lib.errors import BadInputError
from lib.labels import NOT_LOOKED_AT, Label, is_marker, marked, merge, remap
from lib.limits import DEFAULT_LIMITS, Limits
from lib.looked_at import check_looked_at, check_outside, is_partial, limited_to, slices_in
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
    looked_at: Any = None,
    before: Iterable[NDArray[np.uint8]] | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Volume:
    """Read a client's label and bring it onto the image's grid and our indices.

    Where a segment marks the slices that were looked at, or `looked_at` names them, the others are `NOT_LOOKED_AT`, and
    so are the marks, since nobody sees what they were painted over.

    Args:
        path: what the client sent.
        image: the grid of the CT it belongs to.
        label_info: the client's names for the values, see `lib.labels.remap`.
        labels: our classes.
        tolerance_mm: how far a corner voxel may lie from the image's; formats round affines differently.
        looked_at: ranges of axial slices, see `lib.looked_at.slices_in`; None: a segment marks them, or all were.
        before: labels on the image's grid from which this one may have been made, see `lib.looked_at.check_outside`;
            read only where some slices were not looked at. None: what lies in those is not checked.
        limits: what is taken.

    Returns:
        uint8 label with exactly the image's shape and affine; axes that the client stored in another order or
        direction are turned back, voxel for voxel.

    Raises:
        BadInputError: unreadable, another shape, another place in the patient, names we do not know, nothing was
            looked at, or something was painted where nobody looked.
    """
    label, marker = _read(Path(path), label_info, labels, limits)
    label = _on_grid(label, image, tolerance_mm)
    count = len(label.axial())
    slices = np.zeros(count, np.bool_) if looked_at is None else slices_in(looked_at, count)
    if marker is not None:
        marker = _on_grid(marker, image, tolerance_mm)
        slices |= marker.axial().any(axis=(1, 2))
    if looked_at is not None or slices.any():
        if before is not None and slices.any() and not is_partial(label.array):
            check_outside(label, slices, before)
        label = limited_to(label, slices)
        if marker is not None:
            label.array[marker.array & (label.array == 0)] = NOT_LOOKED_AT
    check_looked_at(label, named=bool(label_info) or suffix_of(path) == ".seg.nrrd")
    return label


def _on_grid(label: Volume, image: Grid, tolerance_mm: float) -> Volume:
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


def _read(
    path: Path, label_info: Sequence[Mapping[str, Any]] | None, labels: Mapping[str, Label], limits: Limits
) -> tuple[Volume, Volume | None]:
    """The label with our indices, and the voxels of markers if it has any.

    The names in a `.seg.nrrd` itself come before `label_info`.
    """
    segments = read_segments(path, limits) if suffix_of(path) == ".seg.nrrd" else None
    marker: NDArray[np.bool_] | None
    if segments:
        affine, shape = segments[0][1].affine, segments[0][1].shape
        array, marker = merge(((name, mask.array) for name, mask in segments), shape, labels), None
        for name, mask in segments:  # one mask at a time: there may be a hundred
            if is_marker(name):
                marker = mask.array.astype(np.bool_) if marker is None else marker | (mask.array != 0)
    else:
        label = read_label(path, limits)
        affine, array = label.affine, remap(label.array, label_info, labels)
        marker = marked(label.array, label_info)
    return Volume(array, affine), None if marker is None else Volume(marker, affine)


def _turned(label: Volume, image: Grid) -> Volume:
    """The label with its voxel axes in the image's order and directions; voxels stay where they are.

    The two affines are compared with each other, not each with the patient: for a volume tilted by 45 degrees,
    rounding would decide which of the patient's axes is nearest.
    """
    turn = io_orientation(np.linalg.inv(image.affine) @ label.affine)
    affine = label.affine @ inv_ornt_aff(turn, label.shape)
    return Volume(np.ascontiguousarray(apply_orientation(label.array, turn)), affine)
