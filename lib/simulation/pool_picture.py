"""A picture of what the kinds of patients in a simulated pool look like."""

from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from lib.files import atomic_write
from lib.labels import TUMOR
from lib.phantom import Phantom, render
from lib.simulation.kinds import KINDS
from lib.simulation.pool import draw_test_set

_LOWEST, _HIGHEST = -110, 190  # HU
_LIVER_COLOR, _TUMOR_COLOR = "#ff7033", "#2ee06a"
_MARGIN = 3  # pixels


def draw_kinds_picture(path: Path, examples: int = 3, seed: int = 0) -> None:
    """Draw a PNG with a column for each kind and a row for each example: the slice with most tumor, with the truth.

    Args:
        path: of the picture.
        examples: of each kind.
        seed: of the patients; those of `draw_test_set`.

    Raises:
        StorageError: it can't be written.
    """
    figure = Figure(figsize=(2.1 * len(KINDS), 1.62 * examples + 0.25), layout="constrained", facecolor="black")
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.0, hspace=0.0)
    grid = figure.subplots(examples, len(KINDS), squeeze=False)
    for number, case in enumerate(draw_test_set(seed, examples * len(KINDS))):
        axis = grid[number // len(KINDS), number % len(KINDS)]
        _show(axis, render(case.phantom()))
        if number < len(KINDS):
            axis.set_title(case.kind, color="white", fontsize=11)
    pixels = BytesIO()
    figure.savefig(pixels, dpi=75)
    picture = Image.open(pixels).convert("RGB").quantize(64)  # a palette is enough for gray and two colors
    with atomic_write(path) as temporary:
        picture.save(temporary, format="PNG", optimize=True)


def _show(axis: Axes, phantom: Phantom) -> None:
    hu, label = phantom.image.axial(), phantom.label.axial()
    z = int((label == TUMOR.index).sum(axis=(1, 2)).argmax())
    body = hu[z] > -300
    rows, columns = (np.flatnonzero(body.mean(axis=across) > 0.15) for across in (1, 0))
    view = tuple(slice(max(0, int(found[0]) - _MARGIN), int(found[-1]) + 1 + _MARGIN) for found in (rows, columns))
    axis.imshow(hu[z][view], cmap="gray", vmin=_LOWEST, vmax=_HIGHEST, interpolation="bilinear")
    for mask, color in ((label[z][view] > 0, _LIVER_COLOR), (label[z][view] == TUMOR.index, _TUMOR_COLOR)):
        if mask.any():
            axis.contour(mask, [0.5], colors=color, linewidths=0.7)
    axis.set_axis_off()
