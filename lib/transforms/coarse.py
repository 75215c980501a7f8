"""Axial slices at low resolution, as the coarse pass over a volume sees them."""

import numpy as np
import torch
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
    tensor = torch.from_numpy(np.ascontiguousarray(hu)).float()
    tensor = torch.nn.functional.pad(tensor, (0, -width % across, 0, -height % down), value=float(AIR_HU))
    means: NDArray[np.int16] = torch.nn.functional.avg_pool2d(tensor, (down, across)).round().short().numpy()
    return means


def thinned(label: NDArray[np.uint8], factors: tuple[int, int]) -> NDArray[np.uint8]:
    """The label `(Y, X)` of a slice that `shrunk` makes small: the class in the middle of each of its pixels."""
    down, across = factors
    height, width = label.shape
    filled = np.pad(label, ((0, -height % down), (0, -width % across)))
    return np.ascontiguousarray(filled[down // 2 :: down, across // 2 :: across])
