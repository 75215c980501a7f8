"""How two models did on the same cases, in numbers: figures per case, paired differences, how far chance goes.

The liver of these figures is the liver with its tumors, as in the LiTS challenge; every other class is itself. Dice is
1 where neither label nor segmentation holds the class, 0 where only one does. What nobody looked at counts nowhere.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lib.box import common_box
from lib.errors import BadInputError
from lib.labels import DEFAULT_LABELS, LIVER, TUMOR, find_index
from lib.looked_at import both_judged
from lib.metrics.lesions import Detection, label_lesions, match_lesions
from lib.metrics.lits import DETECTED_IOU
from lib.metrics.overlap import Overlap

RESAMPLES = 2000


@dataclass(frozen=True)
class Figures:
    """One model on one case.

    Args:
        dice: per class.
        volume_error_ml: per class, segmented minus labelled volume in ml.
        found: lesions that the segmentation touches (IoU above 0), counted as LiTS does; None without a tumor class.
        detected: lesions with an IoU above 0.5.
    """

    dice: dict[str, float]
    volume_error_ml: dict[str, float]
    found: Detection | None = None
    detected: Detection | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "dice": dict(self.dice),
            "volume_error_ml": dict(self.volume_error_ml),
            "lesions": _counts(self.found, self.detected),
        }


@dataclass(frozen=True)
class Comparison:
    """Two models on one case."""

    name: str
    candidate: Figures
    published: Figures

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"name": self.name, "candidate": self.candidate.as_dict(), "published": self.published.as_dict()}


@dataclass(frozen=True)
class PairedDifference:
    """Mean Dice of two models over the same cases.

    Args:
        candidate: mean of the new model.
        published: mean of the model in force.
        difference: candidate minus published.
        interval: where the difference lies with the report's confidence, see `bootstrap_intervals`.
    """

    candidate: float
    published: float
    difference: float
    interval: tuple[float, float]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {"interval": list(self.interval)}


@dataclass(frozen=True)
class GateReport:
    """A candidate against the published model on some cases.

    Args:
        candidate: its version.
        published: version of the model in force.
        cases: what both did, one entry per case; all of the same classes.
        left_out: name of each case that could not be compared, and why.
        confidence: of the intervals, between 0 and 1.
        seed: of the intervals.
    """

    candidate: str
    published: str
    cases: tuple[Comparison, ...]
    left_out: Mapping[str, str]
    confidence: float = 0.95
    seed: int = 0

    @cached_property
    def classes(self) -> dict[str, PairedDifference]:
        """Per class in index order; empty without cases."""
        return dict(zip(self._names, self._paired, strict=False))

    @property
    def overall(self) -> PairedDifference | None:
        """Mean over classes and cases; None without cases."""
        return self._paired[-1] if self.cases else None

    @property
    def found(self) -> tuple[Detection, Detection] | None:
        """Lesions found by candidate and published model, summed over the cases; None without a tumor class."""
        return self._summed("found")

    @property
    def detected(self) -> tuple[Detection, Detection] | None:
        """The same for an IoU above 0.5."""
        return self._summed("detected")

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, with the figures of each case."""
        return {**self.short(), "cases": [case.as_dict() for case in self.cases]}

    def short(self) -> dict[str, Any]:
        """JSON-ready, with no more than the names of the cases."""
        found, detected = self.found, self.detected
        sides = enumerate(("candidate", "published"))
        return {
            "candidate": self.candidate,
            "published": self.published,
            "classes": {name: paired.as_dict() for name, paired in self.classes.items()},
            "overall": self.overall.as_dict() if self.overall else None,
            "lesions": {side: _counts(found[at], detected[at]) for at, side in sides} if found and detected else None,
            "confidence": self.confidence,
            "resamples": RESAMPLES,
            "seed": self.seed,
            "cases": [case.name for case in self.cases],
            "left_out": dict(self.left_out),
        }

    def as_table(self) -> str:
        """Cases and classes below each other, for the log; "ml" is the error of each model's volume."""
        rows = [["case", "class", "new Dice", "published", "difference", "new ml", "published ml", ""]]
        for case in self.cases:
            for name in self._names:
                dice = [figures.dice[name] for figures in (case.candidate, case.published)]
                errors = [figures.volume_error_ml[name] for figures in (case.candidate, case.published)]
                rows.append([case.name, name, *_dice_cells(*dice), *(f"{error:+.1f}" for error in errors), ""])
        for name, paired in self.classes.items():
            lower, upper = (signed(end) for end in paired.interval)
            interval = f"{100 * self.confidence:.4g} % interval {lower} to {upper}"
            rows.append(["mean", name, *_dice_cells(paired.candidate, paired.published), "", "", interval])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [_aligned(row, widths) for row in rows]
        if self.found:
            candidate, published = self.found
            lines.append(
                f"lesions found: {candidate.true_positive}, published {published.true_positive}, of "
                f"{_reference(candidate)}; not in the label: {candidate.false_positive}, published "
                f"{published.false_positive}"
            )
        lines += [f"left out: {name}: {reason}" for name, reason in self.left_out.items()]
        return "\n".join(lines)

    @property
    def _names(self) -> list[str]:
        return list(self.cases[0].candidate.dice) if self.cases else []

    @cached_property
    def _paired(self) -> list[PairedDifference]:
        """Of each class, and of their mean at the end."""
        if not self.cases:
            return []
        candidate, published = (
            [[figures.dice[name] for name in self._names] for figures in side]
            for side in zip(*((case.candidate, case.published) for case in self.cases), strict=True)
        )
        return paired_differences(_with_mean(candidate), _with_mean(published), self.confidence, self.seed)

    def _summed(self, kind: str) -> tuple[Detection, Detection] | None:
        candidate = [getattr(case.candidate, kind) for case in self.cases]
        published = [getattr(case.published, kind) for case in self.cases]
        if not self.cases or None in candidate or None in published:
            return None
        return sum(candidate, Detection()), sum(published, Detection())


