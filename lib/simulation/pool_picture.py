"""A picture of what the kinds of patients in a simulated pool look like."""

from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageColor

from lib.files import atomic_write
from lib.labels import TUMOR
from lib.phantom import Phantom, render
from lib.simulation.kinds import KINDS, Grid
from lib.simulation.pool import draw_test_set

_LOWEST, _HIGHEST = -110, 190  # HU
_LIVER_COLOR, _TUMOR_COLOR = "#ff7033", "#2ee06a"
_MARGIN = 3  # pixels


def draw_kinds_picture(path: Path, examples: int = 3, seed: int = 2, grid: Grid | None = None) -> None:
    """Draw a PNG with a column for each kind and a row for each example: one slice and the true outlines.

    Args:
        path: of the picture.
        examples: of each kind.
        seed: of the patients; those of `draw_test_set`.
        grid: of the phantoms; by default that of a pool.

    Raises:
        StorageError: it can't be written.
    """
    figure = Figure(figsize=(2.1 * len(KINDS), 1.5 * examples + 0.25), facecolor="black")
    figure.subplots_adjust(left=0, right=1, bottom=0, top=0.95, wspace=0.02, hspace=0.02)
    axes = figure.subplots(examples, len(KINDS), squeeze=False)
    for number, case in enumerate(draw_test_set(seed, examples * len(KINDS), grid)):
        axis = axes[number // len(KINDS), number % len(KINDS)]
        _show(axis, render(case.phantom()))
        if number < len(KINDS):
            axis.set_title(case.kind, color="white", fontsize=11)
    pixels = BytesIO()
    figure.savefig(pixels, dpi=80)
    picture = Image.open(pixels).convert("RGB").quantize(palette=_palette(), dither=Image.Dither.NONE)
    with atomic_write(path) as temporary:
        picture.save(temporary, format="PNG", optimize=True)


def _palette() -> Image.Image:
    """Grays, and both outlines' colors mixed with some of them: a third of the bytes of full color."""
    grays = [(level, level, level) for level in np.linspace(0, 255, 40).astype(int).tolist()]
    mixed = [
        tuple(round(share * part + (1 - share) * level) for part in ImageColor.getrgb(color)[:3])
        for color in (_LIVER_COLOR, _TUMOR_COLOR)
        for level in (20, 90, 140, 190)
        for share in (0.3, 0.6, 1.0)
    ]
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for color in (*grays, *mixed) for part in color])
    return palette


def _show(axis: Axes, phantom: Phantom) -> None:
    hu, label = phantom.image.axial(), phantom.label.axial()
    z = _telling_slice(phantom)
    body = hu[z] > -300
    rows, columns = (np.flatnonzero(body.mean(axis=across) > 0.15) for across in (1, 0))
    view = tuple(slice(max(0, int(found[0]) - _MARGIN), int(found[-1]) + 1 + _MARGIN) for found in (rows, columns))
    axis.imshow(hu[z][view], cmap="gray", vmin=_LOWEST, vmax=_HIGHEST, interpolation="bilinear")
    for mask, color in ((label[z][view] > 0, _LIVER_COLOR), (label[z][view] == TUMOR.index, _TUMOR_COLOR)):
        if mask.any():
            axis.contour(mask, [0.5], colors=color, linewidths=0.7)
    axis.set_axis_off()


def _telling_slice(phantom: Phantom) -> int:
    """The slice with most tumor, or through the middle of the cut face where a part of the liver was taken out."""
    spec = phantom.spec
    if spec.liver.resection is None:
        return int((phantom.label.axial() == TUMOR.index).sum(axis=(1, 2)).argmax())
    height = (spec.liver.resection.middle[2] + spec.body.inspiration) * spec.body.height
    matrix, origin = spec.scan.index_to_patient()
    z = round(float((height - origin[2]) / matrix[2, 2]))
    return min(max(z, 0), spec.scan.shape[2] - 1)
