"""The order that no score changes.

First come the images that were not handed out yet, so that a skipped one does not come back at once: of them those of
which the model in force has what a strategy goes by, then those of which another model has it, then the others at
random. Last come those that were handed out before, the least recently first.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lib.activelearning.history import History
from lib.activelearning.strategy import Choice
from lib.case_scores import CaseScores
from lib.store.pool import Candidate

Order = Callable[[list[Candidate]], list[Choice]]


@dataclass(frozen=True)
class Turns:
    """Candidates by name, apart by whether they were handed out.

    Args:
        fresh: those that were not.
        served: those that were.
    """

    fresh: list[Candidate]
    served: list[Candidate]

    @classmethod
    def of(cls, candidates: Iterable[Candidate]) -> "Turns":
        """The same whatever the order of the candidates."""
        named = sorted(candidates, key=lambda candidate: candidate.image_id)
        return cls([one for one in named if not one.last_served], [one for one in named if one.last_served])


def in_tiers(
    candidates: Sequence[Candidate],
    history: History,
    rng: np.random.Generator,
    *,
    knows: Callable[[CaseScores], bool],
    order: Order,
    what: str = "scores",
    others: Order | None = None,
) -> list[Choice]:
    """Rank all candidates, tier by tier.

    Args:
        candidates: in any order.
        history: tells which model is in force.
        rng: for those of which nothing is known.
        knows: whether scores hold what the strategy goes by.
        order: ranks the candidates of a tier that have such scores; called for one tier after the other.
        what: the strategy goes by, in words.
        others: ranks those that have no such scores; at random if not given.
    """
    turns = Turns.of(candidates)
    current: list[Candidate] = []
    earlier: list[Candidate] = []
    unknown: list[Candidate] = []
    for one in turns.fresh:
        if one.scores is None or not knows(one.scores):
            unknown.append(one)
        else:
            (current if one.model_version == history.model_version else earlier).append(one)
    ranking = order(current) if current else []
    if earlier:
        ranking += [replace(one, reason=f"{one.reason}; scored by an earlier model") for one in order(earlier)]
    if unknown and others is not None:
        ranking += others(unknown)
    elif unknown:
        why = f"has no {what} yet, and others have" if ranking else f"none has {what} of the current model yet"
        ranking += at_random(unknown, f"drawn at random: {why}", rng)
    return ranking + waited_longest(turns, rng)


def highest_first(
    candidates: Sequence[Candidate],
    history: History,
    rng: np.random.Generator,
    *,
    value: Callable[[CaseScores], float | None],
    reason: str,
    part: str,
    what: str = "scores",
) -> list[Choice]:
    """Rank all candidates by one value, the highest of a tier first.

    Args:
        candidates: in any order.
        history: tells which model is in force.
        rng: for those without the value.
        value: of a candidate; None, or what is no finite number, where it is not known.
        reason: has the fields `{place}`, such as "the highest" and "the 2nd highest", and `{value}`.
        part: see `Choice.part`.
        what: the value is, in words.
    """

    def number(scores: CaseScores) -> float:
        found = value(scores)
        return float("nan") if found is None else float(found)

    def order(tier: list[Candidate]) -> list[Choice]:
        values = [(number(one.scores), one.image_id) for one in tier if one.scores is not None]
        return [
            Choice(image_id, reason.format(place=_highest(place), value=f"{found:.3g}"), found, part)
            for place, (found, image_id) in enumerate(sorted(values, key=lambda pair: -pair[0]), 1)
        ]

    return in_tiers(
        candidates, history, rng, knows=lambda scores: bool(np.isfinite(number(scores))), order=order, what=what
    )


def at_random(
    candidates: Sequence[Candidate], reason: str, rng: np.random.Generator, part: str = "random"
) -> list[Choice]:
    """All candidates in a random order, as if drawn from all images that they stand for; by name before."""
    weights = np.array([one.stands_for for one in candidates])
    keys = np.log(weights) + rng.gumbel(size=len(candidates))
    return [Choice(candidates[index].image_id, reason, part=part) for index in np.argsort(-keys)]


def waited_longest(turns: Turns, rng: np.random.Generator) -> list[Choice]:
    """Those that were handed out, the least recently first; at random where that is equal."""
    reason = "handed out before and not labelled since"
    if not turns.fresh:
        reason += ", and no image is left that was not"
    order = np.lexsort((rng.random(len(turns.served)), np.array([one.last_served for one in turns.served])))
    return [Choice(turns.served[index].image_id, reason, part="again") for index in order]


def images(stands_for: Iterable[float]) -> str:
    """How many images candidates stand for in all, in words; roughly if some stand for others."""
    weights = list(stands_for)
    total = float(sum(weights))
    if all(weight == 1 for weight in weights):
        return f"{total:,.0f} image{'s' * (total != 1)}"
    return f"about {float(f'{total:.2g}'):,.0f} images"


def _highest(place: int) -> str:
    if place == 1:
        return "the highest"
    ending = {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th") if place % 100 not in (11, 12, 13) else "th"
    return f"the {place}{ending} highest"
