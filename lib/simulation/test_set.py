"""A model on the cases that never train, segmented exactly as annotators get it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lib.inference.model import Model
from lib.settings import Settings
from lib.training.cases import CaseFiles
from lib.training.comparison import tumor_of
from lib.training.gate import judge_on

RECALL, FALSE = "lesion recall", "false lesions"


def judge_all(cases: Iterable[CaseFiles], model: Model, settings: Settings) -> dict[str, Any]:
    """Figures of each case by its name, JSON-ready: see `lib.training.comparison.Figures`.

    Raises:
        One of `lib.training.gate.CASE_ERRORS`: the test set must not shrink unnoticed.
    """
    return {case.name: judge_on(case, model, settings).as_dict() for case in cases}


def overall(cases: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> dict[str, float]:
    """Means over the test set.

    Args:
        cases: what `judge_all` gave.
        names: of the classes.

    Returns:
        By class the mean Dice over the cases; `RECALL`: the share of all labelled lesions that was found; `FALSE`:
        predicted lesions of a case that are none, in the mean. The last two only where there is a tumor class.
    """
    result = {name: float(np.mean([case["dice"][name] for case in cases.values()])) for name in names}
    if tumor_of(names) is None:
        return result
    lesions = [case["lesions"] for case in cases.values()]
    labelled, predicted, found = (sum(one[key] for one in lesions) for key in ("reference", "predicted", "found"))
    return {**result, RECALL: found / max(1, labelled), FALSE: (predicted - found) / len(lesions)}
