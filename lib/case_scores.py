"""What one version of the model shows of a case that has no label yet: the vocabulary of scoring and choosing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

NO_MODEL = "no model"
"""Stands where a version would, for scores that come from the image alone."""


@dataclass(frozen=True)
class Span:
    """Slices worth looking at.

    Args:
        label: name of the class that is uncertain there.
        first: axial slice, 0 nearest the feet, as `lib.looked_at` counts.
        last: likewise, included.
        share: of the case's uncertainty of this class that lies in these slices, 0 to 1.
    """

    label: str
    first: int
    last: int
    share: float


@dataclass(frozen=True)
class CaseScores:
    """Scores of one case by one version of the model.

    "The region" is the predicted foreground of the case (liver, tumor, or what else the labels are) with a margin;
    where nothing was predicted, all that the network looked at.

    Args:
        entropy: predictive entropy, mean over the region, nats; None while there is no model.
        classes: by foreground class the mean over the region of entropy x probability of the class, nats
            (ClaSP PE, arXiv 2601.13677).
        bald: mutual information of prediction and weights, mean over the region in the slices looked at, nats; None
            where dropout passes were not asked for.
        ml: predicted volume of each foreground class, after post-processing.
        lesions: predicted lesions, after post-processing.
        first_slice: axial slice of the first entry of each series in `slices`, 0 nearest the feet.
        slices: by foreground class, for each axial slice from `first_slice` on, the sum over its region of entropy x
            probability of the class x the area of a pixel, nats mm2.
        spans: the slices worth looking at, the most uncertain first.
        flags: what makes the prediction or the image doubtful, names of `lib.activelearning.quality`.
        embedding: float32 `(F,)` of unit length, what the bottom of the network makes of the region, and the densities
            there; None where the network has no such thing. While there is no model, what
            `lib.activelearning.image_features` sees.
    """

    entropy: float | None
    classes: Mapping[str, float]
    bald: float | None = None
    ml: Mapping[str, float] = field(default_factory=dict)
    lesions: int = 0
    first_slice: int = 0
    slices: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    spans: tuple[Span, ...] = ()
    flags: tuple[str, ...] = ()
    embedding: NDArray[np.float32] | None = field(default=None, compare=False)

    @property
    def has_foreground(self) -> bool:
        """Whether anything but background was predicted."""
        return any(volume > 0 for volume in self.ml.values())

    def figures(self) -> dict[str, Any]:
        """All but the embedding, as JSON; `from_figures` reads it."""
        return {
            "entropy": self.entropy,
            "classes": dict(self.classes),
            "bald": self.bald,
            "ml": dict(self.ml),
            "lesions": self.lesions,
            "first_slice": self.first_slice,
            "slices": {name: [float(f"{value:.4g}") for value in values] for name, values in self.slices.items()},
            "spans": [[span.label, span.first, span.last, round(span.share, 4)] for span in self.spans],
            "flags": list(self.flags),
        }

    @classmethod
    def from_figures(cls, figures: Mapping[str, Any], embedding: NDArray[np.float32] | None = None) -> "CaseScores":
        """The scores that `figures` wrote down."""
        return cls(
            entropy=figures["entropy"],
            classes=dict(figures["classes"]),
            bald=figures["bald"],
            ml=dict(figures["ml"]),
            lesions=figures["lesions"],
            first_slice=figures["first_slice"],
            slices={name: tuple(values) for name, values in figures["slices"].items()},
            spans=tuple(Span(*span) for span in figures["spans"]),
            flags=tuple(figures["flags"]),
            embedding=embedding,
        )
