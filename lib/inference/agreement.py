"""Whether a faster engine gives the labels that PyTorch gives in float32."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lib.inference.engine import Engine
from lib.inference.stopwatch import Stopwatch
from lib.metrics.overlap import Overlap
from lib.phantom import make_phantom
from lib.transforms.windowing import gray_levels

LEAST_PIXELS = 0.999  # of all that have the same class
LEAST_DICE = 0.98  # of each class
_COUNTS = 200  # pixels: one rounded the other way says nothing of a smaller class

Case = tuple[NDArray[np.int16], NDArray[np.int16]]  # HU `(N, Y, X)` and gray levels `(N, 102)`


@dataclass(frozen=True)
class Agreement:
    """How far two label maps are the same.

    Args:
        pixels: share of those with the same class.
        dice: of each class, background first; None for a class of a few pixels.
    """

    pixels: float
    dice: tuple[float | None, ...]

    @classmethod
    def of(cls, reference: NDArray[np.uint8], found: NDArray[np.uint8], classes: int) -> "Agreement":
        """Compare class indices of one shape."""
        dice: list[float | None] = []
        for index in range(classes):
            overlap = Overlap.of(reference == index, found == index)
            dice.append(overlap.dice if max(overlap.reference, overlap.prediction) >= _COUNTS else None)
        return cls(float((reference == found).mean()), tuple(dice))

    @property
    def is_enough(self) -> bool:
        """Whether annotators could not tell the two apart."""
        return self.pixels >= LEAST_PIXELS and all(dice is None or dice >= LEAST_DICE for dice in self.dice)

    def __str__(self) -> str:
        shown = ", ".join("-" if dice is None else f"{dice:.4f}" for dice in self.dice)
        return f"{self.pixels:.3%} of the pixels alike, Dice by class {shown}"


@lru_cache(maxsize=1)
def probe_cases() -> tuple[Case, Case]:
    """Slices through a phantom's liver and tumors, of two sizes and numbers."""
    hu = np.ascontiguousarray(make_phantom(1, shape=(320, 320, 4), tumors=4, orientation="LPS").image.axial())
    levels = np.stack([gray_levels(one) for one in hu])
    return (hu, levels), (np.ascontiguousarray(hu[:3, 64:240, 16:304]), levels[:3])


def labels_of(engine: Engine) -> NDArray[np.uint8]:
    """What an engine makes of all pixels of `probe_cases`, in a row."""
    return np.concatenate([engine(hu, levels, Stopwatch()).ravel() for hu, levels in probe_cases()])
