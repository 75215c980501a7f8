"""ClaSP PE: uncertainty class by class, with less and less chance (arXiv 2601.13677).

Two thirds of the choices go evenly over the foreground classes, by the class's share of the uncertainty, so that the
large liver does not outvote the small tumors; one third goes by plain entropy. A part chooses the highest
log(score) + Gumbel(0, 1 / beta), where beta rises from 1 to 100 over the campaign: early the chance of an image is
proportional to its score, which keeps choices apart while the model knows little, in the end the highest wins.

An image that stands for m others gets log(m) / beta on top: the maximum of m equal ones is shifted by that.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lib.activelearning.coverage import FARTHEST, ONE_BY_ONE, Novelty, embeddings, features, known
from lib.activelearning.history import History
from lib.activelearning.parts import class_part, class_shares, next_part
from lib.activelearning.strategy import BY_TURN, HIGHEST_OF_EACH_CLASS, Choice, Strategy, highest
from lib.activelearning.tiers import images, in_tiers
from lib.case_scores import CaseScores
from lib.store.pool import Candidate

WALKS = (HIGHEST_OF_EACH_CLASS, highest("entropy"), BY_TURN)
LAST_BETA = 100.0
_MUCH_CHANCE = 10.0  # of beta: below, reasons speak of chance
_NOTHING = 1e-12  # nats, for the logarithm of scores that are zero


def rank(candidates: Sequence[Candidate], history: History, rng: np.random.Generator) -> list[Choice]:
    """As if all were chosen one after the other."""
    return ranked(candidates, history, rng)


def ranked(
    candidates: Sequence[Candidate], history: History, rng: np.random.Generator, *, novel: bool = False
) -> list[Choice]:
    """Rank all candidates as if one after the other was chosen; behind the first, what is chosen changes no distance.

    Args:
        candidates: in any order.
        history: says which part is next, and how much chance there is.
        rng: for the chance.
        novel: a score counts times the distance to the nearest image that is labelled, in somebody's hands or ranked
            before, by embeddings: scores are high for all images of a kind that the model does not know, and one of
            them teaches it most of what all would.
    """
    picked = Counter(history.picked)
    beta = LAST_BETA**history.progress
    length = features(candidates, history.model_version) if novel else 0
    taken = [known(history, length)]

    def order(tier: list[Candidate]) -> list[Choice]:
        stands_for = np.array([one.stands_for for one in tier])
        parts = {part: _Part(part, values, stands_for, beta, rng) for part, values in _values(tier).items()}
        shares = class_shares(_classes(tier))
        own = embeddings(tier, length)
        novelty = Novelty(own, np.concatenate(taken))  # without embeddings, all are as new
        left = np.ones(len(tier), bool)
        ranking: list[Choice] = []

        def choose(part: str, index: int) -> None:
            reason = parts[part].reason(index)
            if own[index].any() and novelty.nearest[index] < FARTHEST:
                reason += f"; distance to the nearest one before it {novelty.nearest[index]:.3f}"
            ranking.append(Choice(tier[index].image_id, reason, parts[part].values[index], part))
            left[index] = False
            picked[part] += 1

        def keys(part: str) -> NDArray[np.float64]:
            return parts[part].keys + np.log(np.maximum(novelty.nearest, _NOTHING))

        for _ in tier[:ONE_BY_ONE]:
            part = next_part(shares, picked)
            best = int(np.argmax(np.where(left, keys(part), -np.inf)))
            choose(part, best)
            novelty.take(best)
        orders = {part: iter(np.argsort(-keys(part), kind="stable").tolist()) for part in parts}
        for _ in tier[ONE_BY_ONE:]:
            part = next_part(shares, picked)
            choose(part, next(index for index in orders[part] if left[index]))
        taken.append(own[own.any(1)])
        return ranking

    return in_tiers(candidates, history, rng, knows=knows, order=order)


def knows(scores: CaseScores) -> bool:
    """Whether a model has told how uncertain it is."""
    return scores.entropy is not None and bool(np.isfinite(scores.entropy))


def _classes(tier: Sequence[Candidate]) -> list[str]:
    return sorted({name for one in tier if one.scores is not None for name in one.scores.classes})


def _values(tier: Sequence[Candidate]) -> dict[str, NDArray[np.float64]]:
    """By part the scores `(N,)` of the candidates, 0 where one has none of this kind."""
    scores = [one.scores for one in tier if one.scores is not None]
    found = {class_part(name): [each.classes.get(name, 0.0) for each in scores] for name in _classes(tier)}
    found["entropy"] = [each.entropy or 0.0 for each in scores]
    return {part: np.nan_to_num(np.array(values, np.float64), posinf=0.0) for part, values in found.items()}


class _Part:
    """Candidates as one part of the strategy sees them.

    Args:
        name: of the part.
        scores: that it goes by, `(N,)`.
        stands_for: how many images each candidate stands for, `(N,)`.
        beta: how little chance there is.
        rng: for the chance.

    Attributes:
        values: the scores.
        keys: logarithms of the scores with their share of chance, `(N,)`; the highest is chosen.
    """

    def __init__(
        self,
        name: str,
        scores: NDArray[np.float64],
        stands_for: NDArray[np.float64],
        beta: float,
        rng: np.random.Generator,
    ) -> None:
        noise = (np.log(stands_for) + rng.gumbel(size=len(scores))) / beta
        self.keys: NDArray[np.float64] = np.log(np.maximum(scores, _NOTHING)) + noise
        self.values: list[float] = scores.tolist()
        self._what = f"{name.removeprefix('class:')} uncertainty" if name != "entropy" else "uncertainty"
        self._of_all = f"of {images(stands_for)}"
        self._chance = ", early in the campaign with much chance" if beta < _MUCH_CHANCE else ""
        ascending = np.argsort(scores)
        below = np.concatenate([[0.0], np.cumsum(stands_for[ascending])])
        lower = below[np.searchsorted(scores[ascending], scores)]
        self._percent = np.minimum(99, 100 * lower / stands_for.sum()).astype(int).tolist()
        self._is_highest = ((stands_for == 1) & (scores >= scores.max())).tolist()

    def reason(self, index: int) -> str:
        """Why a candidate was drawn."""
        if self._is_highest[index]:
            return f"the highest {self._what} {self._of_all}"
        return f"drawn by {self._what}{self._chance}: higher than in {self._percent[index]}% {self._of_all}"


STRATEGY = Strategy(
    name="class_balanced",
    description="An uncertain image, for each class in turn, with less and less chance (ClaSP PE)",
    rank=rank,
    walks=WALKS,
)
