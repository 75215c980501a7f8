"""Whether something grows: a slope with its uncertainty from samples that are not independent of each other."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

_BLOCKS = 8
_LEAST_IN_BLOCK = 3
_CONFIDENCE = 0.95


class Growth(NamedTuple):
    """How much something grows by the hour.

    Args:
        per_hour: the slope.
        lower: end of its 95 % interval.
        upper: the other end.
        samples: how many it was reckoned from.
        hours: that they span.
    """

    per_hour: float
    lower: float
    upper: float
    samples: int
    hours: float


def growth(hours: Sequence[float], values: Sequence[float], *, after_h: float = 0.0) -> Growth | None:
    """The slope of values over time, fitted to the means of eight blocks.

    A process holds more memory at one moment than at another by what it does then, and the samples of one such spell
    are alike; as if they were independent, their interval would be far too narrow. Means of long blocks nearly are.

    Args:
        hours: when each sample was taken, ascending.
        values: what was measured.
        after_h: what came before is left out: caches, pools of threads and the like fill at first.

    Returns:
        None for fewer than 24 samples.
    """
    taken = np.array([(hour, value) for hour, value in zip(hours, values, strict=True) if hour >= after_h])
    if len(taken) < _BLOCKS * _LEAST_IN_BLOCK:
        return None
    means = np.array([block.mean(axis=0) for block in np.array_split(taken, _BLOCKS)])
    x, y = (means - means.mean(axis=0)).T  # not scipy's `linregress`, which has no error for a constant
    slope = float(x @ y / (x @ x))
    error = float(np.sqrt(((y - slope * x) ** 2).sum() / (_BLOCKS - 2) / (x @ x)))
    reach = float(stats.t.ppf((1 + _CONFIDENCE) / 2, _BLOCKS - 2)) * error
    return Growth(slope, slope - reach, slope + reach, len(taken), float(taken[-1, 0] - taken[0, 0]))


def as_json(found: Growth | None) -> dict[str, Any] | None:
    """A growth as JSON can hold it."""
    return None if found is None else found._asdict()
