"""One training from labelled cases to a published model, without a server."""

import json
import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from tqdm import tqdm

from lib.errors import BadInputError, ModelError
from lib.files import atomic_write
from lib.inference.model import Model, load_model, new_network
from lib.networks.checkpoint import load_weights
from lib.settings import Settings
from lib.training.cases import Case, CaseFiles, decode_case, split_cases
from lib.training.comparison import GateReport
from lib.training.fit import FitResult, fit
from lib.training.gate import Decision, compare_models, decide, same_weights
from lib.training.history import Row
from lib.training.publish import describe, publish

logger = logging.getLogger(__name__)
CACHE_PREFIX = "cache-"  # of the folder with decoded cases, removed at the end


@dataclass(frozen=True)
class Outcome:
    """What became of a training.

    Args:
        version: of the weights it made.
        published: whether annotators get them now.
        reason: why, or why not, in one sentence.
        fit: weights and history.
        gate: the comparison with the published model; None where there was nothing to compare.
    """

    version: str
    published: bool
    reason: str
    fit: FitResult
    gate: GateReport | None = None


def run_training(
    files: Sequence[CaseFiles],
    settings: Settings,
    folder: Path,
    device: torch.device,
    *,
    start: Path | None,
    in_force: Path | None,
    publish_to: Path | None,
    on_epoch: Callable[[Row], object] | None = None,
    on_step: Callable[[int, int, float], object] | None = None,
    on_comparison: Callable[[int, int], object] | None = None,
) -> Outcome:
    """Train on labelled cases and publish the result if it is better than the published model.

    Both are compared on the validation cases by the rule of `training.gate`, see `lib.training.gate`. The first model,
    one that the model in force can't be compared with (other labels, windows or network) and one without validation
    cases are published, and the reason says so.

    The same cases, settings, start, device and number of CPU threads give the same weights on a CPU.

    Args:
        files: labelled cases.
        settings: recipe, network, labels.
        folder: of this run: history, curves, events, checkpoints, the result as `model.pt`, and where models were
            compared `gate.json`.
        device: to train on.
        start: weights to start from; None: fresh ones.
        in_force: weights that annotators get now; the new ones must be better on the validation cases.
        publish_to: where the new weights go; None: nowhere but the run's folder.
        on_epoch: called with each row of the history.
        on_step: see `lib.training.fit.fit`.
        on_comparison: see `progress` of `lib.training.gate.compare_models`.

    Raises:
        BadInputError: there is no labelled case, none that holds any class, or one can't be used.
        ModelError: the start weights do not fit.
    """
    if not files:
        msg = "there are no labelled cases to train on; submit at least one corrected segmentation first"
        raise BadInputError(msg)
    folder.mkdir(parents=True, exist_ok=True)
    version = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-") + f"{time.time_ns() // 1000 % 1_000_000:06d}"
    torch.manual_seed(settings.training.seed)
    network = new_network(settings)
    if start:
        load_weights(start, network)
    network = network.to(device).to(memory_format=torch.channels_last)
    with tempfile.TemporaryDirectory(dir=folder, prefix=CACHE_PREFIX) as cache:
        training_files, validation_files = split_cases(files, settings.training.validation_fraction)
        logger.info("decoding %d training and %d validation cases", len(training_files), len(validation_files))
        training = _decode(training_files, settings, Path(cache), "training cases")
        validation = _decode(validation_files, settings, Path(cache), "validation cases")
        if not any(case.presence[:, 1:].any() for case in training):
            msg = (
                f"no label of the {len(training)} training cases holds {' or '.join(settings.labels)}; nothing to learn"
            )
            raise BadInputError(msg)
        result = fit(network, training, validation, settings, folder, on_epoch=on_epoch, on_step=on_step)
    candidate = Model(result.network, version)
    decision, report = _judge(candidate, result.best_score, validation_files, in_force, settings, device, on_comparison)
    if publish_to is None:
        decision = Decision(False, f"not asked to publish; {decision.reason}")
    if report:
        _keep(report, decision, settings, folder)
    manifest = describe(
        settings,
        version,
        started_from=str(start.name) if start else None,
        training_cases=[case.name for case in training_files],
        validation_cases=[case.name for case in validation_files],
        recipe=settings.training.model_dump(mode="json"),
        best_epoch=result.best_epoch,
        validation_dice=result.best_score,
        gate=report.short() if report else None,
        reason=decision.reason,
    )
    publish(folder / "model.pt", result.network, manifest)
    if decision.publish and publish_to:
        publish(publish_to, result.network, manifest)
    verdict = "published" if decision.publish else "kept, not published"
    logger.info("model %s %s: %s", version, verdict, decision.reason)
    return Outcome(version, decision.publish, decision.reason, result, report)


def _judge(
    candidate: Model,
    score: float | None,
    files: Sequence[CaseFiles],
    in_force: Path | None,
    settings: Settings,
    device: torch.device,
    progress: Callable[[int, int], object] | None,
) -> tuple[Decision, GateReport | None]:
    """Compare with the model in force, where there is one and there are cases; `score` is for the reason alone."""
    if not files:
        return Decision(
            True, "no validation cases to compare on; label more cases so that models can be compared"
        ), None
    reached = "no class in the validation slices" if score is None else f"validation Dice {score:.4f}"
    if in_force is None or not in_force.is_file():
        return Decision(True, f"{reached}; there is no model in force to compare it with"), None
    try:
        published = load_model(settings, in_force, device)
    except ModelError as error:  # labels, windows or network of app.yaml were changed: a new model must be possible
        logger.warning("the model in force can't be compared: %s", error)
        reason = "the model in force is damaged or was made for other labels, windows or another network"
        return Decision(True, f"{reached}; {reason} and can't be compared"), None
    if same_weights(candidate.network, published.network):
        return Decision(False, "the training found nothing better than the published model's own weights"), None
    report = compare_models(candidate, published, files, settings, progress)
    return decide(report, settings.training.gate), report


def _keep(report: GateReport, decision: Decision, settings: Settings, folder: Path) -> None:
    for line in report.as_table().splitlines():
        logger.info("%s", line)
    content = {
        "decision": {"publish": decision.publish, "reason": decision.reason},
        "rule": settings.training.gate.model_dump(mode="json"),
        **report.as_dict(),
    }
    with atomic_write(folder / "gate.json") as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def _decode(files: Sequence[CaseFiles], settings: Settings, cache: Path, what: str) -> list[Case]:
    # Cases of one name on both sides would overwrite each other, hence a folder for each kind.
    folder = cache / what.split()[0]
    return [decode_case(case, settings.classes, folder) for case in tqdm(files, desc=what, disable=len(files) < 8)]
