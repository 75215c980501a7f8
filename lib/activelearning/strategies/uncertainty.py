"""The image with the highest score of `lib.activelearning.uncertainty`, as long as that makes scores."""

from collections.abc import Sequence

import numpy as np

from lib.activelearning.history import History
from lib.activelearning.strategy import Choice, Strategy
from lib.activelearning.tiers import Turns, at_random, waited_longest
from lib.store.pool import Candidate


def rank(candidates: Sequence[Candidate], history: History, rng: np.random.Generator) -> list[Choice]:
    """The highest `Candidate.score` first."""
    turns = Turns.of(candidates)
    scored = sorted((one for one in turns.fresh if one.score is not None), key=lambda one: -(one.score or 0.0))
    reason = "of the scored images, the model is least sure of this one (score {:.4f})"
    ranking = [Choice(one.image_id, reason.format(one.score), one.score, "uncertainty") for one in scored]
    unscored = [one for one in turns.fresh if one.score is None]
    ranking += at_random(unscored, "drawn at random; none has an uncertainty score of the current model yet", rng)
    return ranking + waited_longest(turns, rng)


STRATEGY = Strategy(
    name="uncertainty",
    description="The image the current model is least sure of (dropout, liver and tumor only)",
    rank=rank,
)
