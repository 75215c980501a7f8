"""Pictures of a validation case where it went wrong: CT, label, new model and published model side by side.

Slices are shown as a radiologist reads them, seen from the feet: the patient's right is on the left. Pixels are
resampled to be square, and the part around the labels is shown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lib.box import common_box
from lib.labels import NOT_LOOKED_AT
from lib.metrics.lesions import label_lesions
from lib.metrics.overlap import Overlap
from lib.metrics.panels import GRAYS, as_png, draw_ct, enlarge, panel_size, view_around
from lib.settings import Settings
from lib.training.comparison import Comparison, regions_of, tumor_of
from lib.training.gate import Compared
from lib.volume import Volume

PANEL_PIXELS = 360
# Behind the gray levels: what is drawn over the CT, then the classes.
_HALO, _HATCH, _FIRST_CLASS = GRAYS, GRAYS + 1, GRAYS + 2
_HALO_COLOR, _HATCH_COLOR = (0, 0, 0), (120, 130, 142)
_THIN, _THICK = 2, 4  # pixels of an outline; the thick one tells tumors apart without their color
_STRIPE = 4


@dataclass(frozen=True)
class Panel:
    """One view of a slice.

    Args:
        title: whose outlines it shows.
        dice: of each class that model or label have in this slice; empty for CT and label.
        png: the picture.
    """

    title: str
    dice: Mapping[str, float]
    png: bytes


@dataclass(frozen=True)
class SlicePicture:
    """An axial slice: its number counted from the feet, why it is shown, and its views."""

    number: int
    total: int
    reasons: tuple[str, ...]
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class CasePictures:
    """A case that went wrong.

    Args:
        comparison: figures of both models on the whole case.
        labelled_ml: volume of each class in the label.
        slices: from feet to head.
        partly_labelled: whether nobody looked at a part of it, which is drawn hatched.
        reason: why this case is shown.
    """

    comparison: Comparison
    labelled_ml: Mapping[str, float]
    slices: tuple[SlicePicture, ...]
    partly_labelled: bool
    reason: str = ""


def draw_case(compared: Compared, settings: Settings) -> CasePictures:
    """Draw the slice with the largest disagreement and the one with a missed lesion.

    Args:
        compared: a case with its volumes.
        settings: labels and their colors.

    Returns:
        No slices where the new model gives exactly the label.
    """
    label, candidate, published = (
        volume.axial() for volume in (compared.label, compared.candidate, compared.published)
    )
    names = settings.label_indices()
    reasons: dict[int, list[str]] = {}
    worst = _largest_disagreement(label, candidate)
    if worst is not None:
        reasons.setdefault(worst, []).append("where label and new model differ most")
    tumor = tumor_of(names)
    missed = _missed_lesion(label, candidate, published, names[tumor], compared.label.voxel_ml) if tumor else None
    if missed is not None:
        reasons.setdefault(missed[0], []).append(missed[1])
    view = _view(compared.label, label, candidate, published)
    counts = np.sum([np.bincount(one.ravel(), minlength=256) for one in label], axis=0)
    return CasePictures(
        compared.comparison,
        {
            name: float(counts[list(indices)].sum()) * compared.label.voxel_ml
            for name, indices in regions_of(names).items()
        },
        tuple(
            SlicePicture(index + 1, len(label), tuple(why), _panels(compared, index, view, settings))
            for index, why in sorted(reasons.items())
        ),
        bool(counts[NOT_LOOKED_AT]),
    )


def _largest_disagreement(label: NDArray[np.uint8], candidate: NDArray[np.uint8]) -> int | None:
    """The slice of two labels `(Z, Y, X)` with most voxels of different classes; None if there is none."""
    # Slice by slice, as a mask of the whole volume would take as much memory as a label.
    differing = [
        np.count_nonzero((truth != guess) & (truth != NOT_LOOKED_AT))
        for truth, guess in zip(label, candidate, strict=True)
    ]
    return int(np.argmax(differing)) if any(differing) else None


def _missed_lesion(
    label: NDArray[np.uint8], candidate: NDArray[np.uint8], published: NDArray[np.uint8], tumor: int, voxel_ml: float
) -> tuple[int, str] | None:
    """The slice through the largest lesion that the new model does not touch, and words on it.

    Lesions that the published model found come first.
    """
    box = common_box(label == tumor)
    lesions, count = label_lesions(label[box] == tumor)
    if not count:
        return None
    sizes = np.bincount(lesions.ravel(), minlength=count + 1)
    touched, before = (
        np.bincount(lesions[model[box] == tumor], minlength=count + 1) > 0 for model in (candidate, published)
    )
    missed = [number for number in range(1, count + 1) if not touched[number]]
    if not missed:
        return None
    number = max(missed, key=lambda lesion: (before[lesion], sizes[lesion]))
    areas = (lesions == number).sum(axis=(1, 2))
    which = "published model found" if before[number] else "published model missed, too"
    words = f"a missed lesion of {sizes[number] * voxel_ml:.1f} ml, which the {which}"
    return box[0].start + int(areas.argmax()), words


def _view(volume: Volume, *labels: NDArray[np.uint8]) -> tuple[slice, slice]:
    """Rows and columns around what any of the labels `(Z, Y, X)` holds; voxels nobody looked at don't count."""
    judged = [
        np.where(array == NOT_LOOKED_AT, 0, array) if (array == NOT_LOOKED_AT).any() else array for array in labels
    ]
    box = common_box(*judged)
    _, *pixel = volume.axial_spacing
    return view_around(box[1:], pixel, labels[0].shape[1:])


