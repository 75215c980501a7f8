"""Painting implicit shapes onto a slab of CT slices with soft borders.

Shapes are evaluated on *nodes*, every `stride`-th pixel in plane, and only in their bounding boxes; the distances,
which are smooth, are then interpolated to pixels, where the border becomes a partial-volume ramp. That is several
times faster than evaluating shapes on every pixel and looks the same.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lib.anatomy.shapes import Field

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Frame:
    """Where the pixels lie in the patient: position = `matrix @ (i, j, k) + origin`.

    Args:
        matrix: (3, 3), columns are the steps in mm of one column, row and slice; patient axes are left, posterior,
            superior.
        origin: (3,) position in mm of pixel (0, 0, 0).
        columns: pixels along a row.
        rows: pixels along a column.
        stride: pixels between nodes.
    """

    matrix: NDArray[np.float64]
    origin: NDArray[np.float64]
    columns: int
    rows: int
    stride: int

    def node_axes(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Pixel indices of the nodes along columns and rows; the last may lie beyond the last pixel."""
        return self._axis(self.columns), self._axis(self.rows)

    def _axis(self, size: int) -> NDArray[np.float64]:
        return np.arange(-(-(size - 1) // self.stride) + 1, dtype=np.float64) * self.stride


class Canvas:
    """HU and coverage of a slab of slices `(Z, Y, X)` while it is painted, farthest tissue first.

    Args:
        frame: where the pixels lie.
        slices: (Z,) slice indices, fractions allowed, ascending.
        softness: width in mm of the ramp at borders (the scanner's sharpness in plane).
    """

    def __init__(self, frame: Frame, slices: NDArray[np.float64], softness: float) -> None:
        self.frame, self.slices, self.softness = frame, slices, softness
        shape = (len(slices), frame.rows, frame.columns)
        self.hu = np.full(shape, -1000, np.float32)
        self.liver = np.zeros(shape, np.float32)
        self.tumor = np.zeros(shape, np.float32)
        self._inverse = np.linalg.inv(frame.matrix)
        columns, rows = frame.node_axes()
        self.node_shape = (len(slices), len(rows), len(columns))

    def box(self, low: ArrayLike, high: ArrayLike, margin: float) -> Box | None:
        """Nodes `(Z, Y, X)` that may lie between two corners in patient mm, widened by `margin`; None if none do."""
        corners = np.array((low, high), np.float64)
        middle = self._inverse @ (corners.mean(axis=0) - self.frame.origin)
        reach = np.abs(self._inverse) @ ((corners[1] - corners[0]) / 2 + margin)
        least, most = middle - reach, middle + reach
        z = slice(*np.searchsorted(self.slices, [least[2], most[2]], side="left"))
        stride = self.frame.stride
        x = slice(max(0, int(least[0] // stride)), min(self.node_shape[2], int(most[0] // stride) + 2))
        y = slice(max(0, int(least[1] // stride)), min(self.node_shape[1], int(most[1] // stride) + 2))
        if any(part.stop - part.start < 1 for part in (z, y, x)) or x.stop - x.start < 2 or y.stop - y.start < 2:
            return None
        return z, y, x

    def paint(
        self,
        box: Box,
        distance: Field,
        value: float | Field,
        *,
        softness: float | None = None,
        opacity: float = 1.0,
        covers: str = "",
    ) -> None:
        """Blend `value` HU into the pixels where `distance` is negative.

        Args:
            box: the nodes on which `distance` is given.
            distance: implicit shape on these nodes.
            value: HU, one number or one per node.
            softness: width of the ramp in mm; by default the canvas's.
            opacity: largest weight of `value`.
            covers: "liver" or "tumor" marks the pixels as such, "other" takes these marks away.
        """
        softness = self.softness if softness is None else softness
        near = distance < 0.5 * softness
        parts = [slice(*_extent(near.any(axis=axes))) for axes in ((1, 2), (0, 2), (0, 1))]
        if any(part.stop <= part.start for part in parts):
            return
        # one node more on each side in plane, for the interpolation
        z = parts[0]
        y, x = (slice(max(0, p.start - 1), min(n, p.stop + 1)) for p, n in zip(parts[1:], near.shape[1:], strict=True))
        alpha = self._to_pixels(distance[z, y, x])
        alpha *= np.float32(-1 / softness)
        alpha += np.float32(0.5)
        np.clip(alpha, 0, 1, out=alpha)
        where = (
            slice(box[0].start + z.start, box[0].start + z.stop),
            self._pixels(box[1].start + y.start, alpha.shape[1]),
            self._pixels(box[2].start + x.start, alpha.shape[2]),
        )
        alpha = alpha[:, : self.frame.rows - where[1].start, : self.frame.columns - where[2].start]
        self._mark(where, alpha, covers)
        if opacity != 1.0:
            alpha *= np.float32(opacity)
        hu = self.hu[where]
        if isinstance(value, np.ndarray):
            target = self._to_pixels(np.broadcast_to(value, distance.shape)[z, y, x])
            target = target[:, : alpha.shape[1], : alpha.shape[2]]
            target -= hu
        else:
            target = np.float32(value) - hu
        target *= alpha
        hu += target

    def _mark(self, where: tuple[slice, slice, slice], alpha: Field, covers: str) -> None:
        if covers == "liver":
            np.maximum(self.liver[where], alpha, out=self.liver[where])
        elif covers == "tumor":
            np.maximum(self.tumor[where], alpha, out=self.tumor[where])
            np.maximum(self.liver[where], alpha, out=self.liver[where])
        elif covers == "other":
            self.liver[where] *= 1 - alpha
            self.tumor[where] *= 1 - alpha

    def _pixels(self, first_node: int, count: int) -> slice:
        return slice(first_node * self.frame.stride, first_node * self.frame.stride + count)

    def _to_pixels(self, nodes: Field) -> Field:
        return _stretch(_stretch(nodes, self.frame.stride, 1), self.frame.stride, 2)


def _stretch(nodes: Field, stride: int, axis: int) -> Field:
    """Linear interpolation along an axis with `stride` steps from node to node; always a new array."""
    if stride == 1 or nodes.shape[axis] == 1:
        return nodes.astype(np.float32)
    shape = list(nodes.shape)
    shape[axis] = (shape[axis] - 1) * stride + 1
    result = np.empty(shape, np.float32)
    whole = [slice(None)] * 3
    left, right = list(whole), list(whole)
    left[axis], right[axis] = slice(None, -1), slice(1, None)
    step = (nodes[tuple(right)] - nodes[tuple(left)]) * np.float32(1 / stride)
    whole[axis] = slice(0, None, stride)
    result[tuple(whole)] = nodes
    for part in range(1, stride):
        whole[axis] = slice(part, None, stride)
        result[tuple(whole)] = nodes[tuple(left)] + step * np.float32(part)
    return result


def _extent(flags: NDArray[np.bool_]) -> tuple[int, int]:
    hits = np.flatnonzero(flags)
    return (int(hits[0]), int(hits[-1]) + 1) if len(hits) else (0, 0)
