"""The image on which the model's passes with dropout disagree most (BALD: arXiv 1112.5745, 1703.02910)."""

from collections.abc import Sequence

import numpy as np

from lib.activelearning.history import History
from lib.activelearning.strategy import Choice, Strategy, highest
from lib.activelearning.tiers import highest_first
from lib.store.pool import Candidate


def rank(candidates: Sequence[Candidate], history: History, rng: np.random.Generator) -> list[Choice]:
    """The highest mutual information of prediction and weights first."""
    reason = "{place} disagreement of the model with itself under dropout ({value}) of the images scored"
    return highest_first(
        candidates,
        history,
        rng,
        value=lambda scores: scores.bald,
        reason=reason,
        part="bald",
        what="dropout scores",
    )


STRATEGY = Strategy(
    name="bald",
    description="The image on which the current model contradicts itself most under dropout",
    rank=rank,
    walks=(highest("bald"),),
)
