"""At random among the images that show something: the baseline that many clever strategies fail to beat.

nnActive (arXiv 2511.19183) draws part of its random patches from the foreground, evenly over the classes, and knows
where that is from the labels that are yet to be made. Here whole images are drawn, and no oracle is asked: what the
model predicts decides, and half of the draws are among the images with a predicted tumor.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from lib.activelearning.history import History
from lib.activelearning.parts import next_part
from lib.activelearning.strategy import WITH_FOREGROUND, Choice, Strategy
from lib.activelearning.tiers import at_random, in_tiers
from lib.store.pool import Candidate

LESION, FOREGROUND = "lesion", "foreground"
SHARES = {LESION: 0.5, FOREGROUND: 0.5}
_REASONS = {
    LESION: "drawn at random from the images in which the model sees a tumor",
    FOREGROUND: "drawn at random from the images in which the model sees a liver or a tumor",
}


def rank(candidates: Sequence[Candidate], history: History, rng: np.random.Generator) -> list[Choice]:
    """Half of the draws among those with a predicted lesion, half among all with any predicted foreground."""
    picked = Counter(history.picked)
    with_lesion = {one.image_id for one in candidates if one.scores is not None and one.scores.lesions > 0}

    def order(tier: list[Candidate]) -> list[Choice]:
        drawn = at_random(tier, _REASONS[FOREGROUND], rng, FOREGROUND)
        lesions = at_random([one for one in tier if one.image_id in with_lesion], _REASONS[LESION], rng, LESION)
        waiting = {FOREGROUND: iter(drawn), LESION: iter(lesions)}
        ranking: dict[str, Choice] = {}
        while len(ranking) < len(tier):
            part = next_part(SHARES, picked)
            choice = next((one for one in waiting[part] if one.image_id not in ranking), None)
            if choice is None:  # no more lesions
                part = FOREGROUND
                choice = next(one for one in waiting[part] if one.image_id not in ranking)
            ranking[choice.image_id] = choice
            picked[part] += 1
        return list(ranking.values())

    def others(unknown: list[Candidate]) -> list[Choice]:
        unscored = [one for one in unknown if one.scores is None]
        empty = [one for one in unknown if one.scores is not None]
        none = "drawn at random: it has no scores yet, and nothing is left in which the model sees a liver or a tumor"
        return at_random(unscored, none, rng) + at_random(empty, "the model sees neither liver nor tumor in it", rng)

    return in_tiers(candidates, history, rng, knows=lambda scores: scores.has_foreground, order=order, others=others)


STRATEGY = Strategy(
    name="foreground_random",
    description="A random image in which the model sees a liver or a tumor, half of them with a tumor",
    rank=rank,
    walks=(WITH_FOREGROUND,),
)
