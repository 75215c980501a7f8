"""How long requests took and how they ended, noted from many threads."""

import threading
from collections import defaultdict
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np

_MOST_TOLD = 20  # errors, in words


class End(StrEnum):
    """How a request ended."""

    DONE = "done"
    LATER = "later"  # 503 with Retry-After: asked to come back
    LATE = "late"  # others were faster, which is no error
    DROPPED = "dropped"  # by the client, on purpose
    ERROR = "error"


class Asked(NamedTuple):
    """One request.

    Args:
        kind: what was asked.
        at: when, in seconds since the start.
        seconds: how long it took.
        end: how it ended.
    """

    kind: str
    at: float
    seconds: float
    end: End


class Timings:
    """Every request; safe for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: list[Asked] = []
        self._errors: list[str] = []

    def note(self, asked: Asked, told: str = "") -> None:
        """Note a request that is over, and of an error what was told."""
        with self._lock:
            self._asked.append(asked)
            if asked.end is End.ERROR and len(self._errors) < _MOST_TOLD:
                self._errors.append(f"{asked.kind} at {asked.at:.1f} s: {told}")

    def all(self) -> list[Asked]:
        """What was noted so far."""
        with self._lock:
            return list(self._asked)

    @property
    def errors(self) -> list[str]:
        """The first errors in words."""
        with self._lock:
            return list(self._errors)


def by_kind(asked: Sequence[Asked]) -> dict[str, dict[str, Any]]:
    """Of each kind, how many ended how, and the median, 95th percentile and maximum of the seconds of those done.

    Percentiles are actual values (nearest rank); a kind of which none was done has None there.
    """
    kinds: defaultdict[str, list[Asked]] = defaultdict(list)
    for one in asked:
        kinds[one.kind].append(one)
    return {kind: _row(ones) for kind, ones in sorted(kinds.items())}


def _row(asked: Sequence[Asked]) -> dict[str, Any]:
    counts = {str(end): sum(one.end is end for one in asked) for end in End}
    seconds = [one.seconds for one in asked if one.end is End.DONE]
    if not seconds:
        return {**counts, "p50_s": None, "p95_s": None, "max_s": None}
    p50, p95 = (float(np.percentile(seconds, share, method="inverted_cdf")) for share in (50, 95))
    return {**counts, "p50_s": p50, "p95_s": p95, "max_s": max(seconds)}
