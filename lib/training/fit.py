"""The training loop: ignite engines over drawn slices, figures after each epoch, the best weights kept.

Knows nothing of servers or requests; `lib.training.task` and `scripts/train.py` are its shells.
"""

import copy
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.handlers import EarlyStopping
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.tensorboard import SummaryWriter

from lib.errors import BadInputError, ModelError
from lib.inference.device import Precision, autocast
from lib.labels import NOT_LOOKED_AT
from lib.metrics.original_torch import confusion_matrix, one_hot_mean_iou, pixel_accuracy, three_class_dice
from lib.networks.checkpoint import save_weights
from lib.settings import Settings, TrainingSettings
from lib.training.batches import Batch, steps_per_epoch, training_batches, validation_batches
from lib.training.decoded import Case
from lib.training.distributed import from_first, share, total_of
from lib.training.history import History, Row, sentence
from lib.training.loss import build_loss
from lib.training.state import FitState

logger = logging.getLogger(__name__)

# Within an epoch the log shows this many steps, so that a person sees that it goes on.
_LOGGED_STEPS = 4
# Whoever watches hears of this many steps of an epoch at most: to read the loss is to wait for the device.
_REPORTED_STEPS = 100


@dataclass(frozen=True)
class FitResult:
    """What a training gave.

    Args:
        network: with the best weights (those after the last epoch where there is no validation).
        rows: the history, one row per epoch; epoch 0 is the network before training.
        best_epoch: the epoch those weights are from.
        best_score: mean foreground Dice on the validation slices, None without validation.
    """

    network: nn.Module
    rows: list[Row]
    best_epoch: int
    best_score: float | None


@dataclass
class Figures:
    """Sums over the batches of an epoch, from which its figures are taken; they stay on the device until then.

    Args:
        names: labels in index order.
        device: of the batches.
    """

    names: Sequence[str]
    device: torch.device
    counts: Tensor = field(init=False)
    sums: Tensor = field(init=False)

    def __post_init__(self) -> None:
        classes = len(self.names) + 1
        self.counts = torch.zeros(classes, classes, dtype=torch.int64, device=self.device)
        self.sums = torch.zeros(3, dtype=torch.float64, device=self.device)  # loss, 3-class Dice, batches

    def add(self, loss: Tensor, logits: Tensor, target: Tensor) -> None:
        """Count a batch: its loss, logits `(N, C, Y, X)` and int64 class indices or `NOT_LOOKED_AT` `(N, Y, X)`."""
        logits = logits.detach().float()
        judged = target != NOT_LOOKED_AT
        classes = torch.where(judged, target, 0)
        one_hot = nn.functional.one_hot(classes, len(self.names) + 1).movedim(-1, 1)
        dice = three_class_dice(logits.softmax(1) * judged[:, None], one_hot * judged[:, None])
        self.sums += torch.stack([loss.detach().double(), dice.double(), torch.ones_like(dice).double()])
        counts = confusion_matrix(logits, classes)
        # They count as background; what was predicted there is taken out again.
        unjudged = torch.bincount(logits.argmax(1)[~judged], minlength=len(counts))
        counts[0] -= unjudged
        self.counts += counts

    def over_all(self) -> "Figures":
        """Those of all processes that train together."""
        result = Figures(self.names, self.device)
        result.counts, result.sums = total_of(self.counts), total_of(self.sums)
        return result

    @property
    def batches(self) -> int:
        """How many were counted."""
        return int(self.sums[2])

    @property
    def mean_loss(self) -> float:
        """Mean over the batches."""
        return float(self.sums[0] / self.sums[2].clamp(min=1))

    @property
    def dice(self) -> dict[str, float | None]:
        """Dice of each label over all counted pixels; None where no reference holds it.

        It would be 0 from the first false pixel on, and the best epoch one that had not learned the label yet.
        """
        both, reference = self.counts.diagonal().double(), self.counts.sum(1).double()
        total = reference + self.counts.sum(0).double()
        pairs = enumerate(self.names, start=1)
        return {name: float(2 * both[index] / total[index]) if reference[index] else None for index, name in pairs}

    @property
    def score(self) -> float | None:
        """Mean of the labels' Dice, by which epochs and models are compared."""
        values = [value for value in self.dice.values() if value is not None]
        return sum(values) / len(values) if values else None

    def row(self) -> Row:
        """Columns of the history."""
        if not self.counts.any():  # no batch, or no pixel that anybody looked at
            return {}
        return {
            **{f"dice_{name}": value for name, value in self.dice.items()},
            "three_class_dice": float(self.sums[1] / self.sums[2]),
            "mean_iou": float(one_hot_mean_iou(self.counts)),
            "accuracy": float(pixel_accuracy(self.counts)),
        }


