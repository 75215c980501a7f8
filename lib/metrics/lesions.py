"""Which lesions were found: the LiTS challenge's matching of reference to predicted lesions.

One blob may cover several lesions and one lesion may be found in pieces, so both sides are merged before they are
compared. Rules (Bilic et al., Medical Image Analysis 84:102680, 2023, doi:10.1016/j.media.2022.102680, and the
challenge's scoring program):

1. count the voxels that each reference lesion shares with each predicted lesion;
2. reference lesions whose largest share is with the same predicted lesion become one;
3. each predicted lesion goes to the merged reference lesion it shares most with; those of one reference become one;
4. a pair at or below the wanted IoU is undetected.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lib.metrics.overlap import Overlap
from lib.transforms.components import FACES, label_components


@dataclass(frozen=True)
class LesionPair:
    """Reference and predicted lesions that were matched, by their numbers from 1, and how they overlap."""

    reference: tuple[int, ...]
    prediction: tuple[int, ...]
    overlap: Overlap

    @property
    def iou(self) -> float:
        """Intersection over union of the merged lesions."""
        return self.overlap.jaccard


@dataclass(frozen=True)
class Detection:
    """True and false positive and false negative lesions; counts of several cases add up.

    `true_positive` can fall below 0: the challenge takes one off for *each* reference lesion of an undetected pair,
    although the pair had counted only once.
    """

    true_positive: int = 0
    false_positive: int = 0
    false_negative: int = 0

    def __add__(self, other: "Detection") -> "Detection":
        return Detection(
            self.true_positive + other.true_positive,
            self.false_positive + other.false_positive,
            self.false_negative + other.false_negative,
        )

    @property
    def precision(self) -> float:
        """Detected lesions per predicted lesion; 0 without predicted lesions."""
        predicted = self.true_positive + self.false_positive
        return self.true_positive / predicted if predicted else 0.0

    @property
    def recall(self) -> float:
        """Detected lesions per reference lesion; 0 without reference lesions."""
        reference = self.true_positive + self.false_negative
        return self.true_positive / reference if reference else 0.0


@dataclass(frozen=True)
class LesionMatching:
    """Lesion numbers of a case before merging, and the pairs after it, by the first number of their prediction."""

    reference_count: int
    prediction_count: int
    pairs: tuple[LesionPair, ...]
    shares: dict[tuple[int, int], int] = field(default_factory=dict)
    """Voxels that a merged reference lesion (by its first number) shares with each predicted lesion."""

    def detected(self, threshold: float) -> tuple[LesionPair, ...]:
        """Rule 4: pairs with an IoU above (not at) `threshold`."""
        return tuple(pair for pair in self.pairs if pair.iou > threshold)

    def count(self, detected: Collection[LesionPair]) -> Detection:
        """The challenge's counts for a choice of detected pairs."""
        missed = sum(len(pair.reference) for pair in self.pairs if pair not in detected)
        found = len(self.pairs) - missed
        return Detection(found, self.prediction_count - found, self.reference_count - found)


def label_lesions(mask: NDArray) -> tuple[NDArray[np.uint32], int]:
    """Number the face-connected components of a mask from 1, in C order of their first voxel.

    The order decides ties in the matching. It is that of `scipy.ndimage.label`, whatever the memory layout.

    Args:
        mask: 3D; every value but 0 is foreground.

    Returns:
        Numbers in the shape of `mask`, 0 for background, and how many components there are.
    """
    if not mask.any():
        return np.zeros(mask.shape, np.uint32), 0
    labels, count = label_components(mask != 0, FACES)
    inside = labels[labels != 0]
    numbers, first = np.unique(inside, return_index=True)
    table = np.zeros(count + 1, np.uint32)
    table[numbers[np.argsort(first)]] = np.arange(1, count + 1)
    return table[labels], count


def match_lesions(reference: NDArray[np.uint32], prediction: NDArray[np.uint32]) -> LesionMatching:
    """Match numbered lesions by the challenge's rules 1 to 3.

    Args:
        reference: lesion numbers from 1 without gaps, as from `label_lesions`; any shape.
        prediction: the same of the prediction, in the same shape.

    Returns:
        Pairs that share at least a voxel; a lesion without a partner is only in the counts.
    """
    sizes_r, sizes_p = np.bincount(reference[reference != 0]), np.bincount(prediction[prediction != 0])
    count_r, count_p = max(len(sizes_r) - 1, 0), max(len(sizes_p) - 1, 0)
    both = (reference != 0) & (prediction != 0)
    r, p, shared = _sum_by_pair(reference[both], prediction[both], np.ones(np.count_nonzero(both), np.int64))
    if not len(shared):
        return LesionMatching(count_r, count_p, ())

    # Rule 2: the merged lesion goes by its first member's number.
    favorite = _partner_of_largest_share(r, p, shared)
    leader_by_prediction: dict[int, int] = {}
    members: dict[int, list[int]] = {}
    leader = np.zeros(count_r + 1, np.int64)
    for number, best in sorted(favorite.items()):
        leader[number] = leader_by_prediction.setdefault(best, number)
        members.setdefault(int(leader[number]), []).append(number)

    # Rule 3.
    merged, p, shared = _sum_by_pair(leader[r], p, shared)
    owner = _partner_of_largest_share(p, merged, shared)
    found: dict[int, list[int]] = {}
    for number, best in sorted(owner.items()):
        found.setdefault(best, []).append(number)
    shares = {(int(a), int(b)): int(n) for a, b, n in zip(merged, p, shared, strict=True)}
    pairs = [
        LesionPair(
            tuple(members[first]),
            tuple(numbers),
            Overlap(
                int(sizes_r[members[first]].sum()),
                int(sizes_p[numbers].sum()),
                sum(shares[first, number] for number in numbers),
            ),
        )
        for first, numbers in found.items()
    ]
    return LesionMatching(count_r, count_p, tuple(sorted(pairs, key=lambda pair: pair.prediction[0])), shares)


def _sum_by_pair(
    first: NDArray, second: NDArray, values: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Sum `values` for each pair of numbers that occurs: a sparse matrix as (row, column, sum), sorted."""
    base = int(second.max(initial=0)) + 1
    codes, where = np.unique(first.astype(np.int64) * base + second, return_inverse=True)
    sums = np.bincount(where, weights=values, minlength=len(codes)).astype(np.int64)
    return codes // base, codes % base, sums


def _partner_of_largest_share(
    one: NDArray[np.int64], other: NDArray[np.int64], shared: NDArray[np.int64]
) -> dict[int, int]:
    """For each number of `one` the number of `other` it shares most with; the smaller number at a tie."""
    order = np.lexsort((other, -shared, one))
    numbers, first = np.unique(one[order], return_index=True)
    return {int(number): int(best) for number, best in zip(numbers, other[order][first], strict=True)}
