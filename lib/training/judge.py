"""Whether annotators get a new model: compared on what there is, by the rule of `app.yaml`."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lib.errors import ModelError
from lib.files import atomic_write
from lib.inference.model import Model, load_model
from lib.settings import Settings
from lib.training.cases import CaseFiles, patients_of
from lib.training.comparison import GateReport
from lib.training.cross_validation import CrossValidation, cross_validate, decide_pooled, does_not_count
from lib.training.fit import FitResult
from lib.training.folds import Fold
from lib.training.gate import Compared, Decision, compare_models, decide, same_weights
from lib.training.lineage import known_cases
from lib.training.registry import Registry

logger = logging.getLogger(__name__)

# A model that nobody has compared may be worse than the one that annotators have.
BY_HAND = "label more patients, or look at its segmentations and publish it by scripts/models.py"


@dataclass(frozen=True)
class Judgement:
    """The decision and what it rests on.

    Args:
        decision: whether annotators get the model, and why.
        gate: the comparison with the published model; None where there was nothing to compare.
        cross_validation: how good the model is expected to be; None where there were patients enough.
    """

    decision: Decision
    gate: GateReport | None = None
    cross_validation: CrossValidation | None = None

    def save(self, decision: Decision, settings: Settings, folder: Path) -> None:
        """Write `gate.json` and `cross_validation.json` of a run, and the log.

        Args:
            decision: the final one.
            settings: with the rule.
            folder: of the run.
        """
        for found in (self.cross_validation, self.gate):
            for line in found.as_table().splitlines() if found else ():
                logger.info("%s", line)
        if self.cross_validation:
            _write(folder / "cross_validation.json", self.cross_validation.as_dict())
        if self.gate:
            rule = settings.training.gate.model_dump(mode="json")
            told = {"publish": decision.publish, "reason": decision.reason}
            _write(folder / "gate.json", {"decision": told, "rule": rule, **self.gate.as_dict()})


def judge(
    version: str,
    result: FitResult,
    training: Sequence[CaseFiles],
    validation: Sequence[CaseFiles],
    folds: Sequence[Fold],
    in_force: Path | None,
    registry: Registry | None,
    settings: Settings,
    device: torch.device,
    *,
    progress: Callable[[int, int], object] | None = None,
    on_case: Callable[[Compared], object] | None = None,
) -> Judgement:
    """Compare a new model with the model in force, where there is one and there are cases.

    What the model in force or one that it goes back to has learned from does not count. Where nothing is left to
    compare on, the model in force stays; where there is none that can be compared, the new one is published.

    Args:
        version: of the new model.
        result: its training's.
        training: cases that it learned from.
        validation: cases that were kept from it.
        folds: networks that some of the training cases were kept from; none without a cross-validation.
        in_force: weights of the model in force; None: there is none.
        registry: holds the versions before.
        settings: labels, channels, post-processing, the rule.
        device: to segment on.
        progress: see `lib.training.gate.compare_models`.
        on_case: see there.
    """
    candidate = Model(result.network, version)
    published, instead = _load(in_force, settings, device)
    known: set[str] = set()
    if published and in_force:
        if same_weights(candidate.network, published.network):
            return Judgement(
                Decision(False, "the training found nothing better than the published model's own weights")
            )
        patients = patients_of([*training, *validation], settings.training.patient_pattern)
        known = known_cases(in_force, patients, registry)
    if folds:
        found = cross_validate(
            candidate, published, validation, training, folds, known, settings,
            epochs=result.best_epoch, progress=progress, on_case=on_case,
        )  # fmt: skip
        decision = decide_pooled(found, settings) if published else Decision(True, f"{found.sentence()}; {instead}")
        return Judgement(decision, found.comparison, found)
    if not validation and published:
        return Judgement(Decision(False, f"no validation cases to compare the models on; {BY_HAND}"))
    if published is None:
        score = result.best_score
        none = "no class in the validation slices" if validation else "no validation cases"
        reached = none if score is None else f"validation Dice {score:.4f}"
        return Judgement(Decision(True, f"{reached}; {instead}"))
    unknown = [case for case in validation if case.name not in known]
    not_counted = does_not_count(sorted(case.name for case in validation if case.name in known))
    if not unknown:
        return Judgement(Decision(False, f"nothing to compare the models on{not_counted}; {BY_HAND}"))
    report = compare_models(candidate, published, unknown, settings, progress, on_case)
    decision = decide(report, settings.training.gate)
    return Judgement(Decision(decision.publish, f"{decision.reason}{not_counted}"), report)


def _load(in_force: Path | None, settings: Settings, device: torch.device) -> tuple[Model | None, str]:
    """The model in force, or why there is none to compare with."""
    if in_force is None or not in_force.is_file():
        return None, "there is no model in force to compare it with"
    try:
        return load_model(settings, in_force, device), ""
    except ModelError as error:  # labels, windows or network of app.yaml were changed: a new model must be possible
        logger.warning("the model in force can't be compared: %s", error)
        reason = "the model in force is damaged or was made for other labels, windows or another network"
        return None, f"{reason} and can't be compared"


def _write(path: Path, content: dict[str, Any]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
