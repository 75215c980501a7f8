"""Axial slices as small PNG pictures: pixels made square, few gray levels, and a palette with the outlines' colors.

Arrays are `(Y, X)`, as a viewer shows them.
"""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lib.transforms.windowing import window_level

MARGIN_MM = 20.0
# Few gray levels keep a page with hundreds of pictures small; CT noise hides the steps.
GRAYS = 64


def view_around(
    sides: tuple[slice, slice], pixel: Sequence[float], shape: Sequence[int], margin_mm: float = MARGIN_MM
) -> tuple[slice, slice]:
    """Rows and columns with a margin around them, inside the slice.

    Args:
        sides: rows and columns to show.
        pixel: spacing `(Y, X)` in mm.
        shape: of the slice.
        margin_mm: on each side.
    """
    rows, columns = (
        slice(max(side.start - margin, 0), min(side.stop + margin, length))
        for side, margin, length in zip(sides, (int(np.ceil(margin_mm / step)) for step in pixel), shape, strict=True)
    )
    return rows, columns


def panel_size(shape: Sequence[int], pixel: Sequence[float], longest: int) -> tuple[int, int]:
    """Width and height of a picture with square pixels whose longer side has `longest` of them."""
    extent_y, extent_x = (length * step for length, step in zip(shape, pixel, strict=True))
    scale = longest / max(extent_y, extent_x)
    return max(round(extent_x * scale), 1), max(round(extent_y * scale), 1)


def draw_ct(hu: NDArray[np.int16], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A slice in the liver window as gray levels from 0 to `GRAYS - 1`, `size` (width, height) pixels large."""
    gray = Image.fromarray((window_level(np.ascontiguousarray(hu), "liver") * 255).astype(np.uint8))
    return (np.asarray(gray.resize(size, Image.Resampling.BICUBIC)) // (256 // GRAYS)).astype(np.uint8)


def enlarge(labels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Labels on the pixels of a picture of `size` (width, height)."""
    return np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))


def as_png(panel: NDArray[np.uint8], colors: Sequence[Sequence[int]]) -> bytes:
    """A picture of gray levels and, from `GRAYS` on, of indices into `colors` (RGB)."""
    picture = Image.fromarray(panel).convert("P")
    grays = np.repeat(np.linspace(0, 255, GRAYS).round().astype(np.uint8), 3).tolist()
    picture.putpalette([*grays, *(part for color in colors for part in color)])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
