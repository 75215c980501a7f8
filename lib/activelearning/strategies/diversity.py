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

from lib.activelearning.coverage import FARTHEST, Coverage, distances, embeddings, features, has_embedding, known
from lib.activelearning.history import History
from lib.activelearning.strategy import BY_TURN, WITH_FOREGROUND, Choice, Strategy
from lib.activelearning.tiers import images, in_tiers
from lib.store.pool import Candidate

_SAME = 1e-6  # a cosine distance that may come from keeping embeddings in half precision


def rank(candidates: Sequence[Candidate], history: History, rng: np.random.Generator) -> list[Choice]:
    """Those that stand for most others first; those without an embedding at random."""
    length = features(candidates)
    labelled = known(history, length)
    taken = [labelled]

    def order(tier: list[Candidate]) -> list[Choice]:
        own = embeddings(tier, length)
        coverage = Coverage(own, np.concatenate(taken), np.array([one.stands_for for one in tier]))
        distance = distances(own, labelled).min(1, initial=FARTHEST) if len(labelled) else coverage.nearest
        to_whom = _known(len(labelled)) if len(labelled) else "all ranked before it"
        left = np.ones(len(tier), bool)
        ranking: list[Choice] = []
        for _ in tier:
            best = int(np.argmax(np.where(left, coverage.gains, -np.inf)))
            if len(labelled) or len(taken) > 1 or ranking:
                score = float(distance[best])
                reason = _reason(score, coverage.typical_of(best), to_whom)
            else:
                score = None
                reason = "the most typical of the images looked at; there is none labelled yet to compare them with"
            ranking.append(Choice(tier[best].image_id, reason, score, "diversity"))
            coverage.take(best)
            left[best] = False
        taken.append(own)
        return ranking

    return in_tiers(
        candidates,
        history,
        rng,
        knows=lambda scores: has_embedding(scores, length),
        order=order,
        what="features to compare",
    )


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
