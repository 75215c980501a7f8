"""Which validation cases a training's page shows, so that nothing else of any case has to be kept in memory."""

import logging
from collections.abc import Sequence
from dataclasses import replace

from lib.settings import Settings
from lib.training.comparison import Comparison, Figures
from lib.training.gate import Compared
from lib.training.pictures import CasePictures, draw_case

logger = logging.getLogger(__name__)

LOWEST, LOST = 3, 2  # cases with the lowest Dice, and with the largest loss against the published model


class WorstCases:
    """Keeps pictures of the few cases that went worst, and nothing else of any case.

    Kept are the cases with the lowest Dice of the new model (mean over classes) and those that lost most against the
    published model.

    Args:
        settings: labels and their colors.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._comparisons: list[Comparison] = []
        self._drawn: dict[str, CasePictures] = {}

    def add(self, compared: Compared) -> None:
        """Look at a case, and draw it if it is among the worst so far.

        A case that can't be drawn is left out and logged: no picture is worth a training.
        """
        self._comparisons.append(compared.comparison)
        chosen = choose(self._comparisons)
        self._comparisons = [case for case in self._comparisons if case.name in chosen]
        self._drawn = {name: pictures for name, pictures in self._drawn.items() if name in chosen}
        name = compared.comparison.name
        if name in chosen:
            try:
                self._drawn[name] = draw_case(compared, self._settings)
            except Exception as error:
                logger.warning(
                    "%s is not shown in the report: %s", name, str(error) or type(error).__name__, exc_info=True
                )

    def pictures(self) -> list[CasePictures]:
        """The worst cases with a slice to show, the lowest Dice first."""
        reasons = choose(self._comparisons)
        drawn = [replace(self._drawn[name], reason=reason) for name, reason in reasons.items() if name in self._drawn]
        return [case for case in drawn if case.slices]


def choose(cases: Sequence[Comparison]) -> dict[str, str]:
    """Names of the cases to show and why, the lowest Dice first.

    A case that is chosen among all of some cases is chosen among any part of them, so that one look at each is enough.
    """
    by_dice = sorted(cases, key=lambda case: (_mean(case.candidate), case.name))
    by_loss = sorted(cases, key=lambda case: (_mean(case.candidate) - _mean(case.published), case.name))
    lowest = {case.name for case in by_dice[:LOWEST]}
    lost = {case.name for case in by_loss[:LOST] if _mean(case.candidate) < _mean(case.published)}
    reasons = {
        (True, False): "among the lowest Dice of the new model",
        (False, True): "among the largest losses against the published model",
        (True, True): "among the lowest Dice of the new model and the largest losses against the published model",
    }
    chosen = {}
    for case in by_dice:
        if case.name in lowest | lost:
            chosen[case.name] = reasons[case.name in lowest, case.name in lost]
    return chosen


def _mean(figures: Figures) -> float:
    return sum(figures.dice.values()) / len(figures.dice)
