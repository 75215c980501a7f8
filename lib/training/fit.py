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

import torch
from ignite.engine import Engine, Events
from ignite.handlers import EarlyStopping
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.tensorboard import SummaryWriter

from lib.errors import ModelError
from lib.inference.device import Precision, autocast
from lib.metrics.original_torch import confusion_matrix, one_hot_mean_iou, pixel_accuracy, three_class_dice
from lib.networks.checkpoint import save_weights
from lib.settings import Settings, TrainingSettings
from lib.training.batches import Batch, steps_per_epoch, training_batches, validation_batches
from lib.training.cases import Case
from lib.training.history import History, Row, sentence
from lib.training.loss import build_loss
from lib.training.state import FitState, random_state, restore_random_state

logger = logging.getLogger(__name__)

# Within an epoch the log shows this many steps, so that a person sees that it goes on.
_LOGGED_STEPS = 4


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
    """Sums over the batches of an epoch, from which its figures are taken.

    Args:
        names: labels in index order.
    """

    names: Sequence[str]
    loss: float = 0.0
    soft_dice: float = 0.0
    batches: int = 0
    counts: Tensor = field(init=False)

    def __post_init__(self) -> None:
        classes = len(self.names) + 1
        self.counts = torch.zeros(classes, classes, dtype=torch.int64)

    def add(self, loss: Tensor, logits: Tensor, target: Tensor) -> None:
        """Count a batch: its loss, logits `(N, C, Y, X)` and reference indices `(N, Y, X)`."""
        logits = logits.detach().float()
        one_hot = nn.functional.one_hot(target, len(self.names) + 1).movedim(-1, 1)
        self.loss += float(loss.detach())
        self.soft_dice += float(three_class_dice(logits.softmax(1), one_hot))
        self.counts += confusion_matrix(logits, target).cpu()
        self.batches += 1

    @property
    def mean_loss(self) -> float:
        """Mean over the batches."""
        return self.loss / max(self.batches, 1)

    @property
    def dice(self) -> dict[str, float | None]:
        """Dice of each label over all counted pixels; None where neither reference nor prediction holds it."""
        both = self.counts.diagonal().double()
        total = self.counts.sum(0).double() + self.counts.sum(1).double()
        pairs = enumerate(self.names, start=1)
        return {name: float(2 * both[index] / total[index]) if total[index] else None for index, name in pairs}

    @property
    def score(self) -> float | None:
        """Mean of the labels' Dice, by which epochs and models are compared."""
        values = [value for value in self.dice.values() if value is not None]
        return sum(values) / len(values) if values else None

    def row(self) -> Row:
        """Columns of the history."""
        if not self.batches:
            return {}
        return {
            **{f"dice_{name}": value for name, value in self.dice.items()},
            "three_class_dice": self.soft_dice / self.batches,
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


@torch.inference_mode()
def validate(network: nn.Module, cases: Sequence[Case], settings: Settings, precision: Precision = "auto") -> Figures:
    """Figures of a network on evenly spaced whole slices of some cases; leaves it in evaluation mode."""
    network.eval()
    loss_function = build_loss(settings.training, next(network.parameters()).device)
    figures = Figures(list(settings.label_indices()))
    for batch in validation_batches(cases, settings):
        figures.add(*forward(network, loss_function, batch, precision))
    return figures


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

    Returns:
        The best weights and the history.

    Raises:
        ModelError: the loss is no finite number any more.
    """
    recipe = settings.training
    epochs = recipe.max_epochs
    names = list(settings.label_indices())
    device = next(network.parameters()).device
    loss_function = build_loss(recipe, device)
    optimizer = build_optimizer(network, recipe)
    plateau = ReduceLROnPlateau(
        optimizer,
        factor=recipe.plateau_factor,
        patience=recipe.plateau_patience,
        min_lr=recipe.minimum_learning_rate,
    )
    history = History(folder, resumed.rows if resumed else ())
    # An epoch that was shown but not kept comes again.
    board = SummaryWriter(str(folder / "events"), purge_step=resumed.epoch + 1 if resumed else None)
    steps = steps_per_epoch(training, settings)
    best = _Best(copy.deepcopy(network.state_dict()))
    begin = time.monotonic() - (float(resumed.rows[-1]["seconds"] or 0) if resumed else 0)
    seen, checked = Figures(names), Figures(names)

    def step(_: Engine, batch: Batch) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss, logits, target = forward(network, loss_function, batch, precision)
        loss.backward()
        optimizer.step()
        seen.add(loss, logits, target)
        _check_finite(seen, recipe)

    trainer = Engine(step)
    trainer.logger.setLevel(logging.WARNING)  # it would repeat each epoch in its own words

    @trainer.on(Events.EPOCH_STARTED)
    def start_epoch(_: Engine) -> None:
        nonlocal seen
        seen = Figures(names)
        network.train()

    @trainer.on(Events.ITERATION_COMPLETED)
    def report_step(engine: Engine) -> None:
        done = (engine.state.iteration - 1) % steps + 1
        if on_step:
            on_step(done, steps, seen.mean_loss)
        if done % max(1, steps // _LOGGED_STEPS) == 0 and done < steps:
            logger.info("epoch %d/%d: step %d/%d, loss %.4f", engine.state.epoch, epochs, done, steps, seen.mean_loss)

    def finish_epoch(engine: Engine) -> None:
        nonlocal checked
        epoch = engine.state.epoch
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
        if best.offer(epoch, checked.score, network):
            save_weights(folder / "best.pt", network, {"epoch": epoch})
        save_weights(folder / "last.pt", network, {"epoch": epoch})
        history.add(row)
        for key, value in row.items():
            if value is not None and key != "epoch":
                board.add_scalar(key, value, epoch)
        board.flush()
        logger.info(sentence(row, epochs))
        if on_epoch:
            on_epoch(row)

    parts: dict[str, Any] = {"network": network, "optimizer": optimizer, "plateau": plateau, "best": best}
    trainer.add_event_handler(Events.EPOCH_COMPLETED, finish_epoch)
    if recipe.early_stop_patience and validation:
        stopper = EarlyStopping(recipe.early_stop_patience, lambda _: checked.score or 0.0, trainer)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, stopper)
        parts["stopper"] = stopper

    def keep_state(engine: Engine) -> None:
        if keep:
            epoch = engine.state.epoch
            states = {name: part.state_dict() for name, part in parts.items()}
            done = epoch >= epochs or engine.should_terminate
            keep(FitState(epoch, done, history.rows, states, random_state(device)))

    trainer.add_event_handler(Events.EPOCH_COMPLETED, keep_state)
    batches = training_batches(training, settings, resumed.epoch + 1 if resumed else 1)
    try:
        if resumed:
            logger.info("going on after epoch %d/%d", resumed.epoch, epochs)
            if on_epoch:
                for row in resumed.rows:
                    on_epoch(row)
            for name, part in parts.items():
                part.load_state_dict(resumed.parts[name])
            trainer.load_state_dict({"epoch": resumed.epoch, "max_epochs": epochs, "epoch_length": steps})
            restore_random_state(resumed.random, device)
        else:
            torch.manual_seed(recipe.seed)
            trainer.state.epoch = 0
            finish_epoch(trainer)  # what the network could do before
            keep_state(trainer)
        if not (resumed and resumed.done):
            trainer.run(batches, max_epochs=epochs, epoch_length=steps)
    finally:
        batches.close()
        board.close()
    network.load_state_dict(best.weights)
    return FitResult(network.eval(), history.rows, best.epoch, best.score)


def _check_finite(figures: Figures, recipe: TrainingSettings) -> None:
    # Such weights are lost, and JSON, in which clients get the figures, has no NaN.
    if not math.isfinite(figures.loss):
        rate = f"{recipe.learning_rate:g}"
        msg = f"the training diverged: its loss is {figures.loss}; lower training.learning_rate ({rate})"
        raise ModelError(msg)


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
