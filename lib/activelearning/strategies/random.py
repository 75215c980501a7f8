"""At random: what all others have to be better than."""

from collections.abc import Sequence

import numpy as np

from lib.activelearning.history import History
from lib.activelearning.strategy import BY_TURN, Choice, Strategy
from lib.activelearning.tiers import Turns, at_random, waited_longest
from lib.store.pool import Candidate


def rank(candidates: Sequence[Candidate], history: History, rng: np.random.Generator) -> list[Choice]:
    """Those not handed out yet in a random order, then the others, the least recently handed out first."""
    turns = Turns.of(candidates)
    reason = "drawn at random from the unlabelled images not handed out yet"
    return at_random(turns.fresh, reason, rng) + waited_longest(turns, rng)


STRATEGY = Strategy(
    name="random",
    description="A random image, those not handed out yet first",
    rank=rank,
    walks=(BY_TURN,),
)
