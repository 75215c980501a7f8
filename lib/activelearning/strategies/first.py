"""By name."""

from collections.abc import Sequence

import numpy as np

from lib.activelearning.history import History
from lib.activelearning.strategy import BY_NAME, Choice, Strategy
from lib.activelearning.tiers import Turns, waited_longest
from lib.store.pool import Candidate


def rank(candidates: Sequence[Candidate], history: History, rng: np.random.Generator) -> list[Choice]:
    """Those not handed out yet by name, then the others, the least recently handed out first."""
    turns = Turns.of(candidates)
    reasons = ["first unlabelled image by name"] + ["next unlabelled image by name"] * len(turns.fresh)
    ranking = [Choice(one.image_id, why, part="first") for one, why in zip(turns.fresh, reasons, strict=False)]
    return ranking + waited_longest(turns, rng)


STRATEGY = Strategy(
    name="first",
    description="The first image by name, those not handed out yet first",
    rank=rank,
    walks=(BY_NAME,),
    or_else=(BY_NAME,),
)
