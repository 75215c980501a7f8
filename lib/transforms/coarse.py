"""Axial slices at low resolution, as the coarse pass over a volume sees them."""

import numpy as np
from numpy.typing import NDArray

from lib.volume import AIR_HU

COARSE_MM = 3.0


def coarse_factors(spacing: tuple[float, float, float]) -> tuple[int, int]:
    """How many rows and columns become one, so that pixels are about `COARSE_MM`; `spacing` in mm along `(Z, Y, X)`."""
    down, across = (max(1, round(COARSE_MM / step)) for step in spacing[1:])
    return down, across


def shrunk(hu: NDArray[np.int16], factors: tuple[int, int]) -> NDArray[np.int16]:
    """Means over as many rows and columns in place of pixels; what is left over at the end is filled up with air.

    Args:
        hu: int16 HU `(N, Y, X)`.
        factors: of rows and columns.

    Returns:
        int16 `(N, Y', X')`, as many as it takes to hold all.
    """
    down, across = factors
    _, height, width = hu.shape
    if height % down or width % across:
        hu = np.pad(hu, ((0, 0), (0, -height % down), (0, -width % across)), constant_values=AIR_HU)
    rows = np.sum([hu[:, row::down] for row in range(down)], axis=0, dtype=np.int32)
    sums = np.sum([rows[:, :, column::across] for column in range(across)], axis=0)
    means: NDArray[np.int16] = np.rint(sums / (down * across)).astype(np.int16)
    return means


def thinned(label: NDArray[np.uint8], factors: tuple[int, int]) -> NDArray[np.uint8]:
    """The label `(Y, X)` of a slice that `shrunk` makes small: the class in the middle of each of its pixels."""
    down, across = factors
    height, width = label.shape
    filled = np.pad(label, ((0, -height % down), (0, -width % across)))
    return np.ascontiguousarray(filled[down // 2 :: down, across // 2 :: across])
