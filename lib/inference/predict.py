"""The network over a volume, a few axial slices at a time."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lib.inference.engine import STRIDE, Engine
from lib.inference.stopwatch import Stopwatch
from lib.transforms.windowing import gray_levels
from lib.volume import AIR_HU


def padded(slices: NDArray[np.int16]) -> NDArray[np.int16]:
    """Slices `(N, Y, X)`, C-contiguous, Y and X filled up with air at the end to multiples of the network's stride."""
    height, width = slices.shape[-2:]
    if height % STRIDE or width % STRIDE:
        return np.pad(slices, ((0, 0), (0, -height % STRIDE), (0, -width % STRIDE)), constant_values=AIR_HU)
    return np.ascontiguousarray(slices)


def predict_axial(
    engine: Engine,
    hu: NDArray[np.int16],
    *,
    batch_slices: int = 4,
    watch: Stopwatch | None = None,
    progress: Callable[[int], object] | None = None,
) -> NDArray[np.uint8]:
    """Class indices of every voxel.

    Args:
        engine: runs the network.
        hu: int16 HU, axial `(Z, Y, X)`.
        batch_slices: slices per forward pass.
        watch: counts the steps "windows" and "network".
        progress: called with the number of slices just done.

    Returns:
        uint8 `(Z, Y, X)`.
    """
    result = np.empty(hu.shape, np.uint8)
    watch = watch or Stopwatch()
    _, height, width = hu.shape
    for start in range(0, len(hu), batch_slices):
        with watch("windows"):
            slices = np.ascontiguousarray(hu[start : start + batch_slices])
            levels = np.stack([gray_levels(one) for one in slices])
        classes = engine(padded(slices), levels, watch)
        result[start : start + len(classes)] = classes[:, :height, :width]
        if progress:
            progress(len(classes))
    return result
