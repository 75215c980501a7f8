"""Strategies: pure functions from candidates to the one to hand out next, with the reason in words.

The candidates are those that `lib.store.pool` puts first, or all images of a PACS; their order does not matter here.
Each strategy prefers images that were not handed out yet, so that a skipped one does not come back at once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lib.store.pool import Candidate


@dataclass(frozen=True)
class Choice:
    """The image chosen and why."""

    image_id: str
    reason: str
    score: float | None = None


Strategy = Callable[[Sequence[Candidate], np.random.Generator], Choice]


def first(candidates: Sequence[Candidate], rng: np.random.Generator) -> Choice:
    """The first by name of those not handed out yet, else the one that waited longest since."""
    chosen = min(candidates, key=lambda candidate: (candidate.last_served, candidate.image_id))
    again = "handed out before and not labelled since, and no image is left that was not"
    reason = again if chosen.last_served else "first unlabelled image by name"
    return Choice(chosen.image_id, reason, chosen.score)


def random(candidates: Sequence[Candidate], rng: np.random.Generator) -> Choice:
    """Any of those that waited longest since they were handed out; those never handed out count as equal."""
    waiting = _waited_longest(candidates)
    chosen = waiting[int(rng.integers(len(waiting)))]
    again = "drawn from the unlabelled images that waited longest since they were handed out"
    reason = again if chosen.last_served else "drawn at random from the unlabelled images not handed out yet"
    return Choice(chosen.image_id, reason, chosen.score)


def uncertainty(candidates: Sequence[Candidate], rng: np.random.Generator) -> Choice:
    """The image the current model is least sure of; at random while none is scored."""
    waiting = _waited_longest(candidates)
    scored = {one.image_id: one.scores.entropy for one in waiting if one.scores is not None}
    if not scored:
        choice = random(waiting, rng)
        return Choice(choice.image_id, f"{choice.reason}; none has an uncertainty score of the current model yet")
    score, best = max((score, image_id) for image_id, score in scored.items())
    reason = f"of the scored images, the model is least sure of this one (score {score:.4f})"
    return Choice(best, reason, score)


def review(candidates: Sequence[Candidate], rng: np.random.Generator) -> Choice:
    """The labelled image whose final label was changed most, for a second look."""
    chosen = min(candidates, key=lambda c: (c.last_served, -(c.score or 0.0), c.image_id))
    if chosen.score is None:
        reason = "a label that nobody has reviewed and that could be compared with nothing"
    else:
        reason = f"of the labels that nobody has reviewed, the most changed (lowest Dice {1 - chosen.score:.2f})"
    return Choice(chosen.image_id, reason, chosen.score)


STRATEGIES: Mapping[str, Strategy] = {"random": random, "first": first, "uncertainty": uncertainty, "review": review}
DESCRIPTIONS: Mapping[str, str] = {
    "random": "A random image, those not handed out yet first",
    "first": "The first image by name, those not handed out yet first",
    "uncertainty": "The image the current model is least sure of (dropout, liver and tumor only)",
    "review": "A labelled image for a second look, the most changed first, with its final label to correct",
}


def _waited_longest(candidates: Sequence[Candidate]) -> list[Candidate]:
    oldest = min(candidate.last_served for candidate in candidates)
    return sorted((c for c in candidates if c.last_served == oldest), key=lambda candidate: candidate.image_id)
