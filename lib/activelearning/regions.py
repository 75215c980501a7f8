"""Where uncertainty counts: what was predicted, with a margin; and how much of it lies there."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lib.box import bounding_box

MARGIN_MM = 5.0
_MOST_VALUES = 1_200_000  # of one slice's maps: those of more classes, or larger slices, are of every 2nd pixel, or 3rd
_TINY = 1e-12  # keeps the logarithm of 0 finite; 0 x ln 0 is 0


class Region:
    """The predicted foreground of a case and what lies within a margin of it.

    A voxel belongs to it if one of the foreground lies within the margin in plane, in its slice or in one that is
    within the margin above or below.

    Args:
        cleaned: uint8 class indices `(Z, Y, X)`, anything but background somewhere; kept, not copied.
        spacing: mm along `(Z, Y, X)`.
        margin_mm: between the centers of voxels.

    Attributes:
        slices: the axial slices that hold any of it.
        rows: that hold any of it in any slice.
        columns: likewise.
    """

    def __init__(
        self, cleaned: NDArray[np.uint8], spacing: tuple[float, float, float], margin_mm: float = MARGIN_MM
    ) -> None:
        box = bounding_box(cleaned)
        if box is None:
            msg = "a region needs foreground"
            raise ValueError(msg)
        self._cleaned, self._spacing, self._margin = cleaned, spacing[1:], margin_mm
        around = [_pixels(margin_mm, length) for length in spacing]
        self._reach = around[0]
        grown = [
            slice(max(0, side.start - more), min(size, side.stop + more))
            for side, more, size in zip(box, around, cleaned.shape, strict=True)
        ]
        self.slices = range(grown[0].start, grown[0].stop)
        self.rows, self.columns = grown[1], grown[2]

    def mask(self, z: int) -> NDArray[np.bool_]:
        """The region in a slice, bool `(Y', X')` of `rows` and `columns`."""
        near = self._cleaned[max(0, z - self._reach) : z + self._reach + 1, self.rows, self.columns]
        return dilated(np.bitwise_or.reduce(near, axis=0) != 0, self._spacing, self._margin)

    def counts(self, foreground: int) -> NDArray[np.int64]:
        """Voxels of the background and of each foreground class in each of `slices`, within its rows and columns."""
        parts = (self._cleaned[z, self.rows, self.columns] for z in self.slices)
        return np.stack([np.bincount(part.ravel(), minlength=1 + foreground) for part in parts])

    def cut(self, z: int) -> tuple[slice, slice, NDArray[np.bool_]] | None:
        """Rows and columns that hold the region in one slice, and the region in them; None where it is not there."""
        mask = self.mask(z)
        box = _box(mask, 0, 0)
        if box is None:
            return None
        rows, columns = box
        top, left = self.rows.start, self.columns.start
        return (
            slice(top + rows.start, top + rows.stop),
            slice(left + columns.start, left + columns.stop),
            mask[rows, columns],
        )


def dilated(mask: NDArray[np.bool_], spacing: tuple[float, float], margin_mm: float) -> NDArray[np.bool_]:
    """A mask `(Y, X)` and all pixels within a margin of it, exact in mm.

    Much faster than a distance transform, as only small distances are asked for: how far the next pixel of the mask is
    within each row, compared with half the width of a disk at each distance between rows.

    Args:
        mask: not changed.
        spacing: mm along `(Y, X)`.
        margin_mm: between the centers of pixels.
    """
    width = mask.shape[1]
    places = np.arange(width, dtype=np.int16)  # at most MAX_IN_PLANE
    far = np.int16(4 * width)
    before = np.maximum.accumulate(np.where(mask, places, -far), axis=1)
    after = np.minimum.accumulate(np.where(mask, places, far)[:, ::-1], axis=1)[:, ::-1]
    distance = np.minimum(places - before, after - places)
    result = mask.copy()
    for step in range(min(_pixels(margin_mm, spacing[0]), len(mask) - 1) + 1):
        half = _pixels(max(0.0, margin_mm**2 - (step * spacing[0]) ** 2) ** 0.5, spacing[1])
        near = distance <= min(half, width)
        result[: len(mask) - step] |= near[step:]
        result[step:] |= near[: len(mask) - step]
    return result


def _pixels(margin_mm: float, length: float) -> int:
    """How many steps of a length a margin holds; one that just reaches counts."""
    return int(margin_mm / length + 1e-6)


@dataclass(frozen=True)
class Uncertainty:
    """How much uncertainty there is in a region.

    Args:
        means: mean over the region of the entropy and, for each foreground class, of entropy x probability, nats;
            `(1 + C,)`.
        first_slice: axial slice of the first column of `slices`.
        slices: by axial slice the sum over the region of entropy x probability of each foreground class, nats;
            `(C, n)`.
    """

    means: NDArray[np.float64]
    first_slice: int
    slices: NDArray[np.float64]


@dataclass
class _Slice:
    """What is known of one slice.

    Args:
        maps: float16 `(1 + C, Y', X')`, entropy and entropy x probability of each foreground class, of the pixels whose
            row and column are multiples of the map's step; None where nothing was found near.
        top: row of the slice where `maps` begin.
        left: likewise, column.
        found: rows and columns of the slice that hold what the network takes for foreground.
        sums: of `maps` over all that was looked at.
        pixels: that were looked at.
        settled: whether `maps` are cut to what may be needed.
    """

    maps: torch.Tensor | None
    top: int
    left: int
    found: tuple[slice, slice] | None
    sums: NDArray[np.float64]
    pixels: int
    settled: bool = False


class _Room:
    """Memory for what is kept of many slices, apart from what is soon free again.

    Between large arrays that come and go, small ones that stay would keep the gaps from being used again: a case of a
    thousand slices took 1.5 GB more than it holds. Blocks are so large that the system gives them by themselves, and
    what is not used yet of one takes no memory.
    """

    _BLOCK = 64 << 20  # bytes

    def __init__(self) -> None:
        self._block, self._used = torch.empty(0, dtype=torch.float16), 0

    def copied(self, maps: torch.Tensor) -> torch.Tensor:
        """A copy of float16 maps."""
        count = maps.numel()
        if self._used + count > self._block.numel():
            self._block, self._used = torch.empty(max(count, self._BLOCK // 2), dtype=torch.float16), 0
        kept = self._block[self._used : self._used + count].view(maps.shape)
        self._used += count
        return kept.copy_(maps)


class UncertaintyMap:
    """Entropy of a case, kept where it may be asked for: around what was found in a slice or in those near it.

    Args:
        shape: of the case, `(Z, Y, X)`.
        spacing: mm along `(Z, Y, X)`.
        foreground: number of foreground classes.
    """

    def __init__(self, shape: tuple[int, ...], spacing: tuple[float, float, float], foreground: int) -> None:
        self._shape, self._count = shape, 1 + foreground
        self._reach, *self._margins = (_pixels(MARGIN_MM, length) for length in spacing)
        self._slices: dict[int, _Slice] = {}
        self._step = math.ceil(math.sqrt(self._count * shape[1] * shape[2] / _MOST_VALUES))
        self._sums = np.zeros((shape[0], self._count))
        self._room = _Room()

    @property
    def nbytes(self) -> int:
        """Memory of the maps."""
        return sum(each.maps.nbytes for each in self._slices.values() if each.maps is not None)

    def clear(self) -> None:
        """Forget all."""
        self._slices.clear()
        self._room = _Room()

    def see(
        self, first: int, rows: slice, columns: slice, classes: NDArray[np.uint8], probabilities: NDArray[np.float32]
    ) -> None:
        """Take in a part of the slices from `first` on; arguments as of `lib.inference.observer`."""
        top, left = rows.indices(self._shape[1])[0], columns.indices(self._shape[2])[0]
        down, right = -top % self._step, -left % self._step
        for z, found, chances in zip(range(first, first + len(classes)), classes, probabilities, strict=True):
            maps = torch.from_numpy(_maps(chances[:, down :: self._step, right :: self._step]))
            self._sums[z] = maps.sum(dim=(1, 2)).numpy()  # pairwise, so that float32 is exact enough
            self._slices[z] = _Slice(
                maps=maps.half(),
                top=top + down,
                left=left + right,
                found=_box(found, top, left),
                sums=self._sums[z],
                pixels=maps[0].numel(),
            )
        for z in range(first - self._reach, first + len(classes) + self._reach):
            self._settle(z)

    def over(self, region: Region | None) -> Uncertainty:
        """The uncertainty in a region; in all that was looked at where that is None.

        What lies in the region and was not looked at, or not kept, counts nowhere.
        """
        sums, pixels = {}, 0
        for z, known in self._slices.items():
            if region is None:
                sums[z] = known.sums
                pixels += known.pixels
            elif z in region.slices and known.maps is not None:
                sums[z], counted = _sums_in(known, region, z, self._step)
                pixels += counted
        if not pixels:
            return Uncertainty(np.zeros(self._count), 0, np.zeros((self._count - 1, 0)))
        first, last = min(sums), max(sums)
        each = np.zeros((last - first + 1, self._count))
        for z, values in sums.items():
            each[z - first] = values
        return Uncertainty(each.sum(axis=0) / pixels, first, each[:, 1:].T * self._step**2)

    def _settle(self, z: int) -> None:
        """Cut a slice to what may be needed, once all slices within reach are known."""
        known = self._slices.get(z)
        if known is None or known.settled or known.maps is None:
            return
        near = range(max(0, z - self._reach), min(self._shape[0], z + self._reach + 1))
        if not all(other in self._slices for other in near):
            return
        boxes = [box for box in (self._slices[other].found for other in near) if box]
        known.settled = True
        if not boxes:
            known.maps = None
            return
        starts = [known.top, known.left]
        cut = []
        for axis, (start, more) in enumerate(zip(starts, self._margins, strict=True)):
            first = max(0, (min(box[axis].start for box in boxes) - more - start) // self._step)
            last = max(0, -(-(max(box[axis].stop for box in boxes) + more - start) // self._step))
            cut.append(slice(first, last))
            starts[axis] = start + first * self._step
        known.maps = self._room.copied(known.maps[:, cut[0], cut[1]])
        known.top, known.left = starts


def _maps(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Entropy and entropy x probability of each foreground class, `(1 + C, Y, X)`, of probabilities `(classes, Y, X)`.

    Class by class, since the classes may lie side by side in memory.
    """
    maps = np.empty(probabilities.shape, np.float32)
    entropy = maps[0]
    entropy.fill(0)
    logs = np.empty_like(entropy)
    for each in probabilities:
        np.maximum(each, _TINY, out=logs)
        np.log(logs, out=logs)
        logs *= each
        entropy -= logs
    for product, each in zip(maps[1:], probabilities[1:], strict=True):
        np.multiply(entropy, each, out=product)
    return maps


