"""Labelled images for a second look."""

from collections.abc import Sequence

import numpy as np

from lib.activelearning.history import History
from lib.activelearning.strategy import FOR_REVIEW, Choice, Strategy
from lib.store.pool import Candidate


def rank(candidates: Sequence[Candidate], history: History, rng: np.random.Generator) -> list[Choice]:
    """Those whose final label was changed most, as `Candidate.score` says, first."""
    ranking = sorted(candidates, key=lambda one: (one.last_served, -(one.score or 0.0), one.image_id))
    return [
        Choice(one.image_id, _reason(one.score, is_first=index == 0), one.score, "review")
        for index, one in enumerate(ranking)
    ]


def _reason(change: float | None, *, is_first: bool) -> str:
    if change is None:
        return "a label that nobody has reviewed and that began with no segmentation to compare it with"
    changed = "of the labels that nobody has reviewed, the most changed" if is_first else "a label that was changed"
    return f"{changed} (lowest Dice {1 - change:.2f})"


STRATEGY = Strategy(
    name="review",
    description="A labelled image for a second look, the most changed first, with its final label to correct",
    rank=rank,
    walks=(FOR_REVIEW,),
    or_else=(FOR_REVIEW,),
)
