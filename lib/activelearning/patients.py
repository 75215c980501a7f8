"""The rule of patients: annotators see different ones, as the next image of the same shows little that is new."""

import heapq
from collections import deque
from collections.abc import Mapping, Sequence

from lib.activelearning.strategy import Choice

APART = 2
"""A patient is passed over who was among so many handed out last, while another is there."""


def in_turn(
    ranking: Sequence[Choice], patients: Mapping[str, str | None], recent: Sequence[str | None]
) -> list[Choice]:
    """Put a ranking in an order in which patients take turns; otherwise it stays as it is.

    The first k of the result are a batch of k images to which the rule applies as well.

    Args:
        ranking: the best first.
        patients: by image the key of its patient; None, or no entry, where that is not known, which counts as another
            patient each time.
        recent: patients of the images handed out, the last at the end.
    """
    waiting: dict[str | int, deque[int]] = {}
    for place, choice in enumerate(ranking):
        key = patients.get(choice.image_id)
        waiting.setdefault(place if key is None else key, deque()).append(place)
    # The best image of each patient, the best patient first.
    heads = [(places[0], patient) for patient, places in waiting.items()]
    last: deque[str | int | None] = deque(recent, maxlen=APART)
    result: list[Choice] = []
    while heads:
        passed = []
        while heads and heads[0][1] in last:
            passed.append(heapq.heappop(heads))
        place, patient = heapq.heappop(heads) if heads else passed.pop(0)
        for head in passed:
            heapq.heappush(heads, head)
        result.append(ranking[place])
        last.append(patient)
        waiting[patient].popleft()
        if waiting[patient]:
            heapq.heappush(heads, (waiting[patient][0], patient))
    return result
