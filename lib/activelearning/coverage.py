"""How well some images stand for others, by what the network makes of them."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lib.activelearning.history import History
from lib.case_scores import CaseScores
from lib.store.pool import Candidate

FARTHEST = 2.0
"""The cosine distance of opposite directions."""
ALIKE = 0.5
"""Near duplicates are this much nearer than images usually are to the next one."""


def distances(one: NDArray[np.floating], other: NDArray[np.floating]) -> NDArray[np.float64]:
    """Cosine distances `(N, M)` of embeddings `(N, F)` and `(M, F)`, 0 to 2; 1 where one is zero."""
    return np.clip(1 - _unit(one) @ _unit(other).T, 0.0, FARTHEST)


def features(candidates: Sequence[Candidate]) -> int:
    """The length of the embeddings that can be compared, which is that of most candidates; 0 if none has one."""
    found = Counter(_usable(one.scores).size for one in candidates)
    return max((size for size in found if size), key=lambda size: (found[size], size), default=0)


def has_embedding(scores: CaseScores | None, length: int) -> bool:
    """Whether there is an embedding of this length, made of numbers, that points anywhere."""
    return 0 < length == _usable(scores).size


def embeddings(candidates: Sequence[Candidate], length: int) -> NDArray[np.float32]:
    """Of candidates, float32 `(N, length)`; zero where there is none of this length."""
    found = np.zeros((len(candidates), length), np.float32)
    for row, one in zip(found, candidates, strict=True):
        if has_embedding(one.scores, length):
            row[:] = _usable(one.scores)
    return found


def known(history: History, length: int) -> NDArray[np.float32]:
    """Embeddings of images that are labelled or in somebody's hands, float32 `(K, length)`; none of another length."""
    found = history.embeddings
    if found is None or found.ndim != 2 or found.shape[1] != length:
        return np.zeros((0, length), np.float32)
    return found[np.isfinite(found).all(1) & found.any(1)]


class Coverage:
    """How far candidates are from the nearest image that is known, and which of them would change that most.

    Args:
        own: embeddings of the candidates `(N, F)`.
        taken: embeddings of the images that are known `(K, F)`.
        weights: how many images each candidate stands for, `(N,)`.
    """

    def __init__(self, own: NDArray[np.floating], taken: NDArray[np.floating], weights: NDArray[np.floating]) -> None:
        self._weights = weights
        self._between = distances(own, own)
        self.nearest = distances(own, taken).min(1, initial=FARTHEST)
        self.gains: NDArray[np.float64] = weights @ np.maximum(0.0, self.nearest[:, None] - self._between)
        """By how much all candidates in all would come nearer to a known one if this one were known."""

    def typical_of(self, index: int) -> NDArray[np.floating]:
        """What the other candidates stand for to which this one is less than half as far as any that is known."""
        found = self._between[:, index] < self.nearest / 2
        found[index] = False
        return self._weights[found]

    def take(self, index: int) -> None:
        """Count one of the candidates as known from now on."""
        changed = np.flatnonzero(self._between[:, index] < self.nearest)
        before, between = self.nearest[changed, None], self._between[changed]
        after = between[:, [index]]
        self.gains -= self._weights[changed] @ (np.maximum(0.0, before - between) - np.maximum(0.0, after - between))
        self.nearest[changed] = after[:, 0]


class Alike:
    """Which candidates are near duplicates of images that are known.

    Args:
        own: embeddings of the candidates `(N, F)`, zero where there is none.
        taken: embeddings of the images that are known `(K, F)`.
    """

    def __init__(self, own: NDArray[np.floating], taken: NDArray[np.floating]) -> None:
        self._has_one = own.any(1)
        self._between = distances(own, own)
        self._nearest = distances(own, taken).min(1, initial=FARTHEST)
        among = self._between[np.ix_(self._has_one, self._has_one)]
        np.fill_diagonal(among, np.inf)
        self._limit = ALIKE * float(np.median(among.min(1))) if len(among) > 1 else 0.0

    @property
    def found(self) -> NDArray[np.bool_]:
        """Of the candidates `(N,)`."""
        near: NDArray[np.bool_] = self._has_one & (self._nearest < self._limit)
        return near

    def take(self, index: int) -> None:
        """Count one of the candidates as known from now on."""
        self._nearest = np.minimum(self._nearest, self._between[:, index])


def _usable(scores: CaseScores | None) -> NDArray[np.float32]:
    found = None if scores is None else scores.embedding
    if found is None or found.ndim != 1 or not np.isfinite(found).all() or not found.any():
        return np.zeros(0, np.float32)
    return found


def _unit(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    exact = rows.astype(np.float64)
    return exact / np.maximum(np.linalg.norm(exact, axis=1, keepdims=True), np.finfo(np.float64).tiny)
