"""What somebody changed in a label: Dice and volume per class between two label volumes of one image.

What either of them says nobody looked at belongs to no class and is not compared.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from lib.box import common_box
from lib.errors import BadInputError
from lib.labels import NOT_LOOKED_AT
from lib.metrics.overlap import Overlap

Comparison = dict[str, dict[str, float]]


def count_voxels(array: NDArray[np.uint8], labels: Mapping[str, int]) -> dict[str, int]:
    """Voxels of each class in a label volume with three axes."""
    part = array[common_box(array)]
    return {name: sum(np.count_nonzero(slab == index) for slab in _slabs(part)) for name, index in labels.items()}


def compare(
    first: NDArray[np.uint8], second: NDArray[np.uint8], labels: Mapping[str, int], voxel_ml: float
) -> Comparison:
    """Compare two label volumes voxel by voxel.

    Args:
        first: uint8 class indices `(X, Y, Z)`.
        second: the same, later.
        labels: names and indices of the classes.
        voxel_ml: volume of a voxel in ml.

    Returns:
        For each class `dice` (1 where neither has it), `changed_ml` (volume of the voxels that belong to it in one of
        the two only), `ml_first` and `ml_second`.

    Raises:
        BadInputError: the shapes differ, or no voxel was looked at in both.
    """
    if first.shape != second.shape:
        msg = f"labels of {first.shape} and {second.shape} voxels can't be compared"
        raise BadInputError(msg)
    box = common_box(first, second)
    overlaps = dict.fromkeys(labels, Overlap(0, 0, 0))
    judged = 0
    for one, other in zip(_slabs(first[box]), _slabs(second[box]), strict=True):
        by_both = (one != NOT_LOOKED_AT) & (other != NOT_LOOKED_AT)
        judged += np.count_nonzero(by_both)
        for name, index in labels.items():
            overlaps[name] += Overlap.of((one == index) & by_both, (other == index) & by_both)
    if first[box].size == first.size and not judged:
        msg = "no slice was looked at in both labels, so they can't be compared"
        raise BadInputError(msg)
    return {
        name: {
            "dice": overlap.dice,
            "changed_ml": (overlap.union - overlap.intersection) * voxel_ml,
            "ml_first": overlap.reference * voxel_ml,
            "ml_second": overlap.prediction * voxel_ml,
        }
        for name, overlap in overlaps.items()
    }


def change_of(comparison: Comparison) -> float:
    """One number by which cases can be ordered: 1 minus the lowest Dice of the classes that either label has."""
    there = [figures["dice"] for figures in comparison.values() if figures["ml_first"] or figures["ml_second"]]
    return 1.0 - min(there, default=1.0)


def _slabs(array: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """The array cut along its last axis, which is contiguous in memory for labels read from files.

    What is computed of a slab needs little memory; a partial label fills all of a long CT.
    """
    return (array[..., at] for at in range(array.shape[-1]))
