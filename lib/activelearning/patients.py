"""The rule of patients: annotators see different ones, as the next image of the same shows little that is new."""

import heapq
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from lib.activelearning.strategy import Choice

APART = 2
"""A patient is passed over who was among so many handed out last, while another is there."""


def in_turn(
    ranking: Sequence[Choice],
    patients: Mapping[str, str | None],
    recent: Sequence[str | None],
    again: Collection[str] = (),
) -> list[Choice]:
    """Put a ranking in an order in which patients take turns; otherwise it stays as it is.

    The first k of the result are a batch of k images to which the rule applies as well. What comes before images that
    were ranked higher says so in its reason.

    Args:
        ranking: the best first.
        patients: by image the key of its patient; None, or no entry, where that is not known, which counts as another
            patient each time.
        recent: patients of the images handed out, the last at the end.
        again: images that were handed out before; they stay behind the others whosever they are.
    """
    last: deque[str | int | None] = deque(recent, maxlen=APART)
    fresh = [choice for choice in ranking if choice.image_id not in again]
    served = [choice for choice in ranking if choice.image_id in again]
    return _in_turn(fresh, patients, last) + _in_turn(served, patients, last)


def _in_turn(
    ranking: Sequence[Choice], patients: Mapping[str, str | None], last: deque[str | int | None]
) -> list[Choice]:
    """Puts the patients into `last` as well."""
    waiting: dict[str | int, deque[int]] = {}
    for place, choice in enumerate(ranking):
        key = patients.get(choice.image_id)
        waiting.setdefault(place if key is None else key, deque()).append(place)
    heads = [(places[0], patient) for patient, places in waiting.items()]  # the best image of each, a heap as it is
    result: list[Choice] = []
    while heads:
        passed = []
        while heads and heads[0][1] in last:
            passed.append(heapq.heappop(heads))
        kept_its_place = not passed or not heads
        place, patient = heapq.heappop(heads) if heads else passed.pop(0)
        for head in passed:
            heapq.heappush(heads, head)
        waiting[patient].popleft()
        if waiting[patient]:
            heapq.heappush(heads, (waiting[patient][0], patient))
        last.append(patient)
        choice = ranking[place]
        if not kept_its_place:
            choice = replace(choice, reason=f"{choice.reason}; those ranked higher are of patients just handed out")
        result.append(choice)
    return result
