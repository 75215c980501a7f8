"""How much annotators change in what the model draws: the second sign of when to stop.

A high Dice means that there is little to correct, or that annotators correct little: what is drawn already draws them
along. How far two annotators agree, see `lib.activelearning.annotators`, says what more can't be asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap

from lib.store.campaign import SavedLabel

LAST = 10  # cases
LITTLE = 0.95  # Dice from which on a correction is little, in the mean
CONFIDENCE = 0.9


@dataclass(frozen=True)
class Lately:
    """The Dice of one class between the pre-segmentation and what annotators made of it.

    Args:
        label: name of the class.
        cases: how many, at most the last ten.
        dice: mean.
        interval: where the mean lies with 90 % probability; None for a single case.
        before: mean of up to ten cases before these; None without any.
    """

    label: str
    cases: int
    dice: float
    interval: tuple[float, float] | None
    before: float | None = None

    @property
    def is_little(self) -> bool:
        """Whether annotators change little: ten cases, and a mean that is high."""
        return self.cases >= LAST and self.dice >= LITTLE


def last_of_each(saved: Sequence[SavedLabel]) -> list[SavedLabel]:
    """The corrections, of each image the last one by each author, the oldest first.

    Args:
        saved: final labels, the oldest first.
    """
    last = {(one.image_id, one.author): one for one in saved if one.dice}
    return sorted(last.values(), key=lambda one: one.saved_at)


def lately(corrections: Sequence[SavedLabel], label: str, seed: int = 0) -> Lately | None:
    """The last ten corrections of a class; None where there is none.

    Args:
        corrections: of `last_of_each`.
        label: name of the class.
        seed: of the interval, whose ends come from cases drawn again and again (Efron and Tibshirani, An Introduction
            to the Bootstrap, 1993, doi:10.1201/9780429246593).
    """
    dice = [one.dice[label] for one in corrections if one.dice and label in one.dice]
    if not dice:
        return None
    last, before = dice[-LAST:], dice[-2 * LAST : -LAST]
    interval = None
    if len(last) > 1:
        found = bootstrap(
            (last,), np.mean, confidence_level=CONFIDENCE, n_resamples=2000, method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval  # fmt: skip
        interval = (float(found.low), float(found.high))
    return Lately(label, len(last), float(np.mean(last)), interval, float(np.mean(before)) if before else None)


def by_version(corrections: Sequence[SavedLabel]) -> dict[str, list[SavedLabel]]:
    """Corrections of what each version of the model has drawn, in the order of first use."""
    found: dict[str, list[SavedLabel]] = {}
    for one in corrections:
        found.setdefault(one.model_version or "", []).append(one)
    return found


def mean_dice(corrections: Sequence[SavedLabel], label: str) -> float | None:
    """Of a class; None where none has it."""
    dice = [one.dice[label] for one in corrections if one.dice and label in one.dice]
    return float(np.mean(dice)) if dice else None
