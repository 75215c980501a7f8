"""Pictures of the slices where a prediction is worst: image, reference and prediction side by side.

Slices are shown as a radiologist reads them, seen from the feet: the patient's right is on the left. Pixels are
resampled to be square, and the part around the labels is shown.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from lib.errors import BadInputError
from lib.labels import LIVER, TUMOR
from lib.metrics.box import common_box
from lib.metrics.overlap import Overlap
from lib.transforms.windowing import window_level
from lib.volume import Volume

PANEL_PIXELS = 400
MARGIN_MM = 20.0
APART_MM = 10.0
# Few gray levels keep a page with hundreds of pictures small; CT noise hides the steps.
_GRAYS = 64
_LIVER_INDEX, _TUMOR_INDEX = _GRAYS, _GRAYS + 1
# Stronger than the labels' colors in the viewers: an outline must show on bright liver and on dark fat.
LIVER_COLOR, TUMOR_COLOR = (255, 112, 51), (0, 184, 92)
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
    _, height, width = labels[0].shape
    view = _widened(box[1], pixel[0], height), _widened(box[2], pixel[1], width)
    pictures = []
    for index in worst_slices(*labels, z_spacing, count):
        cut = [array[index][view] for array in labels]
        gray = None if image is None else window_level(np.ascontiguousarray(image.axial()[index][view]), "liver")
        pictures.append(
            SlicePicture(
                number=index + 1,
                total=len(labels[0]),
                liver_dice=_dice(cut[0] >= LIVER.index, cut[1] >= LIVER.index),
                tumor_dice=_dice(cut[0] == TUMOR.index, cut[1] == TUMOR.index),
                panels=tuple(_panels(gray, cut[0], cut[1], pixel)),
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


def _widened(side: slice, step: float, length: int) -> slice:
    margin = int(np.ceil(MARGIN_MM / step))
    return slice(max(side.start - margin, 0), min(side.stop + margin, length))


def _panels(
    gray: NDArray[np.float32] | None, reference: NDArray, prediction: NDArray, pixel: Sequence[float]
) -> list[tuple[str, bytes]]:
    """Panels of one slice `(Y, X)`; `pixel` is the spacing (Y, X) in mm."""
    extent_y, extent_x = reference.shape[0] * pixel[0], reference.shape[1] * pixel[1]
    scale = PANEL_PIXELS / max(extent_y, extent_x)
    size = max(round(extent_x * scale), 1), max(round(extent_y * scale), 1)
    back = np.zeros((size[1], size[0]), np.uint8)
    if gray is not None:
        whole = Image.fromarray((gray * 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
        back = (np.asarray(whole) // (256 // _GRAYS)).astype(np.uint8)
    panels = [("Image", _png(back))] if gray is not None else []
    for title, labels in (("Reference", reference), ("Prediction", prediction)):
        large = np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
        canvas = back.copy()
        for index, mask in ((_LIVER_INDEX, large >= LIVER.index), (_TUMOR_INDEX, large == TUMOR.index)):
            # border_value: a label that reaches the picture's edge has no outline along it.
            inside = ndimage.binary_erosion(mask, iterations=_OUTLINE, border_value=1)
            canvas[mask if gray is None else mask & ~inside] = index
        panels.append((title, _png(canvas)))
    return panels


def _png(indices: NDArray[np.uint8]) -> bytes:
    picture = Image.fromarray(indices).convert("P")
    grays = np.repeat(np.linspace(0, 255, _GRAYS).round().astype(np.uint8), 3).tolist()
    picture.putpalette([*grays, *LIVER_COLOR, *TUMOR_COLOR])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
