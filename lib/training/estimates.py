"""What a training will take of memory, disk and time; estimates that are right to a factor of about two."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from lib.errors import BadInputError
from lib.inference.device import resolve_precision
from lib.inference.model import new_network
from lib.settings import Settings, TrainingSettings
from lib.training.batches import Batch
from lib.training.fit import build_optimizer, train_step
from lib.training.loss import build_loss

Shape = tuple[int, int, int]
BYTES_PER_PIXEL = 3  # of a decoded slice: int16 HU and a uint8 class
LEAST_BYTES_PER_PIXEL = 0.75  # a patient fills at least a quarter of a slice, and the air around is not kept
_COPIES = 5  # of the weights while training: themselves, gradient, Adam's two means, the best so far
_WEIGHT_FILES = 7  # start, best, last, result, published one, and what is needed to go on
_BACKWARD = 1.5  # gradients of activations come to what the forward pass keeps
_FORWARD_PART = 1 / 3  # of a step's time; the backward pass computes about twice as much
_PROBE_STEPS, _PROBE_SECONDS = 3, 10.0


@dataclass(frozen=True)
class Disk:
    """Bytes of the decoded cases and of the weights.

    Args:
        least: certainly needed.
        most: needed where no slice can be left out; equal to `least` where all labels were read.
        free: where they will go.
    """

    least: int
    most: int
    free: int


@dataclass(frozen=True)
class Memory:
    """Bytes of network and activations on the training's device; decoded cases are read from disk, slice by slice.

    Args:
        needed: by one step.
        available: now.
    """

    needed: int
    available: int


@dataclass(frozen=True)
class Duration:
    """Seconds.

    Args:
        per_step: measured on this device, with the network and batch of the settings.
        steps: of one epoch.
        epochs: at most.
        total: with the validation after each epoch, the cross-validation and the comparison with the published model;
            without reading cases.
        networks: that the cross-validation trains; 0: there is none.
        cross_validation: its part of the total.
    """

    per_step: float
    steps: int
    epochs: int
    total: float
    networks: int = 0
    cross_validation: float = 0.0


def free_bytes(folder: Path) -> int:
    """Free space where a folder is or will be."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(existing).free


def weight_bytes(settings: Settings) -> int:
    """Disk that the weights of a run take."""
    return _WEIGHT_FILES * _size_of(new_network(settings))


def estimate_memory(settings: Settings, device: torch.device) -> Memory:
    """Memory of a training step by what the backward pass keeps, counted without computing anything."""
    # On torch's meta device, tensors have shapes but no content.
    network = new_network(settings).to("meta").train()
    kept: dict[int, Tensor] = {}
    own = {id(parameter) for parameter in network.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        if id(tensor) not in own:
            kept[id(tensor)] = tensor  # held, so that no other tensor gets its id
        return tensor

    size = settings.training.patch_size
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        network(torch.empty(settings.training.batch_size, len(settings.channels), size, size, device="meta"))
    activations = sum(tensor.numel() * tensor.element_size() for tensor in kept.values())
    if resolve_precision(device, "auto") == "bfloat16":
        activations //= 2
    on_gpu = device.type == "cuda"
    available = torch.cuda.mem_get_info(device)[0] if on_gpu else psutil.virtual_memory().available
    return Memory(_COPIES * _size_of(network) + int(_BACKWARD * activations), available)


def measure_step(settings: Settings, device: torch.device) -> float:
    """Seconds of a training step, by doing a few with noise on a network that is thrown away.

    Raises:
        BadInputError: a step does not fit the memory.
    """
    recipe = settings.training
    try:
        network = new_network(settings).to(device).to(memory_format=torch.channels_last).train()
        # In evaluation mode the loss waits for no other process.
        loss_function, optimizer = build_loss(recipe, device).eval(), build_optimizer(network, recipe)
        shape = (recipe.batch_size, len(settings.channels), recipe.patch_size, recipe.patch_size)
        target = torch.randint(settings.classes, (shape[0], *shape[2:]), dtype=torch.uint8)
        batch = Batch(torch.rand(shape), target)
        seconds: list[float] = []
        while len(seconds) < _PROBE_STEPS and sum(seconds) < _PROBE_SECONDS:
            begin = time.perf_counter()
            loss, _, _ = train_step(network, loss_function, optimizer, batch, "auto")
            loss.item()  # waits for the device
            seconds.append(time.perf_counter() - begin)
    except (torch.OutOfMemoryError, MemoryError) as error:
        msg = (
            f"a step of {recipe.batch_size} patches of {recipe.patch_size} x {recipe.patch_size} does not fit the "
            f"memory of {device}; lower training.batch_size or training.patch_size"
        )
        raise BadInputError(msg) from error
    return min(seconds)  # the first step includes preparations that the others don't repeat


def estimate_duration(
    per_step: float,
    training_cases: int,
    validation_shapes: Sequence[Shape],
    settings: Settings,
    left_out_shapes: Sequence[Sequence[Shape]] = (),
    processes: int = 1,
) -> Duration:
    """How long a training takes if no epoch is saved by stopping early.

    Args:
        per_step: seconds, as from `measure_step`.
        training_cases: how many.
        validation_shapes: `(Z, Y, X)` of each validation case.
        settings: the recipe.
        left_out_shapes: `(Z, Y, X)` of each training case that a network of the cross-validation does not see, for
            each network.
        processes: that take a batch each at a time.
    """
    recipe = settings.training
    steps = _steps(training_cases, recipe, processes)
    per_pixel = per_step * _FORWARD_PART / (recipe.batch_size * recipe.patch_size**2)
    drawn = sum(min(z, recipe.slices_per_case) * y * x for z, y, x in validation_shapes)
    both = 2 * per_pixel  # models segment a case whole
    fold_steps = sum(_steps(training_cases - len(shapes), recipe) for shapes in left_out_shapes)
    crossed = recipe.max_epochs * fold_steps * per_step + both * sum(map(_pixels, left_out_shapes))
    total = recipe.max_epochs * steps * per_step + (recipe.max_epochs + 1) * drawn * per_pixel
    total += both * _pixels(validation_shapes) + crossed
    return Duration(per_step, steps, recipe.max_epochs, total, len(left_out_shapes), crossed)


def _steps(cases: int, recipe: TrainingSettings, processes: int = 1) -> int:
    return -(-cases * recipe.slices_per_case // (recipe.batch_size * processes))


def _pixels(shapes: Sequence[Shape]) -> int:
    return sum(z * y * x for z, y, x in shapes)


def _size_of(network: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
