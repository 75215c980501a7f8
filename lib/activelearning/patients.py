"""Images of one patient teach a model much the same, so they are not handed out one right after the other."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from lib.activelearning.strategy import Choice
from lib.store.pool import Candidate


def apart(ranking: Sequence[Choice], candidates: Mapping[str, Candidate], recent: Collection[str]) -> list[Choice]:
    """Pass over the images of some patients while another image is left that nobody was given yet.

    Args:
        ranking: by a strategy, the best first.
        candidates: by image id. Those that were handed out before keep their places in the ranking.
        recent: keys of the patients whose images were handed out last.

    Returns:
        The same images; the reason of the one that comes first now says what it came before.
    """
    fresh = [one for one in ranking if not candidates[one.image_id].last_served]
    late = [one for one in fresh if candidates[one.image_id].patient in recent]
    others = [one for one in fresh if candidates[one.image_id].patient not in recent]
    if not late or not others:
        return list(ranking)
    passed = next(place for place, one in enumerate(fresh) if one is others[0])
    if passed:
        what = "an image" if passed == 1 else f"{passed} images"
        others[0] = replace(others[0], reason=f"{others[0].reason}; before {what} of patients just handed out")
    waiting = iter([*others, *late])
    return [one if candidates[one.image_id].last_served else next(waiting) for one in ranking]
