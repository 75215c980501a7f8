"""One training from labelled cases to a published model, without a server."""

import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from lib.errors import BadInputError, LiverLoopError, NotFoundError
from lib.files import atomic_write
from lib.inference.model import new_network, version_of
from lib.networks.checkpoint import load_weights, save_weights
from lib.settings import Settings
from lib.store.events import SERVER
from lib.supervision import check_parent
from lib.training.cache import CaseCache, open_cache
from lib.training.cases import CaseFiles, patients_of, split_cases
from lib.training.comparison import GateReport
from lib.training.cross_validation import CrossValidation
from lib.training.decoded import Case
from lib.training.distributed import first_of_machine_first, from_first, share
from lib.training.fit import FitResult, fit
from lib.training.folds import Fold, FoldEpoch, plan_folds, train_folds
from lib.training.gate import Decision
from lib.training.history import Row
from lib.training.int8 import after_training
from lib.training.judge import judge
from lib.training.preflight import Preflight, check_cases
from lib.training.publish import describe, publish
from lib.training.registry import ModelVersion, Registry
from lib.training.report import RunPage
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

_START_FILE = "start.pt"  # in the run's folder, until the training has ended: what the cross-validation starts from
_DECODERS = 3  # threads; each holds one case in memory


@dataclass(frozen=True)
class _Plan:
    """What all processes of a training must know."""

    version: str
    training: Sequence[CaseFiles]
    validation: Sequence[CaseFiles]
    resumed: FitState | None
    left_out: Sequence[Sequence[str]] = ()  # names of training cases that each network of the cross-validation misses

    @property
    def is_done(self) -> bool:
        """Whether nothing is trained any more."""
        return self.resumed is not None and self.resumed.done and not self.left_out


@dataclass(frozen=True)
class _Run:
    """What stays the same in a training; of the first process."""

    settings: Settings
    folder: Path
    device: torch.device
    registry: Registry | None
    version: str
    facts: dict[str, Any]
    kept: ModelVersion | None
    page: RunPage


@dataclass(frozen=True)
class Outcome:
    """What became of a training.

    Args:
        version: of the weights it made.
        published: whether annotators get them now.
        reason: why, or why not, in one sentence.
        fit: weights and history.
        gate: the comparison with the published model; None where there was nothing to compare.
        cross_validation: how good the model is expected to be; None where there were patients enough.
        int8: what came of quantizing it; None where that was not tried.
    """

    version: str
    published: bool
    reason: str
    fit: FitResult
    gate: GateReport | None = None
    cross_validation: CrossValidation | None = None
    int8: str | None = None


