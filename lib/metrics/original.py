"""The three figures that the original liver-tumor U-Net reported: 3-class Dice, one-hot mean IoU, pixel accuracy.

Background is a class here, so that they are near 1 for any usable segmentation; they are there for comparison.
All three follow from a confusion matrix when labels are hard; `original_torch` has them for softmax outputs.
"""

import numpy as np
from numpy.typing import NDArray

from lib.metrics.confusion import overlap_of


def original_scores(counts: NDArray[np.int64]) -> dict[str, float]:
    """The three figures of one or, with added matrices, several label volumes.

    Args:
        counts: confusion matrix, rows reference, columns prediction, one per class with background.

    Returns:
        `three_class_dice`, `one_hot_mean_iou` and `pixel_accuracy`.
    """
    return {
        "three_class_dice": three_class_dice(counts),
        "one_hot_mean_iou": one_hot_mean_iou(counts),
        "pixel_accuracy": pixel_accuracy(counts),
    }


def three_class_dice(counts: NDArray[np.int64]) -> float:
    """Mean over the classes of (2I + 1) / (R + P + 1), background included."""
    overlaps = [overlap_of(counts, (index,)) for index in range(len(counts))]
    return float(
        np.mean(
            [
                (2.0 * overlap.intersection + 1.0) / (overlap.reference + overlap.prediction + 1.0)
                for overlap in overlaps
            ]
        )
    )


def one_hot_mean_iou(counts: NDArray[np.int64]) -> float:
    """Mean over the classes of I / (R + P - I); a class that neither volume holds is left out, as Keras does."""
    overlaps = [overlap_of(counts, (index,)) for index in range(len(counts))]
    return float(np.mean([overlap.jaccard for overlap in overlaps if overlap.union]))


def pixel_accuracy(counts: NDArray[np.int64]) -> float:
    """Part of the voxels with the right class."""
    return float(np.trace(counts) / counts.sum())
