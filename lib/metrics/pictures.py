"""Pictures of the slices where a prediction is worst: image, reference and prediction side by side.

Slices are shown as a radiologist reads them, seen from the feet: the patient's right is on the left. Pixels are
resampled to be square, and the part around the labels is shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lib.box import common_box
from lib.errors import BadInputError
from lib.labels import LIVER, TUMOR
from lib.metrics.overlap import Overlap
from lib.metrics.panels import GRAYS, as_png, draw_ct, enlarge, panel_size, view_around
from lib.volume import Volume

PANEL_PIXELS = 400
APART_MM = 10.0
_LIVER_INDEX, _TUMOR_INDEX = GRAYS, GRAYS + 1
# Stronger than the labels' colors in the viewers: an outline must show on bright liver and on dark fat.
LIVER_COLOR, TUMOR_COLOR = (255, 112, 51), (0, 184, 92)
_COLORS = LIVER_COLOR, TUMOR_COLOR
_OUTLINE = 2


@dataclass(frozen=True)
class SlicePicture:
    """One slice: its number counted from the feet, the Dice there (None where neither has any) and PNG panels."""

    number: int
    total: int
    liver_dice: float | None
    tumor_dice: float | None
    panels: tuple[tuple[str, bytes], ...]


def draw_worst_slices(
    image: Volume | None, reference: Volume, prediction: Volume, count: int = 3
) -> list[SlicePicture]:
    """Draw the slices with the lowest tumor or liver Dice, the worst first.

    Args:
        image: CT in HU, shown in the liver window with the labels as outlines; None: labels alone, filled.
        reference: labels 0, 1, 2.
        prediction: labels on the same grid.
        count: slices at most.

    Returns:
        No picture at all when both volumes are empty.

    Raises:
        BadInputError: the volumes differ in shape.
    """
    if reference.shape != prediction.shape or (image is not None and image.shape != reference.shape):
        shapes = [volume.shape for volume in (image, reference, prediction) if volume is not None]
        msg = f"image and labels must be of one shape, not {shapes}"
        raise BadInputError(msg)
    labels = reference.axial(), prediction.axial()
    box = common_box(*labels)
    if box[0].stop == 0:
        return []
    z_spacing, *pixel = reference.axial_spacing
    view = view_around(box[1:], pixel, labels[0].shape[1:])
    pictures = []
    for index in worst_slices(*labels, z_spacing, count):
        cut = [array[index][view] for array in labels]
        hu = None if image is None else image.axial()[index][view]
        pictures.append(
            SlicePicture(
                number=index + 1,
                total=len(labels[0]),
                liver_dice=_dice(cut[0] >= LIVER.index, cut[1] >= LIVER.index),
                tumor_dice=_dice(cut[0] == TUMOR.index, cut[1] == TUMOR.index),
                panels=tuple(_panels(hu, cut[0], cut[1], pixel)),
            )
        )
    return pictures


def worst_slices(reference: NDArray, prediction: NDArray, z_spacing: float, count: int) -> list[int]:
    """Indices of the slices with the lowest tumor or liver Dice, whichever is lower; more wrong voxels first at a tie.

    Args:
        reference: axial labels `(Z, Y, X)`.
        prediction: labels of the same shape.
        z_spacing: mm between slices; chosen slices are at least 10 mm apart, as neighbors look alike.
        count: slices at most.

    Returns:
        Worst first; only slices where a label is set.
    """
    ranked = []
    for index, (truth, guess) in enumerate(zip(reference, prediction, strict=True)):
        dices = [_dice(truth >= LIVER.index, guess >= LIVER.index), _dice(truth == TUMOR.index, guess == TUMOR.index)]
        known = [dice for dice in dices if dice is not None]
        if known:
            ranked.append((min(known), -int(np.count_nonzero(truth != guess)), index))
    chosen: list[int] = []
    for _, _, index in sorted(ranked):
        if len(chosen) < count and all(abs(index - other) * z_spacing >= APART_MM for other in chosen):
            chosen.append(index)
    return chosen


def _dice(reference: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> float | None:
    overlap = Overlap.of(reference, prediction)
    return overlap.dice if overlap.union else None


def _panels(
    hu: NDArray[np.int16] | None, reference: NDArray, prediction: NDArray, pixel: Sequence[float]
) -> list[tuple[str, bytes]]:
    """Panels of one slice `(Y, X)`; `pixel` is the spacing (Y, X) in mm."""
    size = panel_size(reference.shape, pixel, PANEL_PIXELS)
    back = np.zeros(size[::-1], np.uint8) if hu is None else draw_ct(hu, size)
    panels = [] if hu is None else [("Image", as_png(back, _COLORS))]
    for title, labels in (("Reference", reference), ("Prediction", prediction)):
        large = enlarge(labels, size)
        canvas = back.copy()
        for index, mask in ((_LIVER_INDEX, large >= LIVER.index), (_TUMOR_INDEX, large == TUMOR.index)):
            # border_value: a label that reaches the picture's edge has no outline along it.
            inside = ndimage.binary_erosion(mask, iterations=_OUTLINE, border_value=1)
            canvas[mask if hu is None else mask & ~inside] = index
        panels.append((title, as_png(canvas, _COLORS)))
    return panels