def run_training(
    files: Sequence[CaseFiles],
    settings: Settings,
    folder: Path,
    device: torch.device,
    *,
    start: Path | None,
    registry: Registry | None = None,
    cache_folder: Path | None = None,
    may_publish: bool = True,
    draw: bool = True,
    resume: bool = False,
    preflight: Preflight | None = None,
    on_epoch: Callable[[Row], object] | None = None,
    on_step: Callable[[int, int, float], object] | None = None,
    on_fold: Callable[[FoldEpoch], object] | None = None,
    on_comparison: Callable[[int, int], object] | None = None,
    on_int8: Callable[[str], object] | None = None,
) -> Outcome:
    """Train on labelled cases, keep the result as a version, and publish it if it is better than the published model.

    Both are compared on the validation cases by the rule of `training.gate`, see `lib.training.gate`. The first model
    and one that the model in force can't be compared with (other labels, windows or network) are published, and the
    reason says so; without cases to compare on, the model in force stays. With fewer patients than
    `training.cross_validate_below`, the training cases count as well, each segmented by a network that was trained
    without its patient.

    The same cases, settings, start, device and number of CPU threads give the same weights on a CPU, also if the
    training is interrupted and resumed: after each epoch the folder gets a `state.pt`, which is removed at the end.

    Where several processes train together, see `lib.training.distributed`, each calls this with the same arguments. The
    first one does all but its part of each batch, calls all callbacks and returns what became of it; the others return
    after the last epoch.

    Args:
        files: labelled cases.
        settings: recipe, network, labels.
        folder: of this run: history, curves, events, checkpoints, the result as `model.pt`, and where models were
            compared `gate.json` and `cross_validation.json`; before all that, `preflight.json`; after each epoch and at
            the end `report.html`.
        device: to train on.
        start: weights to start from; None: fresh ones.
        registry: holds the model that annotators get now, which the new one must beat on the validation cases, and
            keeps the new one; None: there is nothing to compare with, and the result stays in the run's folder.
        cache_folder: of decoded cases, which stay there for the next training; None: they don't.
        may_publish: False keeps even a better model for somebody to publish later.
        draw: False leaves out what is only looked at, `curves.png` and `report.html`: a short training takes longer to
            draw than to do.
        resume: go on with the interrupted training of the folder, after its last whole epoch; `start` does not matter.
        preflight: what was found about these cases; None: they are checked now, and the log shows it.
        on_epoch: called with each row of the history.
        on_step: see `lib.training.fit.fit`.
        on_fold: see `on_epoch` of `lib.training.folds.train_folds`.
        on_comparison: see `progress` of `lib.training.gate.compare_models`.
        on_int8: see `progress` of `lib.training.int8.offer_int8`, which a published model is given to.

    Raises:
        BadInputError: as `lib.training.preflight.check_cases`, or none of the cases of a side can be decoded.
        ModelError: the start weights do not fit, or the state to go on from is damaged.
        NotFoundError: there is no interrupted training in the folder.
        BusyError: the folder's training is still running.
        GoneError: the server that started it has ended, so that it publishes nothing; it can be resumed.
    """
    if share().rank:
        return _help(settings, folder, device, cache_folder)
    if resume:
        prepare_to_resume(folder)
    if preflight is None:
        logger.info("checking %d labelled cases", len(files))
        preflight = check_cases(files, settings, device=device, cache_folder=cache_folder or folder)
        for line in preflight.as_text().splitlines():
            logger.info("%s", line)
    training_files, validation_files = split_cases(preflight.usable(files), settings.training.validation_fraction)
    folder.mkdir(parents=True, exist_ok=True)
    with alone_in(folder):
        origin = origin_of(settings, training_files, validation_files, share().world)
        before = load_state(folder, origin) if resume else None
        preflight.save(folder / "preflight.json")
        torch.manual_seed(settings.training.seed)
        network = new_network(settings)
        if before:
            version, facts = before.version, dict(before.facts)
        else:
            version = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-") + f"{time.time_ns() // 1000 % 1_000_000:06d}"
            parent = version_of(start, load_weights(start, network)) if start else None
            facts = {"started_from": start.name if start else None, "parent": parent}
            _keep_start(folder, start, network)
        kept = _kept(registry, version) if before else None
        network = network.to(device).to(memory_format=torch.channels_last)
        page = RunPage(folder, settings, preflight, version, facts, list(before.fit.rows) if before else [], draw)

        def told(row: Row) -> None:
            page.epoch_done(row)
            if on_epoch:
                on_epoch(row)

        def keep(state: FitState) -> None:
            save_state(folder, RunState(version, origin, facts, state))

        with page.on_failure():
            left_out = () if kept and kept.is_published else _left_out(training_files, validation_files, settings)
            plan = from_first(
                _Plan(version, training_files, validation_files, before.fit if before else None, left_out)
            )
            with _decoded(plan, settings, folder, cache_folder) as (training, validation):
                if not plan.is_done:
                    facts["training_cases"] = [case.name for case in training]
                    facts["validation_cases"] = [case.name for case in validation]
                    # Labels may have been corrected since; what was decoded counts.
                    origin = origin if before else origin_of(settings, training_files, validation_files, share().world)
                if before and facts != before.facts:
                    raise cannot_go_on(
                        folder, "not the same cases can be decoded as when it began (the log names them)"
                    )
                result = fit(
                    network, training, validation, settings, folder,
                    on_epoch=told, on_step=on_step, keep=keep, resumed=plan.resumed, draw=draw,
                )  # fmt: skip
                folds = train_folds(
                    plan.left_out if result.best_epoch else (), training, settings, epochs=result.best_epoch,
                    start=folder / _START_FILE, registry=registry, version=version, folder=folder, device=device,
                    on_epoch=on_fold,
                )  # fmt: skip
        run = _Run(settings, folder, device, registry, version, facts, kept, page)
        outcome = _conclude(run, result, folds, plan, may_publish=may_publish, on_comparison=on_comparison)
        if not (outcome.published and registry):
            return outcome
        int8 = after_training(version, plan.training, plan.validation, registry, settings, device, on_int8)
        return replace(outcome, int8=int8)


def _conclude(
    run: _Run,
    result: FitResult,
    folds: Sequence[Fold],
    plan: _Plan,
    *,
    may_publish: bool,
    on_comparison: Callable[[int, int], object] | None,
) -> Outcome:
    """Judge what a training gave, keep it, and publish it if it is better."""
    settings, folder, registry, page = run.settings, run.folder, run.registry, run.page
    if run.kept and run.kept.is_published:  # it was interrupted after that
        outcome = Outcome(run.version, True, str(run.kept.reason), result)
        _finish(page, outcome, registry)
        return outcome
    in_force = registry.source.path_or_none if registry else None
    compared_with = _state_of(in_force)
    with page.on_failure():
        judgement = judge(
            run.version, result, plan.training, plan.validation, folds, in_force, registry, settings, run.device,
            progress=on_comparison, on_case=page.worst.add,
        )  # fmt: skip
        decision, report, crossed = judgement.decision, judgement.gate, judgement.cross_validation
        if decision.publish and registry and _state_of(registry.source.path_or_none) != compared_with:
            reason = "another model was published while this one was compared with the one before"
            decision = Decision(False, f"{reason}; compare and publish it by scripts/models.py")
        if registry is None or not may_publish:
            decision = Decision(False, f"not asked to publish; {decision.reason}")
        judgement.save(decision, settings, folder)
        manifest = describe(
            settings,
            run.version,
            **run.facts,
            recipe=settings.training.model_dump(mode="json"),
            best_epoch=result.best_epoch,
            validation_dice=result.best_score,
            gate=report.short() if report else None,
            cross_validation=crossed.short() if crossed else None,
            reason=decision.reason,
        )
        publish(folder / "model.pt", result.network, manifest)
        if registry:
            if run.kept is None:
                registry.add(folder / "model.pt", manifest)
            if decision.publish:
                check_parent()
                registry.publish(run.version, SERVER, decision.reason)
    verdict = "published" if decision.publish else "kept, not published"
    logger.info("model %s %s: %s", run.version, verdict, decision.reason)
    outcome = Outcome(run.version, decision.publish, decision.reason, result, report, crossed)
    _finish(page, outcome, registry)
    return outcome


def _help(settings: Settings, folder: Path, device: torch.device, cache_folder: Path | None) -> Outcome:
    """Take part in a training that the first process leads."""
    plan: _Plan = from_first(None)
    network = new_network(settings).to(device).to(memory_format=torch.channels_last)
    with _decoded(plan, settings, folder, cache_folder) as (training, validation):
        result = fit(network, training, validation, settings, folder, resumed=plan.resumed)
    return Outcome(plan.version, False, "the first process keeps and judges it", result)


@contextmanager
def _decoded(
    plan: _Plan, settings: Settings, folder: Path, cache_folder: Path | None
) -> Iterator[tuple[Sequence[Case], Sequence[Case]]]:
    """The training and validation cases; none where no epoch follows."""
    if plan.is_done:
        yield (), ()
        return
    most_bytes = settings.training.cache_gb * 1e9
    with tempfile.TemporaryDirectory(dir=folder, prefix=CACHE_PREFIX) as temporary:
        place = cache_folder or Path(temporary)
        with open_cache(place, settings.classes, most_bytes, [*plan.training, *plan.validation]) as cache:
            with first_of_machine_first():
                logger.info("decoding %d training and %d validation cases", len(plan.training), len(plan.validation))
                training = _decode(plan.training, cache, "training cases")
                validation = _decode(plan.validation, cache, "validation cases")
                cache.check_size()
            yield training, validation


def _decode(files: Sequence[CaseFiles], cache: CaseCache, what: str) -> list[Case]:
    def decoded(case: CaseFiles) -> Case | LiverLoopError:
        try:
            return cache.case(case)
        except (BadInputError, NotFoundError) as error:  # damaged behind a good header, or gone since
            return error

    cases: list[Case] = []
    problem = None
    with ThreadPoolExecutor(_DECODERS, "decoding") as pool:
        found = tqdm(pool.map(decoded, files), what, len(files), disable=len(files) < 8)
        for case, result in zip(files, found, strict=True):
            if isinstance(result, Case):
                cases.append(result)
            else:
                logger.warning("%s is left out: %s", case.name, result)
                problem = result
    if problem and not cases:
        msg = f"none of the {len(files)} {what} can be used: {problem}"
        raise BadInputError(msg) from problem
    return cases


def _finish(page: RunPage, outcome: Outcome, registry: Registry | None) -> None:
    """Write the page, give the version its own, and end what could be resumed."""
    page.ended(published=outcome.published, reason=outcome.reason, best_epoch=outcome.fit.best_epoch)
    if registry and page.draw:
        registry.keep_report(outcome.version, page.path)
    (page.folder / STATE_FILE).unlink(missing_ok=True)
    (page.folder / _START_FILE).unlink(missing_ok=True)


def _state_of(path: Path | None) -> tuple[Path, int, int] | None:
    """Differs after every publication."""
    if path is None:
        return None
    status = path.stat()
    return path, status.st_ino, status.st_mtime_ns


def _kept(registry: Registry | None, version: str) -> ModelVersion | None:
    """What the registry has of a version already."""
    return next((known for known in registry.list() if known.id == version), None) if registry else None


def _keep_start(folder: Path, start: Path | None, network: nn.Module) -> None:
    """Keep what the training starts from, with the manifest that came with it."""
    if start is None:
        save_weights(folder / _START_FILE, network)
        return
    with atomic_write(folder / _START_FILE) as temporary:
        shutil.copyfile(start, temporary)


def _left_out(
    training: Sequence[CaseFiles], validation: Sequence[CaseFiles], settings: Settings
) -> Sequence[Sequence[str]]:
    """Which cases each network of the cross-validation shall not see; none where there is no cross-validation."""
    recipe = settings.training
    trained, validated = (patients_of(side, recipe.patient_pattern) for side in (training, validation))
    plan = plan_folds(trained, validated, recipe)
    if plan and share().world > 1:
        logger.warning("several processes train, so there is no cross-validation: with few patients use one process")
        return ()
    return plan
