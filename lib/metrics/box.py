"""The box that holds the labels of several volumes at once: outside of it, all of them are background."""

from collections.abc import Sequence

from numpy.typing import NDArray

from lib.transforms.box import bounding_box

Box = tuple[slice, slice, slice]
EMPTY: Box = (slice(0, 0), slice(0, 0), slice(0, 0))


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
