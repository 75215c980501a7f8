"""Images that stand for as many others as possible which no labelled image stands for yet.

The greedy solution of k-medoids (facility location): each choice is the image by which the distances of all images
looked at to the nearest known one shrink most in all. With nothing known that is the most typical image; then it is the
middle of the largest group that is far from all that is known. Of two usual ways, k-center (arXiv 1708.00489) takes
what is farthest from the known, as a rule an outlier, which hurts while there are few labels; TypiClust (arXiv
2202.02794) takes the most typical image of the largest cluster without labels, but clusters anew, and by chance, for
each choice. This has the typical images of the second and no chance, and shrinks the same as its k-means, as a cosine
distance of unit vectors is half of a squared one. Images of biomedicine were chosen like this before (arXiv
1706.04737).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lib.activelearning.coverage import (
    FARTHEST,
    ONE_BY_ONE,
    Coverage,
    distances,
    embeddings,
    features,
    has_embedding,
    known,
)
from lib.activelearning.history import History
from lib.activelearning.strategy import BY_TURN, WITH_FOREGROUND, Choice, Strategy
from lib.activelearning.tiers import images, in_tiers
from lib.store.pool import Candidate

_MORE = 1.2  # uncertain, by the mean, is worth a word
_SAME = 1e-6  # a cosine distance that may come from keeping embeddings in half precision


def rank(candidates: Sequence[Candidate], history: History, rng: np.random.Generator) -> list[Choice]:
    """Those that stand for most others first; those without an embedding at random."""
    return ranked(candidates, history, rng)


def ranked(
    candidates: Sequence[Candidate], history: History, rng: np.random.Generator, *, to_learn: bool = False
) -> list[Choice]:
    """Rank all candidates, as if the first were chosen one after the other.

    Args:
        candidates: in any order.
        history: holds the embeddings of what is known.
        rng: for those without an embedding.
        to_learn: each image counts as much as the model is uncertain about it, by the entropy of its prediction
            (CLUE, arXiv 2010.08666), so that images stand for what the model has still to learn; and those come first
            that show as much of the rarest class as half of all images do, as a label without a tumor teaches nothing
            of tumors. Neither where no model has told that.
    """
    length = features(candidates, history.model_version)
    labelled = known(history, length)
    taken = [labelled]

    def order(tier: list[Candidate]) -> list[Choice]:
        own = embeddings(tier, length)
        stands_for = np.array([one.stands_for for one in tier])
        uncertainty = _uncertainty(tier, stands_for) if to_learn else np.ones(len(tier))
        first = _shows_rarest(tier, stands_for) if to_learn else np.ones(len(tier), bool)
        coverage = Coverage(own, np.concatenate(taken), stands_for * uncertainty)
        distance = distances(own, labelled).min(1, initial=FARTHEST) if len(labelled) else coverage.nearest
        to_whom = _known(len(labelled)) if len(labelled) else "all ranked before it"
        left = np.ones(len(tier), bool)
        ranking: list[Choice] = []

        def choose(index: int, others: NDArray[np.floating]) -> None:
            if len(labelled) or len(taken) > 1 or ranking:
                score = float(distance[index])
                reason = _reason(score, others, to_whom)
            else:
                score = None
                reason = "the most typical of the images looked at; there is none labelled yet to compare them with"
            if uncertainty[index] > _MORE:
                reason += f"; {uncertainty[index]:.1f} times as uncertain as images usually are"
            ranking.append(Choice(tier[index].image_id, reason, score, "diversity"))

        for _ in tier[:ONE_BY_ONE]:
            best = int(np.argmax(np.where(left & first if (left & first).any() else left, coverage.gains, -np.inf)))
            choose(best, stands_for[coverage.is_typical_of(best)])
            coverage.take(best)
            left[best] = False
        for other in np.lexsort((-coverage.gains, ~first)):
            if left[other]:
                choose(int(other), stands_for[:0])
        taken.append(own[own.any(1)])
        return ranking

    return in_tiers(
        candidates,
        history,
        rng,
        knows=lambda scores: has_embedding(scores, length),
        order=order,
        what="features to compare",
    )


def _uncertainty(tier: Sequence[Candidate], stands_for: NDArray[np.floating]) -> NDArray[np.float64]:
    """Entropies `(N,)` by the mean of all images that the candidates stand for; 1 where there is none."""
    entropies = np.array([np.nan if one.scores is None else one.scores.entropy for one in tier], np.float64)
    there = np.isfinite(entropies)
    mean = float(np.average(entropies[there], weights=stands_for[there])) if there.any() else 0.0
    return np.where(there, entropies / mean, 1.0) if mean > 0 else np.ones(len(tier))


def _shows_rarest(tier: Sequence[Candidate], stands_for: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which candidates `(N,)` show as much of the class of the least volume as half of all images that they stand for;
    all if no model has seen any.
    """
    seen = [one.scores.ml if one.scores is not None else {} for one in tier]
    by_class = [np.array([ml.get(name, 0.0) for ml in seen]) for name in sorted({name for ml in seen for name in ml})]
    rarest = min(by_class, key=lambda ml: float(ml @ stands_for), default=np.zeros(len(tier)))
    ascending = np.argsort(rarest)
    weights = np.cumsum(stands_for[ascending])
    median = rarest[ascending[np.searchsorted(weights, weights[-1] / 2)]]
    shown = (rarest >= median) & (rarest > 0)
    return shown if shown.any() else np.ones(len(tier), bool)


def _known(count: int) -> str:
    return "the one image labelled or in work" if count == 1 else f"all {count:,} images labelled or in work"


def _reason(distance: float, others: NDArray[np.floating], to_whom: str) -> str:
    if distance < _SAME:
        return f"of what is left the least like {to_whom}, but nearly the same"
    unlike = f"unlike {to_whom} (distance {distance:.2g})"
    return f"{unlike}, and typical of {images(others)}" if len(others) else unlike


STRATEGY = Strategy(
    name="diversity",
    description="An image that is typical of many which are unlike all labelled ones",
    rank=rank,
    walks=(WITH_FOREGROUND, BY_TURN),
)
