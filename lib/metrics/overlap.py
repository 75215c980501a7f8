"""How far two masks cover each other: Dice, Jaccard, volumetric overlap error, relative volume difference.

All of them follow from three voxel counts, so the counts are the object and the figures its properties.
Definitions: Heimann et al., IEEE Transactions on Medical Imaging 28:1251-1265, 2009, doi:10.1109/TMI.2009.2013851.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lib.errors import BadInputError


@dataclass(frozen=True)
class Overlap:
    """Voxel counts of a reference mask, a predicted mask and what they share; counts of several cases add up.

    Example:
        >>> Overlap(reference=4, prediction=4, intersection=3).dice
        0.75
    """

    reference: int
    prediction: int
    intersection: int

    @classmethod
    def of(cls, reference: NDArray, prediction: NDArray) -> "Overlap":
        """Count two masks of the same shape; every value but 0 is foreground.

        Raises:
            BadInputError: the masks differ in shape.
        """
        if reference.shape != prediction.shape:
            msg = (
                f"the masks must have one shape; the reference has {reference.shape}, the prediction {prediction.shape}"
            )
            raise BadInputError(msg)
        return cls(
            int(np.count_nonzero(reference)),
            int(np.count_nonzero(prediction)),
            int(np.count_nonzero((reference != 0) & (prediction != 0))),
        )

    def __add__(self, other: "Overlap") -> "Overlap":
        return Overlap(
            self.reference + other.reference,
            self.prediction + other.prediction,
            self.intersection + other.intersection,
        )

    @property
    def union(self) -> int:
        """Voxels in either mask."""
        return self.reference + self.prediction - self.intersection

    @property
    def dice(self) -> float:
        """2I / (R + P); 1 where both masks are empty, 0 where one is."""
        total = self.reference + self.prediction
        return 2.0 * self.intersection / total if total else 1.0

    @property
    def jaccard(self) -> float:
        """I / (R + P - I), also called IoU; 1 where both masks are empty, 0 where one is."""
        return self.intersection / self.union if self.union else 1.0

    @property
    def voe(self) -> float:
        """Volumetric overlap error, 1 - Jaccard."""
        return 1.0 - self.jaccard

    @property
    def rvd(self) -> float | None:
        """Relative volume difference (P - R) / R, positive for over-segmentation; 0 if both empty, None without R."""
        return _relative(self.prediction, self.reference)

    @property
    def rvd_official(self) -> float | None:
        """(R - P) / P, as the LiTS scorer has it, positive for under-segmentation; 0 if both empty, None without P."""
        return _relative(self.reference, self.prediction)


def _relative(size: int, base: int) -> float | None:
    if base == 0:
        return 0.0 if size == 0 else None
    return (size - base) / base
