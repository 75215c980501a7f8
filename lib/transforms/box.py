"""The part of a volume that holds something: most work on labels needs no other voxel."""

import numpy as np
from numpy.typing import NDArray


def bounding_box(mask: NDArray[np.bool_], margin: int = 0) -> tuple[slice, slice, slice] | None:
    """The smallest box around the voxels that are set.

    Args:
        mask: three axes in any order.
        margin: voxels added on every side, as far as the volume reaches.

    Returns:
        A slice for each axis, or None when no voxel is set.
    """
    in_plane = mask.any(axis=0)
    profiles = (mask.any(axis=2).any(axis=1), in_plane.any(axis=1), in_plane.any(axis=0))
    hits = [np.flatnonzero(profile) for profile in profiles]
    if not hits[0].size:
        return None
    first, second, third = (
        slice(max(0, int(hit[0]) - margin), min(size, int(hit[-1]) + 1 + margin))
        for hit, size in zip(hits, mask.shape, strict=True)
    )
    return first, second, third
