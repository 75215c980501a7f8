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

from lib.errors import BadInputError, ModelError, NotFoundError
from lib.files import atomic_write
from lib.inference.model import Model, load_model, new_network, version_of
from lib.networks.checkpoint import load_weights
from lib.settings import Settings
from lib.store.events import SERVER
from lib.training.cases import Case, CaseFiles, decode_case, split_cases
from lib.training.comparison import GateReport
from lib.training.fit import FitResult, fit
from lib.training.gate import Decision, compare_models, decide, same_weights
from lib.training.history import Row
from lib.training.preflight import Preflight, check_cases
from lib.training.publish import describe, publish
from lib.training.registry import ModelVersion, Registry
from lib.training.state import (
    CACHE_PREFIX,
    STATE_FILE,
    FitState,
    RunState,
    alone_in,
    cannot_go_on,
    load_state,
    origin_of,
    prepare_to_resume,
    save_state,
)

logger = logging.getLogger(__name__)


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
    registry: Registry | None = None,
    may_publish: bool = True,
    resume: bool = False,
    preflight: Preflight | None = None,
    on_epoch: Callable[[Row], object] | None = None,
    on_step: Callable[[int, int, float], object] | None = None,
    on_comparison: Callable[[int, int], object] | None = None,
) -> Outcome:
    """Train on labelled cases, keep the result as a version, and publish it if it is better than the published model.

    Both are compared on the validation cases by the rule of `training.gate`, see `lib.training.gate`. The first model,
    one that the model in force can't be compared with (other labels, windows or network) and one without validation
    cases are published, and the reason says so.

    The same cases, settings, start, device and number of CPU threads give the same weights on a CPU, also if the
    training is interrupted and resumed: after each epoch the folder gets a `state.pt`, which is removed at the end.

    Args:
        files: labelled cases.
        settings: recipe, network, labels.
        folder: of this run: history, curves, events, checkpoints, the result as `model.pt`, and where models were
            compared `gate.json`; before all that, `preflight.json`.
        device: to train on.
        start: weights to start from; None: fresh ones.
        registry: holds the model that annotators get now, which the new one must beat on the validation cases, and
            keeps the new one; None: there is nothing to compare with, and the result stays in the run's folder.
        may_publish: False keeps even a better model for somebody to publish later.
        resume: go on with the interrupted training of the folder, after its last whole epoch; `start` does not matter.
        preflight: what was found about these cases; None: they are checked now, and the log shows it.
        on_epoch: called with each row of the history.
        on_step: see `lib.training.fit.fit`.
        on_comparison: see `progress` of `lib.training.gate.compare_models`.

    Raises:
        BadInputError: as `lib.training.preflight.check_cases`, or none of the cases of a side can be decoded.
        ModelError: the start weights do not fit, or the state to go on from is damaged.
        NotFoundError: there is no interrupted training in the folder.
        BusyError: the folder's training is still running.
    """
    if resume:
        prepare_to_resume(folder)
    if preflight is None:
        logger.info("checking %d labelled cases", len(files))
        preflight = check_cases(files, settings, device=device, cache_folder=folder)
        for line in preflight.as_text().splitlines():
            logger.info("%s", line)
    training_files, validation_files = split_cases(preflight.usable(files), settings.training.validation_fraction)
    origin = origin_of(settings, training_files, validation_files)
    before = load_state(folder, origin) if resume else None
    folder.mkdir(parents=True, exist_ok=True)
    preflight.save(folder / "preflight.json")
    torch.manual_seed(settings.training.seed)
    network = new_network(settings)
    if before:
        version, facts = before.version, dict(before.facts)
    else:
        version = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-") + f"{time.time_ns() // 1000 % 1_000_000:06d}"
        parent = version_of(start, load_weights(start, network)) if start else None
        facts = {"started_from": start.name if start else None, "parent": parent}
    network = network.to(device).to(memory_format=torch.channels_last)
    with alone_in(folder), tempfile.TemporaryDirectory(dir=folder, prefix=CACHE_PREFIX) as cache:
        training: list[Case] = []
        validation: list[Case] = []
        if before is None or not before.fit.done:
            logger.info("decoding %d training and %d validation cases", len(training_files), len(validation_files))
            training = _decode(training_files, settings, Path(cache), "training cases")
            validation = _decode(validation_files, settings, Path(cache), "validation cases")
            facts["training_cases"] = [case.name for case in training]
            facts["validation_cases"] = [case.name for case in validation]
            if before and facts != before.facts:
                raise cannot_go_on(folder, "not the same cases can be decoded as when it began (the log names them)")

        def keep(state: FitState) -> None:
            save_state(folder, RunState(version, origin, facts, state))

        result = fit(
            network, training, validation, settings, folder,
            on_epoch=on_epoch, on_step=on_step, keep=keep, resumed=before.fit if before else None,
        )  # fmt: skip
    kept = _kept(registry, version) if before else None
    if kept and kept.is_published:  # it was interrupted after that
        (folder / STATE_FILE).unlink(missing_ok=True)
        return Outcome(version, True, str(kept.reason), result)
    candidate = Model(result.network, version)
    in_force = registry.source.path_or_none if registry else None
    compared_with = _state_of(in_force)
    decision, report = _judge(candidate, result.best_score, validation_files, in_force, settings, device, on_comparison)
    if decision.publish and registry and _state_of(registry.source.path_or_none) != compared_with:
        reason = "another model was published while this one was compared with the one before; compare and publish it"
        decision = Decision(False, f"{reason} by scripts/models.py")
    if registry is None or not may_publish:
        decision = Decision(False, f"not asked to publish; {decision.reason}")
    if report:
        _keep(report, decision, settings, folder)
    manifest = describe(
        settings,
        version,
        **facts,
        recipe=settings.training.model_dump(mode="json"),
        best_epoch=result.best_epoch,
        validation_dice=result.best_score,
        gate=report.short() if report else None,
        reason=decision.reason,
    )
    publish(folder / "model.pt", result.network, manifest)
    if registry:
        if kept is None:
            registry.add(folder / "model.pt", manifest)
        if decision.publish:
            registry.publish(version, SERVER, decision.reason)
    verdict = "published" if decision.publish else "kept, not published"
    logger.info("model %s %s: %s", version, verdict, decision.reason)
    (folder / STATE_FILE).unlink(missing_ok=True)
    return Outcome(version, decision.publish, decision.reason, result, report)


def _state_of(path: Path | None) -> tuple[Path, int, int] | None:
    """Differs after every publication."""
    if path is None:
        return None
    status = path.stat()
    return path, status.st_ino, status.st_mtime_ns


def _kept(registry: Registry | None, version: str) -> ModelVersion | None:
    """What the registry has of a version already."""
    return next((known for known in registry.list() if known.id == version), None) if registry else None


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
    cases: list[Case] = []
    problem = None
    for case in tqdm(files, desc=what, disable=len(files) < 8):
        try:
            cases.append(decode_case(case, settings.classes, folder))
        except (BadInputError, NotFoundError) as error:  # damaged behind a good header, or gone since
            logger.warning("%s is left out: %s", case.name, error)
            problem = error
    if problem and not cases:
        msg = f"none of the {len(files)} {what} can be used: {problem}"
        raise BadInputError(msg) from problem
    return cases
