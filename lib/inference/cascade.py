"""Full resolution only where the liver is: the same network first looks at the whole volume at low resolution.

A U-Net's work is proportional to the pixels it sees, and a liver fills a small part of a trunk CT. The coarse pass sees
pixels of about 3 mm in slices about 5 mm apart, which the network knows from training (`coarse_probability`). Around
what it finds, full-resolution slices are cut out a few at a time, each group as tightly as the liver allows. Where
something is found at a cut edge, the group is done again with more room, and slices above and below join in. Where the
coarse pass finds no liver, or cuts keep growing, the whole volume is done. What hangs together with nothing that the
coarse pass found, such as a false find in the bowel, asks for no room: post-processing would drop it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lib.inference.engine import STRIDE, Engine
from lib.inference.observer import Observer
from lib.inference.predict import predict_axial, predict_slices
from lib.inference.stopwatch import Stopwatch
from lib.transforms.coarse import coarse_factors, shrunk
from lib.transforms.components import FACES_EDGES_CORNERS, label_components

_COARSE_SLICE_MM = 5.0
_COARSE_BATCH = 16
_LEAST_ML = 30.0  # a smaller find is no liver
_LEAST_SHARE = 0.1  # of the largest piece: what else may be liver
_SNAP = 2 * STRIDE  # few different sizes, as engines prepare for each
_EDGE = 4  # pixels: a find closer to a cut edge may go on behind it
_LEAST_AT_EDGE = 3  # pixels of one slice; fewer are noise
_GROWTH = 2 * _SNAP
_LEAST_MARGIN_MM = 30.0  # within slices, where pixels are small: the coarse pass is wrong by millimeters
_SLICE_MARGIN_MM = 5.0  # above and below, at least a slice: the network needs no surroundings there
_BODY_HU = -300  # fat and denser; clothes and most of a table are less
_BODY_MARGIN = 4  # coarse pixels of the air around
_WORTH_IT = 0.75  # of all pixels: where more would be seen, the cuts save nothing


@dataclass(frozen=True)
class Box:
    """Rows and columns of a group of slices, multiples of `_SNAP` but for the ends of the image."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def pixels(self) -> int:
        """How many it holds."""
        return (self.bottom - self.top) * (self.right - self.left)

    @property
    def cut(self) -> tuple[slice, slice]:
        """For an array `(..., Y, X)`."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


@dataclass(frozen=True)
class Coarse:
    """What the coarse pass found.

    Args:
        found: liver and tumor, bool `(Z', Y', X')`.
        slices: index of each of its slices in the volume, ascending.
        factors: rows and columns of the volume to one of its own.
        body: rows and columns that hold the patient, and the table; outside there is air.
        shape: of the volume, `(Z, Y, X)`.
        spacing: of the volume, mm along `(Z, Y, X)`.
    """

    found: NDArray[np.bool_]
    slices: NDArray[np.intp]
    factors: tuple[int, int]
    body: tuple[slice, slice]
    shape: tuple[int, ...]
    spacing: tuple[float, float, float]

    def box(self, group: slice, margin: int) -> Box | None:
        """Around all that is found within the margin of a group of slices; None where that is nothing."""
        reach = max(1, _SLICE_MARGIN_MM / self.spacing[0])
        near = (self.slices >= group.start - reach) & (self.slices <= group.stop - 1 + reach)
        there = self.found[near].any(axis=0)
        if not there.any():
            return None
        spans = [
            _span(
                there.any(axis=1 - axis),
                self.factors[axis],
                max(margin, _LEAST_MARGIN_MM / self.spacing[1 + axis]) if margin else 0,
                self.body[axis],
                self.shape[1 + axis],
            )
            for axis in (0, 1)
        ]
        return Box(*spans[0], *spans[1])

    def near(self, group: slice) -> NDArray[np.bool_]:
        """What is found in the slices nearest to a group that hold anything, bool `(Y, X)` of the volume."""
        holding = np.flatnonzero(self.found.any(axis=(1, 2)))
        middle = (group.start + group.stop - 1) / 2
        distance = np.abs(self.slices[holding] - middle)
        nearest = holding[distance <= distance.min() + (group.stop - group.start) / 2]
        there = self.found[nearest].any(axis=0)
        whole: NDArray[np.bool_] = there.repeat(self.factors[0], 0).repeat(self.factors[1], 1)
        return whole[: self.shape[1], : self.shape[2]]


def predict_liver(
    engine: Engine,
    hu: NDArray[np.int16],
    spacing: tuple[float, float, float],
    *,
    margin: int,
    batch_slices: int = 4,
    watch: Stopwatch | None = None,
    progress: Callable[[int], object] | None = None,
    observer: Observer | None = None,
) -> NDArray[np.uint8]:
    """Class indices of every voxel; far from the liver all are background.

    Args:
        engine: runs the network.
        hu: int16 HU, axial `(Z, Y, X)`.
        spacing: mm along `(Z, Y, X)`.
        margin: pixels between what the coarse pass finds and the cut, within slices. The network takes what it sees
            there into account, as far as it sees: in pixels, however large they are. With less than 40, labels on real
            CT differed visibly from those of whole slices, and lesions of two voxels got lost.
        batch_slices: slices per forward pass at full resolution.
        watch: counts the steps "locate" (the coarse pass), "windows" and "network".
        progress: called with the number of slices just done.
        observer: is told what the network gave at full resolution; of slices that are done again the last counts.

    Returns:
        uint8 `(Z, Y, X)`.
    """
    watch, told = watch or Stopwatch(), 0

    def tell(slices: int) -> None:
        nonlocal told
        told += slices
        if slices and progress:
            progress(slices)

    def all_of_it() -> NDArray[np.uint8]:
        ahead = told  # slices that were told already

        def tell_rest(slices: int) -> None:
            nonlocal ahead
            again = min(ahead, slices)
            ahead -= again
            tell(slices - again)

        if observer:
            observer.begin_again()
        return predict_axial(engine, hu, batch_slices=batch_slices, watch=watch, progress=tell_rest, observer=observer)

    groups = [slice(start, min(start + batch_slices, len(hu))) for start in range(0, len(hu), batch_slices)]
    with watch("locate"):
        coarse = locate(engine, hu, spacing)
        wanted = [coarse.box(group, margin) for group in groups] if coarse else []
    to_see = sum((group.stop - group.start) * box.pixels for group, box in zip(groups, wanted, strict=False) if box)
    if coarse is None or to_see > _WORTH_IT * hu.size:
        return all_of_it()
    done: list[Box | None] = [None] * len(groups)
    result = np.zeros(hu.shape, np.uint8)
    waiting, seen = [number for number, box in enumerate(wanted) if box], 0
    while waiting:
        number = waiting.pop(0)
        group, box = groups[number], wanted[number]
        if box is None or box == done[number]:
            continue
        result[group] = 0
        result[group][:, *box.cut] = predict_slices(
            engine, hu[group], watch, *box.cut, observer=observer, first=group.start
        )
        if done[number] is None:
            tell(group.stop - group.start)
        done[number] = box
        seen += (group.stop - group.start) * box.pixels
        if seen > _WORTH_IT * hu.size:  # grown and grown: the coarse pass is no guide here
            return all_of_it()
        found = result[group] > 0
        idle = [
            (neighbor, edge)
            for neighbor, edge in ((number - 1, 0), (number + 1, -1))
            if 0 <= neighbor < len(groups) and wanted[neighbor] is None
        ]
        if _grown(found, box) == box and not any(_is_found(found[edge]) for _, edge in idle):
            continue  # as most are: nothing goes on beyond it, of the liver or not
        livers = _attached(found, coarse.near(group), box)
        grown = _grown(livers, box)
        if grown != box:
            wanted[number] = grown
            waiting.insert(0, number)
            continue
        for neighbor, edge in idle:
            if _is_found(livers[edge]):
                wanted[neighbor] = box
                waiting.append(neighbor)
    tell(len(hu) - told)
    return result


def locate(engine: Engine, hu: NDArray[np.int16], spacing: tuple[float, float, float]) -> Coarse | None:
    """Look at a volume at low resolution.

    Args:
        engine: runs the network.
        hu: int16 HU, axial `(Z, Y, X)`.
        spacing: mm along `(Z, Y, X)`.

    Returns:
        None where the volume is coarse itself, or nothing in it looks like a liver.
    """
    down, across = coarse_factors(spacing)
    if down == across == 1:
        return None
    step = max(1, round(_COARSE_SLICE_MM / spacing[0]))
    chosen = np.arange(min(step // 2, len(hu) - 1), len(hu), step)
    batches = [slice(start, start + _COARSE_BATCH) for start in range(0, len(chosen), _COARSE_BATCH)]
    small = np.concatenate([shrunk(hu[chosen[some]], (down, across)) for some in batches])
    body = _body(small)
    classes = np.zeros(small.shape, np.uint8)
    for some in batches:
        classes[some][:, *body] = predict_slices(engine, small[some], Stopwatch(), *body)
    found = _livers(classes > 0, step * float(np.prod(spacing)) * down * across / 1000)
    return None if found is None else Coarse(found, chosen, (down, across), body, hu.shape, spacing)


def _body(hu: NDArray[np.int16]) -> tuple[slice, slice]:
    """Rows and columns of coarse slices `(Z', Y', X')` that hold more than air, with a margin."""
    dense = (hu > _BODY_HU).any(axis=0)
    spans = []
    for axis in (0, 1):
        places = np.flatnonzero(dense.any(axis=1 - axis))
        first, last = (places[0], places[-1] + 1) if places.size else (0, dense.shape[axis])
        spans.append(slice(max(0, int(first) - _BODY_MARGIN), min(dense.shape[axis], int(last) + _BODY_MARGIN)))
    return spans[0], spans[1]


def _livers(found: NDArray[np.bool_], voxel_ml: float) -> NDArray[np.bool_] | None:
    """What may be the liver of a coarse find `(Z, Y, X)`; None if nothing may."""
    pieces, count = label_components(found, FACES_EDGES_CORNERS)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    sizes[0] = 0
    if sizes.max() * voxel_ml < _LEAST_ML:
        return None
    kept: NDArray[np.bool_] = (sizes >= _LEAST_SHARE * sizes.max())[pieces]
    return kept


def _span(there: NDArray[np.bool_], factor: int, margin: float, body: slice, size: int) -> tuple[int, int]:
    """From and to which pixel of full resolution something is there, with the margin within the body, snapped."""
    places = np.flatnonzero(there)
    first, last = places[0] * factor - margin, (places[-1] + 1) * factor + margin
    first, last = max(first, body.start * factor), min(last, body.stop * factor)
    return max(0, int(first) // _SNAP * _SNAP), min(size, -(-int(np.ceil(last)) // _SNAP) * _SNAP)


def _attached(found: NDArray[np.bool_], near: NDArray[np.bool_], box: Box) -> NDArray[np.bool_]:
    """The pieces of a find `(Z, Y, X)` that overlap what the coarse pass found near it."""
    livers = np.zeros(found.shape, bool)
    pieces, count = label_components(found[:, *box.cut], FACES_EDGES_CORNERS)
    is_liver = np.zeros(count + 1, bool)
    is_liver[pieces[:, near[box.cut]]] = True
    is_liver[0] = False
    livers[:, *box.cut] = is_liver[pieces]
    return livers


def _grown(livers: NDArray[np.bool_], box: Box) -> Box:
    """The box with more room on the sides where something is found at its edge, within `(Z, Y, X)`."""
    _, height, width = livers.shape
    part = livers[:, *box.cut]
    if box.top > 0 and _is_found(part[:, :_EDGE]):
        box = replace(box, top=max(0, box.top - _GROWTH))
    if box.bottom < height and _is_found(part[:, -_EDGE:]):
        box = replace(box, bottom=min(height, box.bottom + _GROWTH))
    if box.left > 0 and _is_found(part[:, :, :_EDGE]):
        box = replace(box, left=max(0, box.left - _GROWTH))
    if box.right < width and _is_found(part[:, :, -_EDGE:]):
        box = replace(box, right=min(width, box.right + _GROWTH))
    return box


def _is_found(livers: NDArray[np.bool_]) -> bool:
    return int(np.count_nonzero(livers)) >= _LEAST_AT_EDGE
