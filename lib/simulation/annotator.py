"""Who labels in a simulation: the truth itself, or somebody whose hand is as sure as an annotator's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lib.case_scores import CaseScores
from lib.looked_at import limited_to
from lib.metrics.lesions import label_lesions
from lib.training.comparison import regions_of, tumor_of
from lib.volume import Volume

Hand = Literal["true", "realistic"]

MOST_SHIFT = 2.0  # pixels that a realistic boundary lies off at most
_USUAL_SHIFT = 0.7  # standard deviation of a boundary's place within one case, pixels
_WAVE = 4.0  # pixels along a boundary until its error is another one
_BIAS = (-0.3, 0.8)  # of a whole case: some draw tightly, more draw generously
SMALL_ML = 0.5  # a lesion of 1 cm; smaller ones are missed at times
_MISSED = 0.15


@dataclass(frozen=True)
class Annotation:
    """What an annotator hands in.

    Args:
        label: class indices, and `NOT_LOOKED_AT` in slices that were not looked at.
        slices: how many axial slices were looked at.
    """

    label: Volume
    slices: int


def annotate(
    truth: Volume, names: Mapping[str, int], hand: Hand, rng: np.random.Generator, only: CaseScores | None = None
) -> Annotation:
    """Label a case.

    Args:
        truth: class indices; not changed.
        names: class name to index.
        hand: "true" copies the truth; "realistic" makes the errors of `with_errors`.
        rng: of the errors.
        only: look only at the slices that these scores suggest, at all where they suggest none; None: at all.
    """
    label = truth if hand == "true" else with_errors(truth, names, rng)
    count = len(label.axial())
    if only is None or not only.spans:
        return Annotation(label, count)
    looked_at = np.zeros(count, np.bool_)
    for span in only.spans:
        looked_at[span.first : span.last + 1] = True
    return Annotation(limited_to(label, looked_at), int(looked_at.sum()))


def with_errors(truth: Volume, names: Mapping[str, int], rng: np.random.Generator) -> Volume:
    """A label with errors that annotators make.

    In each slice the outer boundaries of organ and tumors wander by up to `MOST_SHIFT` pixels, usually by less than
    one, a bit outwards in most cases (over-segmentation); a lesion below `SMALL_ML` is missed in 15 of 100 cases and
    counts as the organ around it. No lesion is invented, and all slices without a class stay without one.

    Args:
        truth: class indices; not changed.
        names: class name to index.
        rng: of the errors; the same gives the same.
    """
    axial = truth.axial()
    bias = rng.uniform(*_BIAS)
    noise = ndimage.gaussian_filter(rng.standard_normal(axial.shape), (0, _WAVE, _WAVE))
    shift = np.clip(bias + _USUAL_SHIFT * noise / noise.std(), -MOST_SHIFT, MOST_SHIFT)
    result, body = np.zeros_like(axial), _moved(axial > 0, shift)
    for name, indices in regions_of(names).items():
        region = np.isin(axial, indices)
        if name == tumor_of(names):
            region = _not_missed(region, truth.voxel_ml, rng)
        result[_moved(region, shift) & body] = names[name]
    return truth.with_axial(result)


def _not_missed(tumor: NDArray[np.bool_], voxel_ml: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    lesions, count = label_lesions(tumor)
    voxels = np.bincount(lesions.ravel(), minlength=count + 1)
    small = voxels[1:] * voxel_ml < SMALL_ML
    kept = np.concatenate([[False], ~(small & (rng.random(count) < _MISSED))])
    return kept[lesions]


def _moved(mask: NDArray[np.bool_], shift: NDArray[np.float64]) -> NDArray[np.bool_]:
    """A mask `(Z, Y, X)` whose boundary lies `shift` pixels further outwards, slice by slice."""
    result = np.zeros_like(mask)
    for z in np.flatnonzero(mask.any(axis=(1, 2))):
        inside, outside = (ndimage.distance_transform_edt(side) for side in (mask[z], ~mask[z]))
        result[z] = np.where(mask[z], 0.5 - inside, outside - 0.5) < shift[z]
    return result
