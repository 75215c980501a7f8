"""Drawn slices as network input: cut, augmented, windowed, stacked."""

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lib.inference.predict import to_input
from lib.settings import Settings
from lib.training.cases import Case
from lib.training.painting import PaintedCase, Painting
from lib.training.sampling import SliceChoice, choose_slices, cut, cut_hu, patch_start
from lib.transforms.augmentation import AugmentationParameters, apply, draw_parameters
from lib.transforms.windowing import blend
from lib.volume import AIR_HU

_CPU = torch.device("cpu")
_READY_BATCHES = 4  # made ahead while the network works on the one before
_Item = TypeVar("_Item")


class Batch(NamedTuple):
    """Network input and reference.

    Args:
        image: float32 `(N, channels, Y, X)`.
        target: uint8 class indices `(N, Y, X)`.
    """

    image: Tensor
    target: Tensor


def steps_per_epoch(cases: Sequence[Case], settings: Settings) -> int:
    """How many batches an epoch has."""
    return -(-len(cases) * settings.training.slices_per_case // settings.training.batch_size)


def training_batches(cases: Sequence[Case], settings: Settings, first_epoch: int = 1) -> Generator[Batch, None, None]:
    """Batches of freshly drawn patches without end, one epoch after the other; made in a thread ahead of use.

    Those of an epoch follow from the seed and the epoch alone, not from the epochs before, so that a training that was
    interrupted draws what it would have drawn. Making one takes a few percent of a training step on one CPU core. Close
    the generator to end the thread.

    Args:
        cases: to draw from.
        settings: recipe, augmentation, channels.
        first_epoch: with whose batches to begin; 1 is the first.
    """
    return ahead(_draw_batches(cases, settings, first_epoch), _READY_BATCHES)


def ahead(items: Iterator[_Item], number: int) -> Generator[_Item, None, None]:
    """The same items in the same order, each made in a thread up to `number` items before it is asked for.

    What goes wrong while an item is made is raised when it is asked for.
    """
    with ThreadPoolExecutor(1, "batches") as pool:  # one thread: a generator can't be entered twice
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


def validation_batches(cases: Sequence[Case], settings: Settings) -> Iterator[Batch]:
    """Evenly spaced whole slices of each case, the same each time, padded to the network's stride."""
    for case in cases:
        chosen = np.unique(np.linspace(0, len(case) - 1, settings.training.slices_per_case).round().astype(int))
        for group in np.array_split(chosen, -(-len(chosen) // settings.training.batch_size)):
            hu = np.stack([case.image[z] for z in group])
            image = to_input(hu, settings.blend_channels(), _CPU)
            target = np.zeros((len(group), *image.shape[2:]), np.uint8)
            target[:, : hu.shape[1], : hu.shape[2]] = [case.label[z] for z in group]
            yield Batch(image, torch.from_numpy(target))


def _draw_batches(cases: Sequence[Case], settings: Settings, first_epoch: int = 1) -> Iterator[Batch]:
    steps = steps_per_epoch(cases, settings)
    painting = Painting(settings) if _can_paint(settings) else None
    for epoch in count(first_epoch):
        rng = np.random.default_rng((settings.training.seed, epoch))
        yield from islice(_draw_repeatedly(cases, settings, painting, rng), steps)


def _draw_repeatedly(
    cases: Sequence[Case], settings: Settings, painting: Painting | None, rng: np.random.Generator
) -> Iterator[Batch]:
    """Once through all cases, and again: an epoch takes more than one round where some cases give no slices."""
    size = settings.training.batch_size
    waiting: list[tuple[Case | PaintedCase, SliceChoice]] = []
    while True:
        drawn = 0
        for group in painting.epoch(cases, rng) if painting else [cases]:
            choices = choose_slices(group, settings.training, rng, may_be_none=painting is not None)
            drawn += len(choices)
            waiting += [(group[choice.case], choice) for choice in choices]
            while len(waiting) >= size:
                yield _make_batch(waiting[:size], settings, rng)
                del waiting[:size]
        if waiting:  # the last of a round may be smaller
            yield _make_batch(waiting, settings, rng)
            waiting = []
        if not drawn:
            choose_slices(cases, settings.training, rng)  # says why there are none


def _can_paint(settings: Settings) -> bool:
    """Whether tumors are asked for, and the classes are those that they are known for."""
    return settings.synthetic_tumors.probability > 0 and settings.has_liver_and_tumor


def _make_batch(
    drawn: Sequence[tuple[Case | PaintedCase, SliceChoice]], settings: Settings, rng: np.random.Generator
) -> Batch:
    size = settings.training.patch_size
    parameters = [draw_parameters(rng, settings.augmentation) for _ in drawn]
    images, labels, planes = [], [], []
    for case, choice in drawn:
        image, label = case.image[choice.slice], case.label[choice.slice]
        start = patch_start(label, choice.center_class, size, rng)
        images.append(cut_hu(image, start, size))
        labels.append(cut(label, start, size))
    hu, target = apply(parameters, np.stack(images), np.stack(labels))
    for (case, choice), patch, each in zip(drawn, hu, parameters, strict=True):
        whole = _shifted(case.image[choice.slice], each)
        planes.append(blend(patch[None], settings.blend_channels(), histogram_of=whole[None], threads=1)[0])
    return Batch(torch.from_numpy(np.stack(planes)), torch.from_numpy(target))


def _shifted(hu: NDArray[np.int16], parameters: AugmentationParameters) -> NDArray[np.int16]:
    """The whole slice with the gain and shift of its patch, as its gray values decide the histogram channel."""
    if (parameters.hu_gain, parameters.hu_shift) == (1, 0):
        return hu
    changed = np.rint(hu * np.float32(parameters.hu_gain) + np.float32(parameters.hu_shift))
    return np.clip(changed, AIR_HU, 32767).astype(np.int16)
