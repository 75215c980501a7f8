"""What the next labels are expected to bring: a learning curve through the versions of the model, per class.

The error of a model falls with the number of its labels like a power, error(n) = a + b n^-c (Figueroa et al. 2012,
doi:10.1186/1472-6947-12-8; Hestness et al. 2017, arXiv:1712.00409). A training is compared with the model in force on
the cases that neither has learned from, and these change as the campaign goes on. So each set of cases gets a height of
its own, which takes the place of a, and only differences between versions on the same cases shape the curve.

Written by the gain G from n0 to n1 labels, the Dice on a set s is height_s + G h(n), h(n) = (n0^-c - n^-c) /
(n0^-c - n1^-c). For a given c that is linear: weighted least squares give G, the heights (the Dice with n0 labels on
these cases) and how sure they are. What c is, few versions can't tell; the fits of many are averaged by how well each
one fits (weights exp(-chi2 / 2), Burnham and Anderson, Model Selection and Multimodel Inference, 2002,
doi:10.1007/b97636). G may be negative: where the Dice has fallen, nothing makes the curve rise.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lib.errors import BadInputError, UnavailableError

LEAST_VERSIONS = 3  # a height, a slope and a bend
CONFIDENCE = 0.9
# From a curve that rises for long, as deep networks' do (Hestness: 0.07 to 0.35), to one that soon is level.
_EXPONENTS = np.geomspace(0.05, 2.0, 40)
_LEAST_ERROR = 0.002  # a training from another seed changes a Dice by that at least, however alike the cases are
_DRAWS = 4000


@dataclass(frozen=True)
class Judged:
    """A new version and the one in force then, judged on the same cases.

    Args:
        version: the new one.
        against: the one in force.
        labels: that the new one was trained with.
        against_labels: the same of the other; None where that is not known or these were others, as of a starter.
        cases: which; equal for comparisons on the same cases.
        dice: by class the mean Dice of the new version and of the other.
        errors: by class the standard error of the difference between the two.
    """

    version: str
    against: str
    labels: float
    against_labels: float | None
    cases: Hashable
    dice: Mapping[str, tuple[float, float]]
    errors: Mapping[str, float]


@dataclass(frozen=True)
class GateHistory:
    """What became of the trainings so far.

    Args:
        judged: each new version against the one in force, the oldest first.
        training_share: part of the labels that the newest training learned from, the rest is for validation, 0 to 1;
            1 where there was no training.
    """

    judged: tuple[Judged, ...] = ()
    training_share: float = 1.0


class Point(NamedTuple):
    """The mean Dice of one class that a version reached on one set of cases.

    Args:
        version: which.
        labels: that it was trained with; None where that is not known.
        cases: number of the set.
        dice: 0 to 1.
        error: standard error, as far as versions on the same cases are compared.
    """

    version: str
    labels: float | None
    cases: int
    dice: float
    error: float


@dataclass(frozen=True)
class Curve:
    """What a fit leaves possible: many curves, as likely as they are frequent.

    Args:
        now: labels from which the gain counts.
        more: labels until which it counts, from `now` on.
        exponents: `(D,)`, c of each curve.
        gains: `(D,)`, by how much the Dice rises with `more` labels; at most to 1.
        heights: `(D,)`, Dice with `now` labels on the cases of the newest comparison.
        levels: `(S,)`, the same in the mean for each set of cases, by which their points can be laid over each other.
    """

    now: float
    more: float
    exponents: NDArray[np.float64]
    gains: NDArray[np.float64]
    heights: NDArray[np.float64]
    levels: NDArray[np.float64]

    @property
    def gain(self) -> float:
        """Expected gain in Dice."""
        return float(self.gains.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """Where the gain lies with 90 % probability."""
        low, high = np.quantile(self.gains, _ends())
        return float(low), float(high)

    def band(self, labels: ArrayLike) -> NDArray[np.float64]:
        """Lower end, middle and upper end of the Dice with so many labels `(N,)`, as `(3, N)`; on the newest cases."""
        labels = np.asarray(labels, np.float64)
        low, high = _ends()
        curves = self.heights[:, None] + self.gains[:, None] * _shape(
            labels[None], self.exponents[:, None], self.now, self.more
        )
        return np.quantile(curves, (low, 0.5, high), axis=0).clip(0.0, 1.0)


def points_of(judged: Sequence[Judged], label: str) -> list[Point]:
    """The points of one class, the oldest first; a version that was judged twice on the same cases gives one.

    Args:
        judged: comparisons, the oldest first.
        label: name of the class; comparisons without it are left out.
    """
    numbers: dict[Hashable, int] = {}
    found: dict[tuple[str, int], Point] = {}
    for one in judged:
        if label not in one.dice:
            continue
        cases = numbers.setdefault(one.cases, len(numbers))
        error = max(one.errors[label], _LEAST_ERROR) / np.sqrt(2)
        sides = ((one.against, one.against_labels), (one.version, one.labels))
        for (version, labels), dice in zip(sides, reversed(one.dice[label]), strict=True):
            found.setdefault((version, cases), Point(version, labels, cases, dice, error))
    return list(found.values())


def fit_curve(points: Sequence[Point], now: float, more: float = 10, seed: int = 0) -> Curve:
    """Fit the learning curve of one class.

    Args:
        points: of `points_of`.
        now: labels that the next training will have, without those asked about; at least 1.
        more: how many are asked about.
        seed: of the curves that are drawn from the fit.

    Raises:
        UnavailableError: the versions are too few or too much alike; the text says what is there.
        BadInputError: `now` or `more` are not positive.
    """
    if now < 1 or more <= 0:
        msg = f"a gain needs labels to start from and more of them, not {now:g} and {more:g}"
        raise BadInputError(msg)
    _check_enough(points)
    dice = np.array([point.dice for point in points])
    errors = np.array([point.error for point in points])
    known, heights = _on_curve(points), _heights(points)
    freedom = len(points) - _rank(heights) - 2
    fits = []
    for exponent in _EXPONENTS:
        shape = _shape(np.array([point.labels or now for point in points]), exponent, now, more)
        design = np.column_stack([np.where(known, shape, 0.0), heights]) / errors[:, None]
        covariance = np.linalg.pinv(design.T @ design)
        best = covariance @ (design.T @ (dice / errors))
        fits.append((float(((design @ best - dice / errors) ** 2).sum()), best, covariance))
    misfits = np.array([misfit for misfit, _, _ in fits])
    # Where the versions scatter more than their cases explain, everything is less sure by that.
    scale = max(1.0, misfits.min() / freedom) if freedom > 0 else 1.0
    weights = np.exp(-(misfits - misfits.min()) / 2 / scale)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(_DRAWS, weights / weights.sum())
    newest = 1 + points[-1].cases
    drawn = np.concatenate([
        rng.multivariate_normal(best[[0, newest]], scale * covariance[np.ix_([0, newest], [0, newest])], count)
        for count, (_, best, covariance) in zip(counts, fits, strict=True)
    ])  # fmt: skip
    gains, at_now = drawn[:, 0], drawn[:, 1].clip(0.0, 1.0)
    levels = np.average([best[1 : 2 + max(point.cases for point in points)] for _, best, _ in fits], 0, weights)
    return Curve(now, more, np.repeat(_EXPONENTS, counts), np.minimum(gains, 1.0 - at_now), at_now, levels)


def _check_enough(points: Sequence[Point]) -> None:
    known = {point.version: point.labels for point in points if point.labels is not None}
    different = len(set(known.values()))
    if different < LEAST_VERSIONS:
        alike = " with different numbers of labels" if len(known) > different else ""
        msg = f"not enough versions yet: {different} of at least {LEAST_VERSIONS}{alike}"
        raise UnavailableError(msg)
    # Where two curves of different bend can be told from each other, every one of them can be fitted.
    labels = np.array([point.labels or 1.0 for point in points])
    curves = np.column_stack([np.log(labels), 1 / labels]) * _on_curve(points)[:, None]
    heights = _heights(points)
    if _rank(np.column_stack([curves, heights])) < _rank(heights) + 2:
        msg = "not enough versions yet that were compared with another one which learned from fewer labels"
        raise UnavailableError(msg)


def _on_curve(points: Sequence[Point]) -> NDArray[np.bool_]:
    return np.array([point.labels is not None for point in points])


def _heights(points: Sequence[Point]) -> NDArray[np.float64]:
    """What lifts each point: its cases, and its version where that has learned from other labels; 0 or 1 each."""
    sets = 1 + max(point.cases for point in points)
    strangers = sorted({point.version for point in points if point.labels is None})
    heights = np.zeros((len(points), sets + len(strangers)))
    for row, point in zip(heights, points, strict=True):
        row[point.cases] = 1.0
        if point.labels is None:
            row[sets + strangers.index(point.version)] = 1.0
    return heights


def _rank(columns: NDArray[np.float64]) -> int:
    return int(np.linalg.matrix_rank(columns))


def _shape(labels: NDArray[np.float64], exponent: ArrayLike, now: float, more: float) -> NDArray[np.float64]:
    """h(n): 0 with `now` labels, 1 with `more` of them."""
    start = now ** -np.asarray(exponent)
    return np.asarray((start - labels ** -np.asarray(exponent)) / (start - (now + more) ** -np.asarray(exponent)))


def _ends() -> tuple[float, float]:
    return (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2
