"""The network over a volume, a few axial slices at a time."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lib.inference.engine import STRIDE, Engine
from lib.inference.observer import Observer, Seen
from lib.inference.stopwatch import Stopwatch
from lib.transforms.lookup import slice_levels
from lib.volume import AIR_HU


def padded(slices: NDArray[np.int16]) -> NDArray[np.int16]:
    """Slices `(N, Y, X)`, C-contiguous, Y and X filled up with air at the end to multiples of the network's stride."""
    height, width = slices.shape[-2:]
    if height % STRIDE or width % STRIDE:
        return np.pad(slices, ((0, 0), (0, -height % STRIDE), (0, -width % STRIDE)), constant_values=AIR_HU)
    return np.ascontiguousarray(slices)


def predict_slices(
    engine: Engine,
    hu: NDArray[np.int16],
    watch: Stopwatch,
    rows: slice = slice(None),
    columns: slice = slice(None),
    *,
    observer: Observer | None = None,
    first: int = 0,
) -> NDArray[np.uint8]:
    """Class indices of a few slices in one pass, or of one part of each.

    Args:
        engine: runs the network.
        hu: int16 HU of the whole slices, `(N, Y, X)`, by which the histogram channel goes.
        watch: counts the steps "windows" and "network".
        rows: of the part.
        columns: of the part.
        observer: is told what the network gave for the part; the step "observe" counts its time.
        first: index in the volume of the first of these slices, for the observer.

    Returns:
        uint8 `(N, Y', X')`, of the part alone.
    """
    with watch("windows"):
        hu = np.ascontiguousarray(hu)
        levels = slice_levels(hu, engine.device)
        part = hu[:, rows, columns]
    cut = np.s_[..., : part.shape[1], : part.shape[2]]
    if observer is None:
        return engine(padded(part), levels, watch)[cut]
    seen = engine.seen(padded(part), levels, watch)
    seen = Seen(seen.classes[cut], seen.probabilities[cut], seen.features)
    with watch("observe"):
        there = slice(*rows.indices(hu.shape[1])), slice(*columns.indices(hu.shape[2]))
        observer.saw(first, *there, seen)
    return seen.classes


def predict_axial(
    engine: Engine,
    hu: NDArray[np.int16],
    *,
    batch_slices: int = 4,
    watch: Stopwatch | None = None,
    progress: Callable[[int], object] | None = None,
    observer: Observer | None = None,
) -> NDArray[np.uint8]:
    """Class indices of every voxel.

    Args:
        engine: runs the network.
        hu: int16 HU, axial `(Z, Y, X)`.
        batch_slices: slices per forward pass.
        watch: counts the steps "windows" and "network".
        progress: called with the number of slices just done.
        observer: is told what the network gave for each group of slices.

    Returns:
        uint8 `(Z, Y, X)`.
    """
    result = np.empty(hu.shape, np.uint8)
    watch = watch or Stopwatch()
    for start in range(0, len(hu), batch_slices):
        classes = predict_slices(engine, hu[start : start + batch_slices], watch, observer=observer, first=start)
        result[start : start + len(classes)] = classes
        if progress:
            progress(len(classes))
    return result
