"""The image the model is least sure of."""

from collections.abc import Sequence

import numpy as np

from lib.activelearning.history import History
from lib.activelearning.strategy import Choice, Strategy, highest
from lib.activelearning.tiers import highest_first
from lib.store.pool import Candidate


def rank(candidates: Sequence[Candidate], history: History, rng: np.random.Generator) -> list[Choice]:
    """The highest mean predictive entropy first."""
    reason = "{place} uncertainty (mean entropy {value}) of the images scored"
    return highest_first(candidates, history, rng, value=lambda scores: scores.entropy, reason=reason, part="entropy")


STRATEGY = Strategy(
    name="entropy",
    description="The image the current model is least sure of, in and around what it segments",
    rank=rank,
    walks=(highest("entropy"),),
)