def _panels(compared: Compared, index: int, view: tuple[slice, slice], settings: Settings) -> tuple[Panel, ...]:
    _, *pixel = compared.image.axial_spacing
    hu = compared.image.axial()[index][view]
    size = panel_size(hu.shape, pixel, PANEL_PIXELS)
    back = draw_ct(hu, size)
    label = compared.label.axial()[index]
    open_here = _resized(label[view] == NOT_LOOKED_AT, size)
    regions = regions_of(settings.label_indices())
    colors = [_HALO_COLOR, _HATCH_COLOR, *(settings.labels[name].color for name in regions)]
    panels = [Panel("CT", {}, as_png(back, colors))]
    shown: Sequence[tuple[str, Volume]] = (
        ("Label", compared.label), ("New model", compared.candidate), ("Published model", compared.published),
    )  # fmt: skip
    for title, volume in shown:
        outlines = volume.axial()[index]
        canvas = _outlined(back, outlines[view], size, regions)
        _hatch(canvas, open_here)
        dice = {} if volume is compared.label else _slice_dice(label, outlines, regions)
        panels.append(Panel(title, dice, as_png(canvas, colors)))
    return tuple(panels)


def _slice_dice(
    label: NDArray[np.uint8], segmented: NDArray[np.uint8], regions: Mapping[str, tuple[int, ...]]
) -> dict[str, float]:
    """Dice of each class that is in a slice, without voxels that nobody looked at."""
    judged = label != NOT_LOOKED_AT
    found = {}
    for name, indices in regions.items():
        overlap = Overlap.of(np.isin(label[judged], indices), np.isin(segmented[judged], indices))
        if overlap.union:
            found[name] = overlap.dice
    return found


def _outlined(
    back: NDArray[np.uint8], label: NDArray[np.uint8], size: tuple[int, int], regions: Mapping[str, tuple[int, ...]]
) -> NDArray[np.uint8]:
    canvas = back.copy()
    tumor = tumor_of(regions)
    for position, (name, indices) in enumerate(regions.items()):
        mask = _resized(np.isin(label, indices), size)
        if not mask.any():
            continue
        # Around it, so that a small lesion stays visible; the halo shows a light line on bright liver.
        line = ndimage.binary_dilation(mask, iterations=_THICK if name == tumor else _THIN)
        canvas[ndimage.binary_dilation(line) & ~mask] = _HALO
        canvas[line & ~mask] = _FIRST_CLASS + position
    return canvas


def _resized(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    return enlarge(mask.astype(np.uint8), size) > 0


def _hatch(canvas: NDArray[np.uint8], mask: NDArray[np.bool_]) -> None:
    """Stripes over what nobody looked at."""
    rows, columns = np.indices(canvas.shape)
    canvas[mask & ((rows + columns) // _STRIPE % 2 == 0)] = _HATCH
