"""Scores of a case from the pass that segments it: an observer looks over the network's shoulder."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from lib.activelearning.dropout import Look, bald
from lib.activelearning.image_features import densities
from lib.activelearning.quality import image_flags, liver_flags
from lib.activelearning.regions import Region, UncertaintyMap
from lib.activelearning.spans import find_spans
from lib.case_scores import CaseScores
from lib.inference.engine import STRIDE
from lib.inference.model import Model
from lib.inference.observer import Observer, Seen
from lib.inference.queue import GiveWay
from lib.settings import Settings
from lib.volume import Volume

logger = logging.getLogger(__name__)

_KEPT_MM = 5.0  # between slices that are kept for dropout passes: the others' memory is free once they are segmented
_LEAST_LOOKS = 2
_MOST_WORK = 0.25  # of segmenting: a dropout pass, and encoding before the first, take about as long as one slice
_COARSE_MM = 3.0  # pixels in which the pieces of a liver are counted, and its densities looked up

Note = Callable[[CaseScores, float], None]
WhoWants = Callable[[str, str], Note | None]


class ScoringWatch:
    """Makes an observer of each case whose scores are wanted; a `lib.inference.observer.Watch`.

    Args:
        settings: the app's settings.
        who_wants: gives for a path and a model version who is told the scores and the seconds that these took, at the
            end of the case; None where nobody wants them.
    """

    def __init__(self, settings: Settings, who_wants: WhoWants) -> None:
        self._settings, self._who_wants = settings, who_wants

    def __call__(self, path: str, image: Volume, model: Model) -> Observer | None:
        """See `lib.inference.observer.Watch`."""
        note = self._who_wants(path, model.version)
        return None if note is None else CaseObserver(image, model, self._settings, note)


class CaseObserver:
    """Scores one case while it is being segmented; a `lib.inference.observer.Observer`.

    Args:
        image: int16 HU; what is needed of it is copied.
        model: the model that segments it.
        settings: labels, channels, precision, `active_learning`.
        note: told the scores and how many seconds they took, at the end of `finished`.
    """

    def __init__(self, image: Volume, model: Model, settings: Settings, note: Note) -> None:
        self._seconds = 0.0
        with self._counted():
            hu = image.axial()
            self._model, self._settings, self._note = model, settings, note
            self._labels = settings.label_indices()
            self._shape, self._spacing, self._voxel_ml = hu.shape, image.axial_spacing, image.voxel_ml
            self._flags = image_flags(hu, max(self._spacing[1:]))
            self._kept: dict[int, NDArray[np.int16]] = {}
            if "bald" in settings.active_learning.strategies:
                step = max(1, round(_KEPT_MM / self._spacing[0]))
                self._kept = {z: hu[z].copy() for z in range(min(step // 2, len(hu) - 1), len(hu), step)}
            self._map = UncertaintyMap(self._shape, self._spacing, len(self._labels))
            self._bottom = _Bottom()
            self._coarse = max(1, round(_COARSE_MM / self._spacing[1])), max(1, round(_COARSE_MM / self._spacing[2]))
            self._found = self._nothing_found()
            self._sampled = hu[:, :: self._coarse[0], :: self._coarse[1]].copy()

    def saw(self, first: int, rows: slice, columns: slice, seen: Seen) -> None:
        """See `lib.inference.observer.Observer`."""
        with self._counted():
            self._map.see(first, rows, columns, seen.classes, seen.probabilities)
            self._bottom.see(first, seen)
            sides = [slice(*side.indices(size)) for side, size in zip((rows, columns), self._shape[1:], strict=True)]
            last = first + len(seen.classes)
            self._found[first:last] = False
            # The pixels of the part that lie on the coarse grid.
            starts = [-side.start % step for side, step in zip(sides, self._coarse, strict=True)]
            there = seen.classes[:, starts[0] :: self._coarse[0], starts[1] :: self._coarse[1]] > 0
            top, left = (-(-side.start // step) for side, step in zip(sides, self._coarse, strict=True))
            self._found[first:last, top : top + there.shape[1], left : left + there.shape[2]] = there

    def begin_again(self) -> None:
        """See `lib.inference.observer.Observer`."""
        self._map.clear()
        self._bottom = _Bottom()
        self._found = self._nothing_found()

    def finished(self, cleaned: NDArray[np.uint8], lesions: int, give_way: GiveWay) -> None:
        """See `lib.inference.observer.Observer`; tells the scores at its end."""
        with self._counted():
            scores = self._scores(cleaned, lesions, self._waiting(give_way))
        self._note(scores, self._seconds)

    def _scores(self, cleaned: NDArray[np.uint8], lesions: int, give_way: GiveWay) -> CaseScores:
        names = list(self._labels)
        region = Region(cleaned, self._spacing) if cleaned.any() else None
        give_way()
        uncertainty = self._map.over(region)
        give_way()
        counts = region.counts(len(names)) if region else np.zeros((0, 1 + len(names)), np.int64)
        voxels = counts.sum(axis=0)
        with_foreground = [region.slices[n] for n in np.flatnonzero(counts[:, 1:].any(axis=1))] if region else []
        ml = {name: float(voxels[index]) * self._voxel_ml for name, index in self._labels.items()}
        pixel_mm2 = self._spacing[1] * self._spacing[2]
        slices = {
            name: tuple(float(value) for value in values * pixel_mm2)
            for name, values in zip(names, uncertainty.slices, strict=True)
        }
        return CaseScores(
            entropy=float(uncertainty.means[0]),
            classes={name: float(mean) for name, mean in zip(names, uncertainty.means[1:], strict=True)},
            bald=self._bald(region, with_foreground, give_way),
            ml=ml,
            lesions=lesions,
            first_slice=uncertainty.first_slice,
            slices=slices,
            spans=find_spans(slices, uncertainty.first_slice),
            flags=self._flags + self._liver_flags(cleaned, sum(ml.values()), pixel_mm2),
            embedding=self._embedding(cleaned, with_foreground),
        )

    def _embedding(self, cleaned: NDArray[np.uint8], with_foreground: list[int]) -> NDArray[np.float32] | None:
        """What the bottom of the network makes of what was found, beside the densities there: these tell contrast phase
        and fat, of which the bottom alone keeps little.
        """
        bottom = self._bottom.embedding(with_foreground)
        if bottom is None:
            return None
        there = cleaned[:, :: self._coarse[0], :: self._coarse[1]] > 0
        if not there.any():  # perhaps it lies between the pixels of the coarse grid: then those beside it
            there = cleaned > 0
            for axis, step in enumerate(self._coarse, start=1):
                there = np.logical_or.reduceat(there, np.arange(0, there.shape[axis], step), axis=axis)
        both = np.concatenate([bottom, densities(self._sampled[there] if there.any() else self._sampled)])
        embedding: NDArray[np.float32] = (both / np.linalg.norm(both)).astype(np.float32)
        return embedding

    def _liver_flags(self, cleaned: NDArray[np.uint8], ml: float, pixel_mm2: float) -> tuple[str, ...]:
        if not self._settings.has_liver_and_tumor:
            return ()
        found_ml = self._voxel_ml * self._coarse[0] * self._coarse[1]
        return liver_flags(cleaned, ml, pixel_mm2, self._found, found_ml)

    def _bald(self, region: Region | None, with_foreground: list[int], give_way: GiveWay) -> float | None:
        chosen = self._settings.active_learning
        if "bald" not in chosen.strategies:
            return None
        kept = np.array(sorted(self._kept))
        # Where nothing was predicted, the whole volume; where it lies between two slices that are kept, the nearer one.
        low, high = (with_foreground[0], with_foreground[-1]) if with_foreground else (0, self._shape[0] - 1)
        affordable = max(_LEAST_LOOKS, round(_MOST_WORK * (high - low + 1) / (1 + chosen.dropout_passes)))
        wanted = np.linspace(low, high, min(chosen.slices_per_score, affordable) + 2)[1:-1]  # the ends are small
        nearest = {int(kept[np.abs(kept - place).argmin()]) for place in wanted}
        looks = []
        for z in sorted(nearest):
            if region is None:
                everything = np.ones(self._shape[1:], bool)
                looks.append(Look(z, self._kept[z], slice(0, self._shape[1]), slice(0, self._shape[2]), everything))
            elif z in region.slices and (cut := region.cut(z)) is not None:
                looks.append(Look(z, self._kept[z], *cut))
        try:
            return bald(
                self._model.network,
                looks,
                self._settings.blend_channels(),
                passes=chosen.dropout_passes,
                precision=self._settings.inference.precision,
                give_way=give_way,
            )
        except (RuntimeError, MemoryError):  # such as too little memory; what the other scores need has been seen
            logger.exception("no BALD of an image: its dropout passes failed")
            return None

    def _nothing_found(self) -> NDArray[np.bool_]:
        """What `liver_flags` counts pieces in, bool `(Z, Y', X')`; its memory is taken only where something is."""
        sides = [-(-size // step) for size, step in zip(self._shape[1:], self._coarse, strict=True)]
        return np.zeros((self._shape[0], *sides), bool)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self._seconds += time.perf_counter() - began

    def _waiting(self, give_way: GiveWay) -> GiveWay:
        """The same, but that the time until it returns does not count."""

        def wait() -> None:
            began = time.perf_counter()
            give_way()
            self._seconds -= time.perf_counter() - began

        return wait


class _Bottom:
    """What the bottom of the network made of each slice: sums over the cells with foreground, and over all."""

    def __init__(self) -> None:
        self._inside: dict[int, tuple[NDArray[np.float32], float]] = {}
        self._all: dict[int, tuple[NDArray[np.float32], float]] = {}

    def see(self, first: int, seen: Seen) -> None:
        """Take in the slices from `first` on."""
        if seen.features is None:
            return
        features = seen.features.reshape(*seen.features.shape[:2], -1)
        shares = _shares(seen.classes, seen.features.shape[2:])
        for z, values, share in zip(range(first, first + len(features)), features, shares, strict=True):
            self._inside[z] = values @ share, float(share.sum())
            self._all[z] = values.sum(axis=1), values.shape[1]

    def embedding(self, slices: list[int]) -> NDArray[np.float32] | None:
        """Mean over the cells with foreground in these slices, over all where there are none, of unit length."""
        chosen = [self._inside[z] for z in slices if z in self._inside]
        if not sum(weight for _, weight in chosen):
            chosen = list(self._all.values())
        if not chosen:
            return None
        total: NDArray[np.float32] = np.sum([values for values, _ in chosen], axis=0, dtype=np.float32)
        length = float(np.linalg.norm(total))
        return total / np.float32(length) if length > 0 else None


def _shares(classes: NDArray[np.uint8], cells: tuple[int, ...]) -> NDArray[np.float32]:
    """The share of each cell of the bottom that is foreground, `(N, cells)`."""
    sides = [-(-size // STRIDE) * STRIDE // count for size, count in zip(classes.shape[1:], cells, strict=True)]
    there = (classes > 0).astype(np.float32)
    for axis, side in enumerate(sides, start=1):
        there = np.add.reduceat(there, np.arange(0, there.shape[axis], side), axis=axis)
    full = np.zeros((len(classes), *cells), np.float32)
    full[:, : there.shape[1], : there.shape[2]] = there / np.prod(sides)
    return full.reshape(len(classes), -1)
