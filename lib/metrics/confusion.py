"""The confusion matrix of two label volumes: one count from which all overlaps and the original's figures follow."""

import numpy as np
from numpy.typing import NDArray

from lib.metrics.overlap import Overlap

CLASSES = 3


def confusion_matrix(reference: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count voxels by reference class (row) and predicted class (column).

    Args:
        reference: labels 0 background, 1 liver, 2 tumor; three axes in any order.
        prediction: labels of the same shape.

    Returns:
        `(3, 3)` int64.
    """
    counts = np.zeros((CLASSES, CLASSES), np.int64)
    for row in range(CLASSES):
        is_row = reference == row
        for column in range(CLASSES):
            counts[row, column] = np.count_nonzero(is_row & (prediction == column))
    return counts


def overlap_of(counts: NDArray[np.int64], classes: tuple[int, ...]) -> Overlap:
    """Overlap of the mask of all voxels with one of `classes`, from a confusion matrix `(3, 3)`."""
    chosen = list(classes)
    return Overlap(int(counts[chosen].sum()), int(counts[:, chosen].sum()), int(counts[np.ix_(chosen, chosen)].sum()))