def _box(part: NDArray[np.uint8] | NDArray[np.bool_], top: int, left: int) -> tuple[slice, slice] | None:
    """Rows and columns of a slice that hold anything but 0, from a part `(Y', X')` of it that begins there."""
    rows = np.flatnonzero(part.any(axis=1))
    if not rows.size:
        return None
    columns = np.flatnonzero(np.bitwise_or.reduce(part[rows[0] : rows[-1] + 1], axis=0))
    sides = ((top, rows), (left, columns))
    first, second = (slice(start + int(hit[0]), start + int(hit[-1]) + 1) for start, hit in sides)
    return first, second


def _sums_in(known: _Slice, region: Region, z: int, step: int) -> tuple[NDArray[np.float64], int]:
    """Sums of a slice's maps over the region, and over how many of their pixels."""
    assert known.maps is not None
    count, *sides = known.maps.shape
    cuts, places = [], []  # of the region, in the maps and in its own rows and columns
    for start, size, there in zip((known.top, known.left), sides, (region.rows, region.columns), strict=True):
        first, last = max(0, -((start - there.start) // step)), min(size, -((start - there.stop) // step))
        if first >= last:
            return np.zeros(count), 0
        cuts.append(slice(first, last))
        places.append(slice(start + first * step - there.start, start + (last - 1) * step - there.start + 1, step))
    mask = region.mask(z)[places[0], places[1]]
    inside = torch.from_numpy(np.ascontiguousarray(mask))
    maps = known.maps[:, cuts[0], cuts[1]].float()
    return (maps * inside).sum(dim=(1, 2)).double().numpy(), int(np.count_nonzero(mask))
