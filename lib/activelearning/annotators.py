"""How far two annotators agree where both have labelled a case: what no model can be asked to exceed.

Who labels a case second may have seen the first label, which makes them agree more than two who know nothing of each
other would.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from lib.errors import LiverLoopError
from lib.store.campaign import SavedLabel
from lib.store.comparison import Comparison

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Agreement:
    """Two annotators on one case.

    Args:
        image_id: of the case.
        authors: both.
        dice: by class where either has it, in the slices that both looked at.
    """

    image_id: str
    authors: tuple[str, str]
    dice: Mapping[str, float]


def pairs(saved: Sequence[SavedLabel]) -> list[tuple[SavedLabel, SavedLabel]]:
    """The last labels of every two authors of one image, the earlier label first; by image.

    Args:
        saved: final labels, the oldest first.
    """
    last: dict[str, dict[str, SavedLabel]] = {}
    for one in saved:
        last.setdefault(one.image_id, {})[one.author] = one
    return [
        (first, second)
        for _, by_author in sorted(last.items())
        for first, second in combinations(sorted(by_author.values(), key=lambda one: one.number), 2)
    ]


def agreements(
    labelled_twice: Sequence[tuple[SavedLabel, SavedLabel]],
    compare: Callable[[str, int, int], Comparison],
    progress: Callable[[int], object] | None = None,
) -> list[Agreement]:
    """Compare the labels of two annotators, case by case; what can't be compared is logged and left out.

    Args:
        labelled_twice: of `pairs`.
        compare: two versions, by number, of the final label of an image; reads two files.
        progress: called with how many are done.
    """
    found = []
    for done, (first, second) in enumerate(labelled_twice, start=1):
        try:
            compared = compare(first.image_id, first.number, second.number)
        except LiverLoopError as error:
            logger.warning("the labels of %s by %s and %s: %s", first.image_id, first.author, second.author, error)
        else:
            dice = {name: row["dice"] for name, row in compared.items() if row["ml_first"] or row["ml_second"]}
            found.append(Agreement(first.image_id, (first.author, second.author), dice))
        if progress:
            progress(done)
    return found
