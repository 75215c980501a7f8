"""What somebody changed in a label: Dice and volume per class between two label volumes of one image.

What either of them says nobody looked at belongs to no class and is not compared.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from lib.errors import BadInputError
from lib.labels import NOT_LOOKED_AT
from lib.metrics.overlap import Overlap

Comparison = dict[str, dict[str, float]]


def count_voxels(array: NDArray[np.uint8], labels: Mapping[str, int]) -> dict[str, int]:
    """Voxels of each class in a label volume of any shape."""
    # Slab by slab: counting takes eight bytes per voxel, and a partial label fills all of a long CT.
    counts = sum((np.bincount(slab.ravel(), minlength=256) for slab in _slabs(array[_box(array)])), np.zeros(256, int))
    return {name: int(counts[index]) for name, index in labels.items()}


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
    box = tuple(
        slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(_box(first), _box(second), strict=True)
    )
    table = np.zeros((256, 256), np.int64)
    for one, other in zip(_slabs(first[box]), _slabs(second[box]), strict=True):
        pairs = one.astype(np.intp).ravel() * 256 + other.ravel()
        table += np.bincount(pairs, minlength=256 * 256).reshape(256, 256)
    table[NOT_LOOKED_AT], table[:, NOT_LOOKED_AT] = 0, 0
    if first[box].size == first.size and not table.any():
        msg = "no slice was looked at in both labels, so they can't be compared"
        raise BadInputError(msg)
    result: Comparison = {}
    for name, index in labels.items():
        overlap = Overlap(int(table[index].sum()), int(table[:, index].sum()), int(table[index, index]))
        result[name] = {
            "dice": overlap.dice,
            "changed_ml": (overlap.union - overlap.intersection) * voxel_ml,
            "ml_first": overlap.reference * voxel_ml,
            "ml_second": overlap.prediction * voxel_ml,
        }
    return result


def change_of(comparison: Comparison) -> float:
    """One number by which cases can be ordered: 1 minus the lowest Dice of the classes that either label has."""
    there = [figures["dice"] for figures in comparison.values() if figures["ml_first"] or figures["ml_second"]]
    return 1.0 - min(there, default=1.0)


def _slabs(array: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """The array cut along its last axis, which is contiguous in memory for labels read from files."""
    return (array[..., at] for at in range(array.shape[-1]))


def _box(array: NDArray[np.uint8]) -> tuple[slice, ...]:
    """The smallest box with every voxel that is not 0; labels fill a small part of a CT."""
    box = []
    for axis in range(array.ndim):
        others = tuple(other for other in range(array.ndim) if other != axis)
        there = np.flatnonzero(array.any(axis=others))
        box.append(slice(int(there[0]), int(there[-1]) + 1) if there.size else slice(0, 0))
    return tuple(box)
