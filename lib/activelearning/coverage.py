"""How well some images stand for others, by what the network makes of them."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lib.activelearning.history import History
from lib.case_scores import CaseScores
from lib.store.pool import Candidate

FARTHEST = 2.0
"""The cosine distance of opposite directions."""

ONE_BY_ONE = 16
"""So many are chosen as if one after the other, more than are passed over as a rule; behind them come the others by
what each would add to these."""


def distances(one: NDArray[np.floating], other: NDArray[np.floating]) -> NDArray[np.float64]:
    """Cosine distances `(N, M)` of embeddings `(N, F)` and `(M, F)`, 0 to 2; 1 where one is zero."""
    return np.clip(1 - _unit(one) @ _unit(other).T, 0.0, FARTHEST)


def features(candidates: Sequence[Candidate], model_version: str | None) -> int:
    """The length of the embeddings that can be compared: that of most candidates which the model in force has scored;
    of most, if it has scored none; 0 if none has an embedding.
    """
    current = [one for one in candidates if one.model_version == model_version]
    usable = _usable(current) or _usable(candidates)
    found = {length: len(rows) for length, (rows, _) in usable.items()}
    return max(found, key=lambda length: (found[length], length), default=0)


def has_embedding(scores: CaseScores | None, length: int) -> bool:
    """Whether there is an embedding of this length, made of numbers, that points anywhere."""
    found = None if scores is None else scores.embedding
    if found is None or found.shape != (length,):
        return False
    return bool(np.isfinite(found).all() and found.any())


def embeddings(candidates: Sequence[Candidate], length: int) -> NDArray[np.float32]:
    """Of candidates, float32 `(N, length)`; zero where there is none of this length."""
    found = np.zeros((len(candidates), length), np.float32)
    usable = _usable(candidates).get(length)
    if usable is not None:
        found[usable[0]] = usable[1]
    return found


def known(history: History, length: int) -> NDArray[np.float32]:
    """Embeddings of images that are labelled or in somebody's hands, float32 `(K, length)`; none of another length."""
    found = history.embeddings
    if found is None or found.ndim != 2 or found.shape[1] != length:
        return np.zeros((0, length), np.float32)
    return found[np.isfinite(found).all(1) & found.any(1)]


class Novelty:
    """How far candidates are from the nearest image that is known.

    Args:
        own: embeddings of the candidates `(N, F)`, zero where there is none.
        taken: embeddings of the images that are known `(K, F)`.

    Attributes:
        nearest: the distances `(N,)`; where there is no embedding, and so no distance, the one that is usual among
            the candidates that are left.
    """

    def __init__(self, own: NDArray[np.floating], taken: NDArray[np.floating]) -> None:
        self._own = own
        self._has_none = ~own.any(1)
        self._left = ~self._has_none
        self.nearest = distances(own, taken).min(1, initial=FARTHEST)
        self.nearest[self._has_none] = FARTHEST
        self._fill()

    def take(self, index: int) -> None:
        """Count one of the candidates as known from now on."""
        if not self._has_none[index]:
            np.minimum(self.nearest, distances(self._own, self._own[[index]])[:, 0], out=self.nearest)
            self._left[index] = False
            self._fill()

    def _fill(self) -> None:
        if self._left.any():
            self.nearest[self._has_none] = np.median(self.nearest[self._left])


class Coverage(Novelty):
    """The same, and which of the candidates would change it most.

    Args:
        own: embeddings of the candidates `(N, F)`, none of them zero.
        taken: embeddings of the images that are known `(K, F)`.
        weights: how much each candidate counts, such as how many images it stands for, `(N,)`.
    """

    def __init__(self, own: NDArray[np.floating], taken: NDArray[np.floating], weights: NDArray[np.floating]) -> None:
        super().__init__(own, taken)
        self._weights = weights
        self._between = distances(own, own)
        self.gains: NDArray[np.float64] = weights @ np.maximum(0.0, self.nearest[:, None] - self._between)
        """By how much all candidates in all would come nearer to a known one if this one were known."""

    def is_typical_of(self, index: int) -> NDArray[np.bool_]:
        """To which of the other candidates this one is less than half as far as any that is known, `(N,)`."""
        found = self._between[:, index] < self.nearest / 2
        found[index] = False
        return found

    def take(self, index: int) -> None:
        """Count one of the candidates as known from now on."""
        changed = np.flatnonzero(self._between[:, index] < self.nearest)
        before, between = self.nearest[changed, None], self._between[changed]
        after = between[:, [index]]
        self.gains -= self._weights[changed] @ (np.maximum(0.0, before - between) - np.maximum(0.0, after - between))
        super().take(index)


def _usable(candidates: Sequence[Candidate]) -> dict[int, tuple[NDArray[np.intp], NDArray[np.float32]]]:
    """By length the embeddings that are made of numbers and point anywhere, and which candidates they are of."""
    found: defaultdict[int, list[tuple[int, NDArray[np.float32]]]] = defaultdict(list)
    for place, one in enumerate(candidates):
        embedding = None if one.scores is None else one.scores.embedding
        if embedding is not None and embedding.ndim == 1:
            found[embedding.size].append((place, embedding))
    usable = {}
    for length, each in found.items():
        rows = np.stack([embedding for _, embedding in each])
        good = np.isfinite(rows).all(1) & rows.any(1)
        if good.any():
            usable[length] = np.array([place for place, _ in each])[good], rows[good]
    return usable


def _unit(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    exact = rows.astype(np.float64)
    return exact / np.maximum(np.linalg.norm(exact, axis=1, keepdims=True), np.finfo(np.float64).tiny)