def forward(
    network: nn.Module, loss_function: nn.Module, batch: Batch, precision: Precision
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, logits and reference indices of a batch, on the network's device."""
    device = next(network.parameters()).device
    target = batch.target.to(device, torch.int64, non_blocking=True)
    inputs = batch.image.to(device, memory_format=torch.channels_last, non_blocking=True)
    with autocast(device, precision):
        logits = network(inputs)
        return loss_function(logits, target), logits, target


def train_step(
    network: nn.Module,
    loss_function: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    precision: Precision,
) -> tuple[Tensor, Tensor, Tensor]:
    """Learn from a batch; returns what `forward` returns."""
    optimizer.zero_grad(set_to_none=True)
    loss, logits, target = forward(network, loss_function, batch, precision)
    loss.backward()
    optimizer.step()
    return loss, logits, target


@torch.inference_mode()
def validate(network: nn.Module, cases: Sequence[Case], settings: Settings, precision: Precision = "auto") -> Figures:
    """Figures of a network on evenly spaced whole slices of some cases; leaves it in evaluation mode.

    Where several processes train, each takes some of the cases, and the figures are those of all of them.
    """
    network.eval()
    device = next(network.parameters()).device
    loss_function = build_loss(settings.training, device).eval()
    figures = Figures(list(settings.label_indices()), device)
    for batch in validation_batches(share().of(cases), settings, device):
        figures.add(*forward(network, loss_function, batch, precision))
    return figures.over_all()


def build_optimizer(network: nn.Module, recipe: TrainingSettings) -> torch.optim.Optimizer:
    """Adam at the recipe's learning rate, as in the original."""
    return torch.optim.Adam(network.parameters(), lr=recipe.learning_rate)


def fit(
    network: nn.Module,
    training: Sequence[Case],
    validation: Sequence[Case],
    settings: Settings,
    folder: Path,
    *,
    precision: Precision = "auto",
    on_epoch: Callable[[Row], object] | None = None,
    on_step: Callable[[int, int, float], object] | None = None,
    keep: Callable[[FitState], object] | None = None,
    resumed: FitState | None = None,
    name: str = "",
    draw: bool = True,
) -> FitResult:
    """Train a network.

    Args:
        network: on the device to train on; changed in place.
        training: cases to learn from.
        validation: cases to choose the best epoch by; may be empty.
        settings: recipe, channels, labels.
        folder: gets `history.csv`, `curves.png`, TensorBoard events and the checkpoints `last.pt` and `best.pt`.
        precision: see `lib.inference.device.autocast`.
        on_epoch: called with each row of the history, at once with those of before where a training goes on.
        on_step: called with the step just done, the steps of an epoch and the epoch's mean loss so far.
        keep: called after each epoch with what `resumed` takes. It must be written down at once: its tensors are those
            in use.
        resumed: where to go on, instead of beginning. With the same network, cases, settings and device it leads to
            the weights that the training would have given without the interruption, exactly so on a CPU with the
            same number of threads. `training` and `validation` may be empty where no epoch follows.
        name: what its lines in the log begin with, to tell it from other fits of one training.
        draw: False leaves out `curves.png`.

    Returns:
        The best weights and the history.

    Raises:
        ModelError: the loss is no finite number any more.
        BadInputError: several processes train, and this one has other cases than the first.
    """
    _check_same_cases(training, validation)
    recipe, epochs, names = settings.training, settings.training.max_epochs, list(settings.label_indices())
    device, part = next(network.parameters()).device, share()
    loss_function = build_loss(recipe, device)
    optimizer = build_optimizer(network, recipe)
    plateau = ReduceLROnPlateau(
        optimizer,
        factor=recipe.plateau_factor,
        patience=recipe.plateau_patience,
        min_lr=recipe.minimum_learning_rate,
    )
    records = _Records(folder, name, epochs, resumed, on_epoch, draw=draw) if part.rank == 0 else None
    steps = steps_per_epoch(training, settings, part.world)
    best = _Best(copy.deepcopy(network.state_dict()))
    begin = time.monotonic() - (float(resumed.rows[-1]["seconds"] or 0) if resumed else 0)
    seen, checked = Figures(names, device), Figures(names, device)
    trained = network
    if part.world > 1:
        trained = DistributedDataParallel(network, [device] if device.type == "cuda" else None)

    def step(_: Engine, batch: Batch) -> None:
        seen.add(*train_step(trained, loss_function, optimizer, batch, precision))

    trainer = Engine(step)
    trainer.logger.setLevel(logging.WARNING)  # it would repeat each epoch in its own words

    @trainer.on(Events.EPOCH_STARTED)
    def start_epoch(engine: Engine) -> None:
        nonlocal seen
        seen = Figures(names, device)
        _seed(recipe.seed, engine.state.epoch, part.rank)
        trained.train()

    @trainer.on(Events.ITERATION_COMPLETED(every=max(1, steps // _REPORTED_STEPS)))
    def report_step(engine: Engine) -> None:
        _check_finite(seen, recipe)
        done = (engine.state.iteration - 1) % steps + 1
        if on_step:
            on_step(done, steps, seen.mean_loss)

    @trainer.on(Events.ITERATION_COMPLETED(every=max(1, steps // _LOGGED_STEPS)))
    def log_step(engine: Engine) -> None:
        done = (engine.state.iteration - 1) % steps + 1
        if records and done < steps:
            told = (name, engine.state.epoch, epochs, done, steps, seen.mean_loss)
            logger.info("%sepoch %d/%d: step %d/%d, loss %.4f", *told)

    def finish_epoch(engine: Engine) -> None:
        nonlocal seen, checked
        epoch = engine.state.epoch
        seen = seen.over_all()
        _check_finite(seen, recipe)
        checked = validate(network, validation, settings, precision)
        _check_finite(checked, recipe)
        if epoch:
            plateau.step((checked if validation else seen).mean_loss)
        row: Row = {
            "epoch": epoch,
            "train_loss": seen.mean_loss if epoch else None,
            "validation_loss": checked.mean_loss if validation else None,
            **(checked if validation else seen).row(),
            "learning_rate": optimizer.param_groups[0]["lr"],
            "seconds": round(time.monotonic() - begin, 1),
        }
        is_best = best.offer(epoch, checked.score, network)
        if records:
            records.add(row, network, is_best=is_best)

    parts: dict[str, Any] = {"network": network, "optimizer": optimizer, "plateau": plateau, "best": best}
    trainer.add_event_handler(Events.EPOCH_COMPLETED, finish_epoch)
    if recipe.early_stop_patience and validation:

        def score(engine: Engine) -> float:  # without one, each epoch is as good as a better one, as for the best
            return engine.state.epoch if checked.score is None else checked.score

        stopper = EarlyStopping(recipe.early_stop_patience, score, trainer)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, stopper)
        parts["stopper"] = stopper

    def keep_state(engine: Engine) -> None:
        if keep and records:
            epoch = engine.state.epoch
            states = {name: part.state_dict() for name, part in parts.items()}
            done = epoch >= epochs or engine.should_terminate
            keep(FitState(epoch, done, records.rows, states))

    trainer.add_event_handler(Events.EPOCH_COMPLETED, keep_state)
    batches = training_batches(training, settings, resumed.epoch + 1 if resumed else 1, device, part)
    try:
        if resumed:
            logger.info("going on after epoch %d/%d", resumed.epoch, epochs)
            for key, kept in parts.items():
                kept.load_state_dict(resumed.parts[key])
            trainer.load_state_dict({"epoch": resumed.epoch, "max_epochs": epochs, "epoch_length": steps})
        else:
            trainer.state.epoch = 0
            finish_epoch(trainer)  # what the network could do before
            keep_state(trainer)
        if not (resumed and resumed.done):
            trainer.run(batches, max_epochs=epochs, epoch_length=steps)
    finally:
        batches.close()
        if records:
            records.close()
    network.load_state_dict(best.weights)
    return FitResult(network.eval(), records.rows if records else [], best.epoch, best.score)


def _check_same_cases(training: Sequence[Case], validation: Sequence[Case]) -> None:
    """Make sure that no other process has left out a case: each would wait for steps that the other doesn't take."""
    own = [[(case.name, len(case)) for case in side] for side in (training, validation)]
    if from_first(own) != own:
        msg = (
            "a process of this training can't use the same cases as the first; the log says which it left out, and why"
        )
        raise BadInputError(msg)


def _seed(seed: int, epoch: int, rank: int) -> None:
    """Seed what layers such as dropout draw, so that an epoch follows from its number, also in a resumed training."""
    torch.manual_seed(int(np.random.SeedSequence((seed, epoch, rank)).generate_state(1, np.uint64)[0]))


def _check_finite(figures: Figures, recipe: TrainingSettings) -> None:
    # Such weights are lost, and JSON, in which clients get the figures, has no NaN.
    if not math.isfinite(figures.mean_loss):
        rate = f"{recipe.learning_rate:g}"
        msg = f"the training diverged: its loss is {figures.mean_loss}; lower training.learning_rate ({rate})"
        raise ModelError(msg)


class _Records:
    """What people look at while a network is trained: log, history, curves, TensorBoard; and its checkpoints.

    Args:
        folder: of all of them.
        name: what its lines in the log begin with.
        epochs: at most.
        resumed: where it goes on.
        on_epoch: called with each row.
        draw: see `fit`.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        epochs: int,
        resumed: FitState | None,
        on_epoch: Callable[[Row], object] | None,
        *,
        draw: bool,
    ) -> None:
        self._folder, self._name, self._epochs, self._on_epoch = folder, name, epochs, on_epoch
        self._history = History(folder, resumed.rows if resumed else (), draw=draw)
        # An epoch that was shown but not kept comes again.
        self._board = SummaryWriter(str(folder / "events"), purge_step=resumed.epoch + 1 if resumed else None)
        if resumed and on_epoch:
            for row in resumed.rows:
                on_epoch(row)

    @property
    def rows(self) -> list[Row]:
        return self._history.rows

    def add(self, row: Row, network: nn.Module, *, is_best: bool) -> None:
        """An epoch is done."""
        epoch = int(row["epoch"] or 0)
        for which in ("best", "last") if is_best else ("last",):
            save_weights(self._folder / f"{which}.pt", network, {"epoch": epoch})
        self._history.add(row)
        for key, value in row.items():
            if value is not None and key != "epoch":
                self._board.add_scalar(key, value, epoch)
        self._board.flush()
        logger.info("%s%s", self._name, sentence(row, self._epochs))
        if self._on_epoch:
            self._on_epoch(row)

    def close(self) -> None:
        self._board.close()


@dataclass
class _Best:
    """The best weights so far; without a score the latest count as the best."""

    weights: dict[str, Tensor]
    epoch: int = 0
    score: float | None = None

    def offer(self, epoch: int, score: float | None, network: nn.Module) -> bool:
        if score is not None and self.score is not None and score <= self.score:
            return False
        self.epoch, self.score, self.weights = epoch, score, copy.deepcopy(network.state_dict())
        return True

    def state_dict(self) -> dict[str, Any]:
        return vars(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.weights, self.epoch, self.score = state["weights"], state["epoch"], state["score"]
