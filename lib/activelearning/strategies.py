"""Strategies: pure functions from candidates to the one to label next, with the reason in words."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Candidate:
    """An unlabelled image.

    Args:
        image_id: of the image.
        score: how much the current model would gain by it; None while it has not been scored.
        last_served: seconds since the epoch when it was last handed out, 0 if never.
    """

    image_id: str
    score: float | None = None
    last_served: float = 0.0


@dataclass(frozen=True)
class Choice:
    """The image chosen and why."""

    image_id: str
    reason: str
    score: float | None = None


Strategy = Callable[[Sequence[Candidate], np.random.Generator], Choice]


def first(candidates: Sequence[Candidate], rng: np.random.Generator) -> Choice:
    """The first by name."""
    chosen = min(candidates, key=lambda candidate: candidate.image_id)
    return Choice(chosen.image_id, "first unlabelled image by name", chosen.score)


def random(candidates: Sequence[Candidate], rng: np.random.Generator) -> Choice:
    """Any of those that were handed out least recently, so that a skipped image does not come back at once."""
    oldest = min(candidate.last_served for candidate in candidates)
    waiting = sorted(c.image_id for c in candidates if c.last_served == oldest)
    return Choice(str(rng.choice(waiting)), f"drawn at random from {len(waiting)} unlabelled images")


def uncertainty(candidates: Sequence[Candidate], rng: np.random.Generator) -> Choice:
    """The image the current model is least sure of; at random while none is scored."""
    scored = [candidate for candidate in candidates if candidate.score is not None]
    if not scored:
        choice = random(candidates, rng)
        return Choice(choice.image_id, f"{choice.reason}; none has an uncertainty score of the current model yet")
    best = max(scored, key=lambda candidate: (candidate.score or 0.0, candidate.image_id))
    reason = f"the model is least sure of this one among {len(scored)} scored images (score {best.score:.4f})"
    return Choice(best.image_id, reason, best.score)


STRATEGIES: Mapping[str, Strategy] = {"random": random, "first": first, "uncertainty": uncertainty}
DESCRIPTIONS: Mapping[str, str] = {
    "random": "A random image, those not handed out yet first",
    "first": "The first image by name",
    "uncertainty": "The image the current model is least sure of (dropout, liver and tumor only)",
}
