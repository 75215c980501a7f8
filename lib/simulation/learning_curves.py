"""Learning curves of many campaigns: means with intervals, areas, labels needed, paired differences. Pure."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import integrate, stats

CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A mean over seeds and the ends of its interval; without an interval where there is one seed only."""

    mean: float
    low: float | None
    high: float | None


def estimate(values: ArrayLike) -> Estimate:
    """Mean and 95 % interval by Student's t, which takes the values for independent and about normal.

    Args:
        values: `(seeds,)`, at least one.
    """
    values = np.asarray(values, np.float64)
    mean = float(values.mean())
    if len(values) < 2:
        return Estimate(mean, None, None)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return Estimate(mean, mean - half, mean + half)


def area(x: ArrayLike, y: ArrayLike, until: float | None = None) -> float:
    """Mean height of a curve, by trapezoids from its first point on: the area under it divided by its width.

    Args:
        x: labels or slices, ascending, at least two different.
        y: the figure.
        until: where to end, beyond the first point and not beyond the last; None: at the last.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    end = x[-1] if until is None else until
    inside = x < end
    x, y = np.append(x[inside], end), np.append(y[inside], np.interp(end, x, y))
    return float(integrate.trapezoid(y, x) / (end - x[0]))


def needed(x: ArrayLike, y: ArrayLike, target: float) -> float | None:
    """Where a curve reaches a target first, on a straight line between its points; None: nowhere.

    Example:
        >>> needed([0, 5, 10], [0.2, 0.4, 0.8], 0.6)
        7.5
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    reached = np.flatnonzero(y >= target)
    if not len(reached):
        return None
    after = int(reached[0])
    if after == 0:
        return float(x[0])
    part = (target - y[after - 1]) / (y[after] - y[after - 1])
    return float(x[after - 1] + part * (x[after] - x[after - 1]))


def mean_curve(curves: Sequence[ArrayLike]) -> NDArray[np.float64]:
    """The mean of curves over the rounds that all of them have."""
    rounds = min(len(np.asarray(curve)) for curve in curves)
    return np.mean([np.asarray(curve, np.float64)[:rounds] for curve in curves], axis=0)


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Estimate | None:
    """The mean difference over the seeds that both have; None where there are none."""
    seeds = sorted(ours.keys() & theirs.keys())
    return estimate([ours[seed] - theirs[seed] for seed in seeds]) if seeds else None
