"""Who looks over the network's shoulder: scores come from the pass that segments a case, not from one of their own."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from lib.inference.queue import GiveWay
from lib.volume import Volume

if TYPE_CHECKING:  # its engines give what is seen
    from lib.inference.model import Model


@dataclass(frozen=True)
class Seen:
    """What the network gave for a few axial slices, or a part of each.

    Args:
        classes: uint8 `(N, Y, X)`, the argmax.
        probabilities: float32 `(N, classes, Y, X)`, softmax.
        features: float32 `(N, F, Y', X')`, the bottom of the U, where the network has one; its cells lie evenly over
            the part padded at its end to multiples of `lib.inference.engine.STRIDE`.
    """

    classes: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    features: NDArray[np.float32] | None


class Observer(Protocol):
    """Watches one case being segmented, from one thread at a time."""

    def saw(self, first: int, rows: slice, columns: slice, seen: Seen) -> None:
        """A part of the axial slices from `first` on was done; what was told before of these slices is void."""
        ...

    def begin_again(self) -> None:
        """All that was told is void: the whole volume is done from its first slice."""
        ...

    def finished(self, cleaned: NDArray[np.uint8], lesions: int, give_way: GiveWay) -> None:
        """The case is done.

        Args:
            cleaned: uint8 class indices `(Z, Y, X)`, axial, after post-processing.
            lesions: how many there are in it.
            give_way: to be called often while the network is used again; raises where the work is to end.
        """
        ...


class Watch(Protocol):
    """Makes an observer for each case that is segmented with nobody waiting."""

    def __call__(self, path: str, image: Volume, model: "Model") -> Observer | None:
        """None: this case need not be watched, as it was before by the same model."""
        ...
