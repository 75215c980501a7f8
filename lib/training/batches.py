"""Drawn slices as network input: cut, augmented, windowed, stacked."""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count, islice
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lib.cores import available_cores
from lib.inference.engine import STRIDE
from lib.settings import Settings
from lib.training.decoded import Case
from lib.training.distributed import Share
from lib.training.painting import PaintedCase, Painting
from lib.training.sampling import SliceChoice, choose_slices, cut, cut_hu, patch_start
from lib.transforms.augmentation import apply, change_levels, draw_parameters
from lib.transforms.coarse import coarse_factors, shrunk, thinned
from lib.transforms.lookup import look_up
from lib.transforms.windowing import channel_tables
from lib.volume import AIR_HU

_CPU = torch.device("cpu")
_READY_BATCHES = 4  # made ahead while the network works on the one before
_MOST_WORKERS = 8
_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


class Batch(NamedTuple):
    """Network input and reference, on one device.

    Args:
        image: float32 `(N, channels, Y, X)`, channels-last in memory.
        target: uint8 class indices `(N, Y, X)`, and `NOT_LOOKED_AT`.
    """

    image: Tensor
    target: Tensor


class _Drawn(NamedTuple):
    """A slice to make a patch of, and what its random numbers follow from."""

    case: Case | PaintedCase
    choice: SliceChoice
    seed: tuple[int, int, int]