def regions_of(names: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Which indices count as each class: a tumor belongs to the liver, everything else is itself.

    Args:
        names: class name to index, as from `lib.settings.Settings.label_indices`.

    Example:
        >>> regions_of({"liver": 1, "tumor": 2})
        {'liver': (1, 2), 'tumor': (2,)}
    """
    tumor = tumor_of(names)
    inside = () if tumor is None else (names[tumor],)
    return {
        name: (index, *inside) if find_index(name, DEFAULT_LABELS) == LIVER.index else (index,)
        for name, index in names.items()
    }


def tumor_of(names: Iterable[str]) -> str | None:
    """The class among `names` that is the tumor, by its name; None if there is none."""
    return next((name for name in names if find_index(name, DEFAULT_LABELS) == TUMOR.index), None)


def figures_of(
    label: NDArray[np.uint8], segmented: NDArray[np.uint8], voxel_ml: float, names: Mapping[str, int]
) -> Figures:
    """Compare a segmentation with the label of its case, where somebody looked at it.

    A lesion of which a part was not looked at counts with the part that was, on either side, and so does its volume.

    Args:
        label: class indices and `NOT_LOOKED_AT`, uint8; three axes in any order.
        segmented: class indices of the same shape.
        voxel_ml: volume of a voxel in ml.
        names: class name to index.

    Raises:
        BadInputError: the shapes differ.
    """
    if label.shape != segmented.shape:
        msg = f"label {label.shape} and segmentation {segmented.shape} must have one shape"
        raise BadInputError(msg)
    label, segmented = both_judged(label, segmented)
    box = common_box(label, segmented)
    label, segmented = label[box], segmented[box]
    overlaps = {}
    for name, indices in regions_of(names).items():
        table = np.zeros(256, np.bool_)
        table[list(indices)] = True
        overlaps[name] = Overlap.of(table[label], table[segmented])
    dice = {name: overlap.dice for name, overlap in overlaps.items()}
    errors = {name: (overlap.prediction - overlap.reference) * voxel_ml for name, overlap in overlaps.items()}
    tumor = tumor_of(names)
    if tumor is None:
        return Figures(dice, errors)
    matching = match_lesions(*(label_lesions(array == names[tumor])[0] for array in (label, segmented)))
    found, detected = (matching.count(matching.detected(iou)) for iou in (0.0, DETECTED_IOU))
    return Figures(dice, errors, found, detected)


def paired_differences(
    candidate: ArrayLike, published: ArrayLike, confidence: float, seed: int
) -> list[PairedDifference]:
    """Means of two models, their difference and its interval, for each column.

    Args:
        candidate: scores `(cases, columns)`.
        published: scores of the other model on the same cases.
        confidence: of the intervals, between 0 and 1.
        seed: of the intervals.
    """
    candidate, published = np.asarray(candidate, np.float64), np.asarray(published, np.float64)
    differences = candidate - published
    intervals = bootstrap_intervals(differences, confidence, seed)
    columns = zip(candidate.mean(0), published.mean(0), differences.mean(0), intervals, strict=True)
    return [
        PairedDifference(float(a), float(b), float(d), (float(low), float(high))) for a, b, d, (low, high) in columns
    ]


def bootstrap_intervals(
    differences: ArrayLike, confidence: float, seed: int, resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """Percentile intervals of mean differences: cases are drawn again and again with replacement.

    All columns see the same draws, since a case is drawn as a whole. With one case the interval is its difference.

    Args:
        differences: `(cases, columns)`, at least one case.
        confidence: part of the drawn means that the interval holds, between 0 and 1.
        seed: of the draws.
        resamples: how often.

    Returns:
        `(columns, 2)`: lower and upper end.

    Raises:
        BadInputError: no cases, a number that is not finite, or a confidence outside (0, 1).

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13, doi:10.1201/9780429246593.
    """
    differences = np.asarray(differences, np.float64)
    if differences.ndim != 2 or not len(differences) or not np.isfinite(differences).all():
        msg = f"differences must be finite numbers of at least one case, (cases, columns), not {differences.tolist()}"
        raise BadInputError(msg)
    if not 0 < confidence < 1:
        msg = f"the confidence must lie between 0 and 1, not {confidence}"
        raise BadInputError(msg)
    cases = len(differences)
    drawn = np.random.default_rng(seed).multinomial(cases, np.full(cases, 1 / cases), size=resamples)
    outside = (1 - confidence) / 2
    return np.quantile(drawn @ differences / cases, (outside, 1 - outside), axis=0).T


def signed(value: float) -> str:
    """A difference with its sign and three digits; without the minus of a zero."""
    return f"{round(value, 3) + 0.0:+.3f}"


def _with_mean(rows: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    scores = np.asarray(rows, np.float64)
    return np.column_stack([scores, scores.mean(axis=1)])


def _counts(found: Detection | None, detected: Detection | None) -> dict[str, int] | None:
    if found is None or detected is None:
        return None
    return {
        "reference": _reference(found),
        "predicted": found.true_positive + found.false_positive,
        "found": found.true_positive,
        "detected": detected.true_positive,
    }


def _reference(detection: Detection) -> int:
    return detection.true_positive + detection.false_negative


def _dice_cells(candidate: float, published: float) -> list[str]:
    return [f"{candidate:.3f}", f"{published:.3f}", signed(candidate - published)]


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    words = [f"{cell:<{width}}" for cell, width in zip(row[:2], widths[:2], strict=True)]
    numbers = [f"{cell:>{width}}" for cell, width in zip(row[2:-1], widths[2:-1], strict=True)]
    return "  ".join((*words, *numbers, row[-1])).rstrip()
