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

from lib.activelearning.coverage import Alike, embeddings, features, known
from lib.activelearning.history import History
from lib.activelearning.parts import class_part, class_shares, next_part
from lib.activelearning.strategy import BY_TURN, HIGHEST_OF_EACH_CLASS, Choice, Strategy, highest
from lib.activelearning.tiers import images, in_tiers
from lib.store.pool import Candidate

WALKS = (HIGHEST_OF_EACH_CLASS, highest("entropy"), BY_TURN)
LAST_BETA = 100.0
_MUCH_CHANCE = 10.0  # of beta: below, reasons speak of chance
_NOTHING = 1e-12  # nats, for the logarithm of scores that are zero


def rank(candidates: Sequence[Candidate], history: History, rng: np.random.Generator) -> list[Choice]:
    """As if all were chosen one after the other."""
    return ranked(candidates, history, rng)


def ranked(
    candidates: Sequence[Candidate], history: History, rng: np.random.Generator, *, without_alike: bool = False
) -> list[Choice]:
    """Rank all candidates as if all were chosen one after the other.

    Args:
        candidates: in any order.
        history: says which part is next, and how much chance there is.
        rng: for the chance.
        without_alike: pass over near duplicates of what is labelled, in somebody's hands or ranked before, while
            something else is left.
    """
    picked = Counter(history.picked)
    beta = LAST_BETA**history.progress
    length = features(candidates) if without_alike else 0
    taken = [known(history, length)]

    def order(tier: list[Candidate]) -> list[Choice]:
        values = _values(tier)
        stands_for = np.array([one.stands_for for one in tier])
        orders = {part: _drawn(scores, stands_for, beta, rng) for part, scores in values.items()}
        shares = class_shares(_classes(tier))
        own = embeddings(tier, length)
        alike = Alike(own, np.concatenate(taken))
        left = np.ones(len(tier), bool)
        ranking = []
        for _ in tier:
            part = next_part(shares, picked)
            waiting = orders[part][left[orders[part]]]
            unlike = np.flatnonzero(~alike.found[waiting])
            passed = int(unlike[0]) if len(unlike) else 0
            best = int(waiting[passed])
            reason = _reason(part, values[part], stands_for, best, beta)
            if passed:
                reason += f"; passing over {passed} much like images chosen before"
            ranking.append(Choice(tier[best].image_id, reason, float(values[part][best]), part))
            left[best] = False
            alike.take(best)
            picked[part] += 1
        taken.append(own)
        return ranking

    return in_tiers(candidates, history, rng, knows=lambda scores: bool(np.isfinite(scores.entropy)), order=order)


def _classes(tier: Sequence[Candidate]) -> list[str]:
    return sorted({name for one in tier if one.scores is not None for name in one.scores.classes})


def _values(tier: Sequence[Candidate]) -> dict[str, NDArray[np.float64]]:
    """By part the scores `(N,)` of the candidates, 0 where one has none of this kind."""
    scores = [one.scores for one in tier if one.scores is not None]
    found = {class_part(name): [each.classes.get(name, 0.0) for each in scores] for name in _classes(tier)}
    found["entropy"] = [each.entropy for each in scores]
    return {part: np.nan_to_num(np.array(values, np.float64), posinf=0.0) for part, values in found.items()}


def _drawn(
    values: NDArray[np.float64], stands_for: NDArray[np.float64], beta: float, rng: np.random.Generator
) -> NDArray[np.intp]:
    """Indices in the order in which they are drawn without replacement."""
    noise = (np.log(stands_for) + rng.gumbel(size=len(values))) / beta
    return np.argsort(-(np.log(np.maximum(values, _NOTHING)) + noise))


def _reason(part: str, values: NDArray[np.float64], stands_for: NDArray[np.float64], index: int, beta: float) -> str:
    what = f"{part.removeprefix('class:')} uncertainty" if part != "entropy" else "uncertainty"
    of_all = f"of {images(stands_for)}"
    if stands_for[index] == 1 and values[index] >= values.max():
        return f"the highest {what} {of_all}"
    chance = ", early in the campaign with much chance" if beta < _MUCH_CHANCE else ""
    lower = min(99, int(100 * stands_for[values < values[index]].sum() / stands_for.sum()))
    return f"drawn by {what}{chance}: higher than in {lower}% {of_all}"


STRATEGY = Strategy(
    name="class_balanced",
    description="An uncertain image, for each class in turn, with less and less chance (ClaSP PE)",
    rank=rank,
    walks=WALKS,
)
