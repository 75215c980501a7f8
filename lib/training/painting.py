"""Cases whose healthy livers got synthetic tumors for one epoch, a few at a time, since each is a stack of slices."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lib.settings import Settings
from lib.training.decoded import Case
from lib.transforms.synthetic_tumors import TumorPainter

CASES_AT_ONCE = 8  # in memory; an epoch's order is random within them and among the groups


@dataclass(frozen=True)
class PaintedCase:
    """A case for one epoch; its attributes are those of `lib.training.decoded.Case`, in memory.

    Its gray levels are those of before: a tumor is a small part of a slice.
    """

    name: str
    image: NDArray[np.int16]
    label: NDArray[np.uint8]
    presence: NDArray[np.bool_]
    gray_levels: NDArray[np.int16]
    spacing: tuple[float, float, float]

    def __len__(self) -> int:
        return len(self.presence)


class Painting:
    """Paints tumors into the cases of an epoch that have none.

    Args:
        settings: how often, and what; labels.
    """

    def __init__(self, settings: Settings) -> None:
        indices = list(settings.label_indices().values())
        self._liver, self._tumor = indices[0], indices[-1]
        self._probability = settings.synthetic_tumors.probability
        self._painter = TumorPainter(settings.synthetic_tumors, settings.training.seed)

    def epoch(self, cases: Sequence[Case], rng: np.random.Generator) -> Iterator[list[Case | PaintedCase]]:
        """All cases in groups, in random order; `synthetic_tumors.probability` of the healthy ones painted anew."""
        order = rng.permutation(len(cases))
        for start in range(0, len(cases), CASES_AT_ONCE):
            yield [self._perhaps_painted(cases[i], rng) for i in order[start : start + CASES_AT_ONCE]]

    def _perhaps_painted(self, case: Case, rng: np.random.Generator) -> Case | PaintedCase:
        drawn = rng.random() < self._probability
        if not drawn or case.presence[:, self._tumor].any() or not case.presence[:, self._liver].any():
            return case
        # Slices far from the liver are thinned out; those with liver and a margin follow each other as in the volume.
        with_liver = np.flatnonzero(case.presence[:, self._liver])
        part = slice(int(with_liver[0]), int(with_liver[-1]) + 1)
        if (np.diff(case.places[part]) > 1).any():  # some were not looked at: a tumor would be cut into pieces
            return case
        hu, label = case.image[part], case.label[part]
        new_hu, new_label = self._painter.paint(hu, label, case.spacing, self._liver, self._tumor, rng)
        if new_label is label:
            return case
        image, indices = case.image[:], case.label[:]
        image[part], indices[part] = new_hu, new_label
        presence = case.presence.copy()
        presence[part, self._tumor] = (new_label == self._tumor).any(axis=(1, 2))
        presence[part, self._liver] = (new_label == self._liver).any(axis=(1, 2))
        return PaintedCase(case.name, image, indices, presence, case.gray_levels, case.spacing)
