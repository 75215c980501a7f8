"""Which slices, and which part of them, the network sees in an epoch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lib.errors import BadInputError
from lib.labels import NOT_LOOKED_AT
from lib.settings import TrainingSettings
from lib.volume import AIR_HU


@dataclass(frozen=True)
class SliceChoice:
    """One slice of one case, and which class its patch is centered on (None: anywhere)."""

    case: int
    slice: int
    center_class: int | None


class _Slices(Protocol):
    """What is drawn from: a case on disk, or one in memory."""

    @property
    def presence(self) -> NDArray[np.bool_]: ...

    def __len__(self) -> int: ...


def choose_slices(
    cases: Sequence[_Slices], settings: TrainingSettings, rng: np.random.Generator, *, may_be_none: bool = False
) -> list[SliceChoice]:
    """Draw an epoch's slices: as many per case, rare classes as often as the settings ask.

    With probability `tumor_fraction` a slice that holds every class is drawn, with `foreground_fraction` less that one
    that holds any label, otherwise any slice. A case without such slices gives what the next kind would. With a
    `tumor_fraction` of 1, the original's recipe, cases without a slice that holds every class give none.

    Args:
        cases: the training cases.
        settings: how many slices and which fractions.
        rng: source of randomness.
        may_be_none: these are a part of the cases, so that none of their slices may be wanted.

    Returns:
        The choices of all cases in random order.

    Raises:
        BadInputError: `tumor_fraction` is 1 and no case has a slice that holds every class.
    """
    choices = []
    for index, case in enumerate(cases):
        labelled = np.flatnonzero(case.presence[:, 1:].any(axis=1))
        # Whether background shows does not matter: around a label it may be what nobody looked at.
        complete = np.flatnonzero(case.presence[:, 1:].all(axis=1))
        if settings.tumor_fraction == 1 and not len(complete):
            continue
        for _ in range(settings.slices_per_case):
            draw = rng.random()
            if draw < settings.tumor_fraction and len(complete):
                choices.append(SliceChoice(index, int(rng.choice(complete)), case.presence.shape[1] - 1))
            elif draw < settings.foreground_fraction and len(labelled):
                choices.append(SliceChoice(index, int(rng.choice(labelled)), 1))
            else:
                choices.append(SliceChoice(index, int(rng.integers(len(case))), None))
    if not choices and not may_be_none:
        msg = (
            f"training.tumor_fraction is 1, but none of the {len(cases)} training cases has a slice with every class; "
            "lower it, or label cases with tumors"
        )
        raise BadInputError(msg)
    order = rng.permutation(len(choices))
    return [choices[i] for i in order]


def patch_start(
    label: NDArray[np.uint8], center_class: int | None, size: int, rng: np.random.Generator
) -> tuple[int, int]:
    """Upper left corner `(y, x)` of a patch of `size` that holds a random voxel of a class.

    The voxel lies anywhere in the patch's middle half. Where the slice is smaller than the patch, it is centered
    (the corner is negative).
    """
    height, width = label.shape
    target: NDArray | None = None
    if center_class is not None:
        is_target = label == center_class if center_class > 1 else (label > 0) & (label != NOT_LOOKED_AT)
        found = np.flatnonzero(is_target)
        if len(found):
            target = np.array(np.unravel_index(rng.choice(found), label.shape))
    start = []
    for axis, extent in enumerate((height, width)):
        if extent <= size:
            start.append(-((size - extent) // 2))
        elif target is None:
            start.append(int(rng.integers(extent - size + 1)))
        else:
            offset = int(rng.integers(size // 4, size - size // 4))
            start.append(int(np.clip(target[axis] - offset, 0, extent - size)))
    return start[0], start[1]


def cut(array: NDArray, start: tuple[int, int], size: int, fill: int = 0) -> NDArray:
    """The square `(size, size)` of an array `(Y, X)` from `start` on, `fill` where it reaches outside."""
    result = np.full((size, size), fill, array.dtype)
    y, x = start
    source = array[max(0, y) : y + size, max(0, x) : x + size]
    top, left = max(0, -y), max(0, -x)
    result[top : top + source.shape[0], left : left + source.shape[1]] = source
    return result


def cut_hu(array: NDArray[np.int16], start: tuple[int, int], size: int) -> NDArray[np.int16]:
    """`cut` with air outside."""
    return cut(array, start, size, AIR_HU)
