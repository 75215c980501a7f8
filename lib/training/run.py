"""One training from labelled cases to a published model, without a server."""

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
from lib.inference.model import load_model, new_network
from lib.networks.checkpoint import load_weights
from lib.settings import Settings
from lib.training.cases import Case, CaseFiles, decode_case, split_cases
from lib.training.fit import FitResult, fit, validate
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
    """

    version: str
    published: bool
    reason: str
    fit: FitResult


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
) -> Outcome:
    """Train on labelled cases and publish the result unless the model in force is better.

    The same cases, settings, start, device and number of CPU threads give the same weights on a CPU.

    Args:
        files: labelled cases.
        settings: recipe, network, labels.
        folder: of this run: history, curves, events, checkpoints, and the result as `model.pt`.
        device: to train on.
        start: weights to start from; None: fresh ones.
        in_force: weights that annotators get now; the new ones must not be worse on the validation cases.
        publish_to: where the new weights go; None: nowhere but the run's folder.
        on_epoch: called with each row of the history.
        on_step: see `lib.training.fit.fit`.

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
        before = _score_in_force(in_force, validation, settings, device)
        result = fit(network, training, validation, settings, folder, on_epoch=on_epoch, on_step=on_step)
    decision, reason = decide(result.best_score, before)
    if publish_to is None:
        decision, reason = False, f"not asked to publish; {reason}"
    manifest = describe(
        settings,
        version,
        started_from=str(start.name) if start else None,
        training_cases=[case.name for case in training_files],
        validation_cases=[case.name for case in validation_files],
        recipe=settings.training.model_dump(mode="json"),
        best_epoch=result.best_epoch,
        validation_dice=result.best_score,
        reason=reason,
    )
    publish(folder / "model.pt", result.network, manifest)
    if decision and publish_to:
        publish(publish_to, result.network, manifest)
    logger.info("model %s %s: %s", version, "published" if decision else "kept, not published", reason)
    return Outcome(version, decision, reason, result)


def decide(score: float | None, before: float | None) -> tuple[bool, str]:
    """Whether to publish weights of validation Dice `score` where those in force have `before`, and why."""
    if score is None:
        return True, "no validation case with any class to compare on; label more cases so that models can be compared"
    if before is None:
        return True, f"validation Dice {score:.4f}; there is no model in force to compare it with"
    if score >= before:
        return True, f"validation Dice {score:.4f} against {before:.4f} of the model in force"
    return False, f"validation Dice {score:.4f} is below {before:.4f} of the model in force"


def _score_in_force(
    in_force: Path | None, validation: Sequence[Case], settings: Settings, device: torch.device
) -> float | None:
    if not validation or in_force is None or not in_force.is_file():
        return None
    try:
        model = load_model(settings, in_force, device)
    except ModelError as error:  # labels, windows or network of app.yaml were changed: a new model must be possible
        logger.warning("the model in force can't be compared: %s", error)
        return None
    return validate(model.network, validation, settings).score


def _decode(files: Sequence[CaseFiles], settings: Settings, cache: Path, what: str) -> list[Case]:
    # Cases of one name on both sides would overwrite each other, hence a folder for each kind.
    folder = cache / what.split()[0]
    return [decode_case(case, settings.classes, folder) for case in tqdm(files, desc=what, disable=len(files) < 8)]