def steps_per_epoch(cases: Sequence[Case], settings: Settings, world: int = 1) -> int:
    """How many batches an epoch has, where `world` processes take a batch each at a time."""
    return -(-len(cases) * settings.training.slices_per_case // (settings.training.batch_size * world))


def training_batches(
    cases: Sequence[Case],
    settings: Settings,
    first_epoch: int = 1,
    device: torch.device = _CPU,
    share: Share = Share(),  # noqa: B008 - frozen
) -> Generator[Batch, None, None]:
    """Batches of freshly drawn patches without end, one epoch after the other; made in threads ahead of use.

    A patch follows from the seed, its epoch and its place in the epoch alone, so that a training that was interrupted,
    or that is shared among processes, draws what it would have drawn. On a CPU, making a batch takes a few percent of
    a training step. On another device, that device deforms and windows. Close the generator to end the threads.

    Args:
        cases: to draw from.
        settings: recipe, augmentation, channels.
        first_epoch: with whose batches to begin; 1 is the first.
        device: where the batches shall lie.
        share: which part of each batch to make, where `world` batches count as one.
    """
    drawn = ahead(_draw_batches(cases, settings, first_epoch, share.world), _READY_BATCHES)
    make = partial(_make_batch, settings=settings, device=device)
    # Beside a GPU, the CPU has nothing else to do; on a CPU, more threads would only take time from the network.
    workers = 1 if device.type == "cpu" else min(_MOST_WORKERS, available_cores())
    return made_ahead((share.of(batch) for batch in drawn), make, workers)


def ahead(items: Iterator[_Item], number: int) -> Generator[_Item, None, None]:
    """The same items in the same order, each made in a thread up to `number` items before it is asked for.

    What goes wrong while an item is made is raised when it is asked for.
    """
    with ThreadPoolExecutor(1, "drawing") as pool:  # one thread: a generator can't be entered twice
        waiting = deque(pool.submit(next, items) for _ in range(number))
        try:
            while True:
                try:
                    item = waiting.popleft().result()
                except StopIteration:
                    return
                waiting.append(pool.submit(next, items))
                yield item
        finally:
            pool.shutdown(cancel_futures=True)


def made_ahead(items: Iterator[_Item], make: Callable[[_Item], _Made], workers: int) -> Generator[_Made, None, None]:
    """`make` of each item, in order, done by threads ahead of use; `items` is closed at the end."""
    number = max(_READY_BATCHES, 2 * workers)
    initializer = partial(torch.set_num_threads, 1) if workers > 1 else None  # else each would use all cores
    with ThreadPoolExecutor(workers, "batches", initializer=initializer) as pool:
        waiting = deque(pool.submit(make, item) for item in islice(items, number))
        try:
            while waiting:
                made = waiting.popleft().result()
                waiting.extend(pool.submit(make, item) for item in islice(items, 1))
                yield made
        finally:
            pool.shutdown(cancel_futures=True)
            if isinstance(items, Generator):
                items.close()


def validation_batches(cases: Sequence[Case], settings: Settings, device: torch.device = _CPU) -> Iterator[Batch]:
    """Evenly spaced slices of each case, the same each time, whole but for the air around the patient.

    They are padded with air to the network's stride.
    """
    for case in cases:
        chosen = np.unique(np.linspace(0, len(case) - 1, settings.training.slices_per_case).round().astype(int))
        for group in np.array_split(chosen, -(-len(chosen) // settings.training.batch_size)):
            hu, target = (np.stack([stack[z] for z in group]) for stack in (case.image, case.label))
            padding = ((0, 0), *((0, -size % STRIDE) for size in hu.shape[1:]))
            image = torch.from_numpy(np.pad(hu, padding, constant_values=AIR_HU)).to(device)
            tables, low = channel_tables(case.gray_levels[group], settings.blend_channels())
            yield Batch(
                look_up(image, torch.from_numpy(tables).to(device), low),
                torch.from_numpy(np.pad(target, padding)).to(device),
            )


def _draw_batches(
    cases: Sequence[Case], settings: Settings, first_epoch: int, world: int
) -> Iterator[Sequence[_Drawn]]:
    steps = steps_per_epoch(cases, settings, world)
    painting = Painting(settings) if _can_paint(settings) else None
    for epoch in count(first_epoch):
        yield from islice(_draw_repeatedly(cases, settings, painting, epoch, world), steps)


def _draw_repeatedly(
    cases: Sequence[Case], settings: Settings, painting: Painting | None, epoch: int, world: int
) -> Iterator[Sequence[_Drawn]]:
    """Once through all cases, and again: an epoch takes more than one round where some cases give no slices."""
    seed = settings.training.seed
    rng = np.random.default_rng((seed, epoch))
    size = settings.training.batch_size * world
    numbers = count(1)  # a seed that ends in 0 is the same as one without it, which is that of the drawing
    waiting: list[_Drawn] = []
    while True:
        drawn = 0
        for group in painting.epoch(cases, rng) if painting else [cases]:
            choices = choose_slices(group, settings.training, rng, may_be_none=painting is not None)
            drawn += len(choices)
            waiting += [_Drawn(group[choice.case], choice, (seed, epoch, next(numbers))) for choice in choices]
            while len(waiting) >= size:
                yield waiting[:size]
                del waiting[:size]
        if waiting:  # the last of a round may be smaller
            yield waiting
            waiting = []
        if not drawn:
            choose_slices(cases, settings.training, rng)  # says why there are none


def _can_paint(settings: Settings) -> bool:
    """Whether tumors are asked for, and the classes are those that they are known for."""
    return settings.synthetic_tumors.probability > 0 and settings.has_liver_and_tumor


def _slice(
    case: Case | PaintedCase, number: int, coarse_probability: float, rng: np.random.Generator
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """HU and classes `(Y, X)` of a slice, now and then as the coarse pass of an inference sees it."""
    image, label = case.image[number], case.label[number]
    factors = coarse_factors(case.spacing)
    if factors == (1, 1) or not coarse_probability or rng.random() >= coarse_probability:
        return image, label
    return shrunk(image[None], factors)[0], thinned(label, factors)


def _make_batch(drawn: Sequence[_Drawn], settings: Settings, device: torch.device) -> Batch:
    size, channels = settings.training.patch_size, settings.blend_channels()
    if not drawn:  # a process whose part of an epoch's last batch is empty
        empty = torch.empty(0, size, size, len(channels), device=device).permute(0, 3, 1, 2)
        return Batch(empty, torch.empty(0, size, size, dtype=torch.uint8, device=device))
    parameters, patches, targets = [], [], []
    levels: list[NDArray[np.int16]] = []
    for case, choice, seed in drawn:
        rng = np.random.default_rng(seed)
        parameters.append(draw_parameters(rng, settings.augmentation))
        image, label = _slice(case, choice.slice, settings.augmentation.coarse_probability, rng)
        start = patch_start(label, choice.center_class, size, rng)
        patches.append(cut_hu(image, start, size))
        targets.append(cut(label, start, size))
        levels.append(change_levels(case.gray_levels[choice.slice], parameters[-1]))
    hu, target = (torch.from_numpy(np.stack(arrays)).to(device) for arrays in (patches, targets))
    hu, target = apply(parameters, hu, target)
    tables, low = channel_tables(np.stack(levels), channels)
    return Batch(look_up(hu, torch.from_numpy(tables).to(device), low), target)
