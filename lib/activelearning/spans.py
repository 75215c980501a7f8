"""Which slices of a case are worth looking at: where a class's uncertainty is."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lib.case_scores import Span

MOST_SPANS = 3  # of one class
LEAST_SLICES = 3  # of one span, where the case has as many
_HELD = 0.6  # of the class's uncertainty: as many slices as hold it, the most uncertain ones
_GAP = 1  # slices between two spans that make one
_LEAST_SHARE = 0.001  # of all classes' uncertainty; a class with less is certain throughout


def find_spans(slices: Mapping[str, Sequence[float]], first_slice: int = 0) -> tuple[Span, ...]:
    """Runs of slices that hold most of the uncertainty of a class.

    Args:
        slices: by class the uncertainty of each axial slice from `first_slice` on, at least 0.
        first_slice: axial slice of the first of them.

    Returns:
        At most `MOST_SPANS` of each class, which don't overlap, those first whose slices hold the largest share each.
    """
    everything = sum(sum(values) for values in slices.values())
    spans = [
        Span(label, first_slice + first, first_slice + last, share)
        for label, values in slices.items()
        if sum(values) > _LEAST_SHARE * everything
        for first, last, share in _runs(np.asarray(values, np.float64))
    ]
    return tuple(sorted(spans, key=lambda span: (-span.share / (span.last - span.first + 1), span.label, span.first)))


def _runs(values: NDArray[np.float64]) -> list[tuple[int, int, float]]:
    """First and last place, and the share of the sum, of the runs of one class."""
    total = values.sum()
    order = np.argsort(-values, kind="stable")
    enough = int(np.searchsorted(np.cumsum(values[order]), _HELD * total)) + 1
    chosen = np.sort(order[:enough])
    breaks = np.flatnonzero(np.diff(chosen) > _GAP + 1) + 1
    runs: list[tuple[int, int]] = []
    for run in np.split(chosen, breaks):
        first, last = _lengthened(values, int(run[0]), int(run[-1]))
        if runs and first <= runs[-1][1] + _GAP + 1:
            before = runs.pop()
            first, last = before[0], max(before[1], last)
        runs.append((first, last))
    shares = [(first, last, min(1.0, float(values[first : last + 1].sum() / total))) for first, last in runs]
    return sorted(shares, key=lambda run: -run[2])[:MOST_SPANS]


def _lengthened(values: NDArray[np.float64], first: int, last: int) -> tuple[int, int]:
    """A run of at least `LEAST_SLICES`, grown to the side with more uncertainty, or to both where that is equal."""
    middle = first + last
    while last - first + 1 < min(LEAST_SLICES, len(values)):
        below = values[first - 1] if first > 0 else -1.0
        above = values[last + 1] if last + 1 < len(values) else -1.0
        if below > above or (below == above and first + last > middle):
            first -= 1
        else:
            last += 1
    return first, last
