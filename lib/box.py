"""The part of a volume that holds something: most work on labels needs no other voxel."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Box = tuple[slice, slice, slice]
EMPTY: Box = (slice(0, 0), slice(0, 0), slice(0, 0))


def bounding_box(array: NDArray[Any], margin: int = 0) -> Box | None:
    """The smallest box around the voxels that are not 0.

    Args:
        array: numbers, three axes in any order.
        margin: voxels added on every side, as far as the volume reaches.

    Returns:
        A slice for each axis, or None when all voxels are 0.
    """
    if abs(array.strides[0]) < abs(array.strides[2]):  # the other way round in memory, where it is read fastest
        turned = bounding_box(array.T, margin)
        return turned and (turned[2], turned[1], turned[0])
    if array.dtype.kind == "f":
        array = array != 0
    plane = np.bitwise_or.reduce(array, axis=0) != 0  # no mask as large as the volume is made
    in_plane = [np.flatnonzero(plane.any(axis=axis)) for axis in (1, 0)]
    if not in_plane[0].size:
        return None
    rows, columns = (slice(int(hit[0]), int(hit[-1]) + 1) for hit in in_plane)
    there = np.bitwise_or.reduce(array[:, rows, columns], axis=1).any(axis=1)
    hits = [np.flatnonzero(there), *in_plane]
    first, second, third = (
        slice(max(0, int(hit[0]) - margin), min(size, int(hit[-1]) + 1 + margin))
        for hit, size in zip(hits, array.shape, strict=True)
    )
    return first, second, third


def common_box(*arrays: NDArray) -> Box:
    """Slices of the smallest box that holds every voxel but 0 of all `arrays`; empty if there is none.

    Args:
        arrays: of one shape; three axes in any order.
    """
    return hull([box for box in map(bounding_box, arrays) if box is not None])


def hull(boxes: Sequence[Box]) -> Box:
    """The smallest box around `boxes`; empty without any."""
    if not boxes:
        return EMPTY
    first, second, third = (
        slice(min(side.start for side in sides), max(side.stop for side in sides)) for sides in zip(*boxes, strict=True)
    )
    return first, second, third
