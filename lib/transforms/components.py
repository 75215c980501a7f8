"""Connected components of a mask."""

from typing import Any, Literal

import cc3d
import numpy as np
from numpy.typing import NDArray

Connectivity = Literal[6, 26]
FACES: Connectivity = 6
FACES_EDGES_CORNERS: Connectivity = 26


def label_components(
    mask: NDArray[np.bool_], connectivity: Connectivity
) -> tuple[NDArray[np.unsignedinteger[Any]], int]:
    """Number the connected parts of a mask.

    Args:
        mask: three axes in any order.
        connectivity: `FACES` or `FACES_EDGES_CORNERS`: which neighbors of a voxel belong to its component.

    Returns:
        An array of the same shape with 0 outside the mask and 1 to `count` inside it, and `count`.
    """
    # connected-components-3d 4.1.1 fails ("can't be mapped to union-find array") on small boolean masks such as
    # (1, 1, 3), for which it reserves too few labels. The same mask as uint8 takes another path, as fast and right.
    return cc3d.connected_components(
        np.ascontiguousarray(mask).view(np.uint8), connectivity=connectivity, return_N=True
    )
