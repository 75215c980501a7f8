"""What a strategy may know of the campaign so far."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class History:
    """A campaign until now.

    Args:
        model_version: the model in force, `lib.case_scores.NO_MODEL` while there is none.
        labelled: images with a final label.
        planned: labels that the campaign is planned to have, at least 1.
        picked: by part of the strategy (see `Choice.part`), how many of its choices came from that part.
        embeddings: float32 `(n, F)`, of images that are labelled or in somebody's hands, as far as they can be compared
            with those of the candidates.
    """

    model_version: str | None = None
    labelled: int = 0
    planned: int = 100
    picked: Mapping[str, int] = field(default_factory=dict)
    embeddings: NDArray[np.float32] | None = field(default=None, compare=False)

    @property
    def progress(self) -> float:
        """How far the campaign is, 0 to 1."""
        return min(1.0, self.labelled / self.planned)
