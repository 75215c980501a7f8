"""What a strategy is: a name for people, what it looks at, and a pure function that ranks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lib.activelearning.history import History
from lib.store import pool
from lib.store.pool import Candidate

BY_NAME, BY_TURN, FOR_REVIEW, WITH_FOREGROUND = pool.NAME, pool.TURN, pool.FOR_REVIEW, pool.FOREGROUND
"""Walks through the pool: by name; at random among those that waited longest; most changed final labels first; at
random among those in which the model sees a liver or a tumor. The others are `highest(kind)`."""


def highest(kind: str) -> str:
    """The walk through the images with the highest score of a kind: `"entropy"`, `"bald"` or `"class:tumor"`."""
    return f"{pool.HIGHEST}{kind}"


HIGHEST_OF_EACH_CLASS = pool.HIGHEST_OF_EACH_CLASS


@dataclass(frozen=True)
class Choice:
    """An image and why it should be next.

    Args:
        image_id: of the image.
        reason: in words that an annotator understands.
        score: by which it was chosen, None if by none.
        part: of the strategy which chose it, such as "class:tumor"; counted in `History.picked`.
    """

    image_id: str
    reason: str
    score: float | None = None
    part: str = ""


Rank = Callable[[Sequence[Candidate], History, np.random.Generator], list[Choice]]


@dataclass(frozen=True)
class Strategy:
    """A way to choose.

    Args:
        name: by which clients ask for it.
        description: one line, shown to annotators.
        rank: from candidates, whose order does not matter, to all of them, the best first.
        walks: where its candidates come from; each walk gives some, so that it need not look at the whole pool.
        or_else: where they come from if `walks` give none.
    """

    name: str
    description: str
    rank: Rank
    walks: tuple[str, ...] = (BY_TURN,)
    or_else: tuple[str, ...] = (BY_TURN,)
