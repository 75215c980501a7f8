#!/usr/bin/env python3
"""Draw `synthetic_tumors.png`: tumors painted into healthy livers.

    .venv/bin/python docs/images/draw_synthetic_tumors.py

The real CT is one that `scripts/fetch_samples.py` gets: the contrast series of TotalSegmentator's test files
(Apache-2.0). The phantom is synthetic.
"""

import sys
from io import BytesIO
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from lib.datasets.samples import DEFAULT_FOLDER, ensure_samples
from lib.labels import LIVER, TUMOR
from lib.phantom import make_phantom
from lib.transforms.synthetic_tumors import SyntheticTumorSettings, TumorPainter
from lib.volume import Volume
from lib.volume_io import read_image, read_label

LOWEST, HIGHEST = -20, 200  # HU
MARGIN_MM = 8.0
OUTLINE = "#2ee06a"
REAL_SEEDS, PHANTOM_SEEDS = (1, 9, 4), (12, 18, 20)


def main() -> None:
    """Draw a row for each of two livers: as it is, then painted three times."""
    folder = ensure_samples(DEFAULT_FOLDER)
    healthy = "totalsegmentator_dicom.nii.gz"
    phantom = make_phantom(5, shape=(320, 320, 40), spacing=(1.2, 1.2, 4.0), tumors=0, phase="portal")
    painter = TumorPainter(SyntheticTumorSettings())
    figure = Figure(figsize=(12, 6.2), layout="constrained", facecolor="black")
    grid = figure.subplots(2, 4)
    rows = (
        ("real CT", read_image(folder / healthy), read_label(folder / "labels_reference" / healthy), REAL_SEEDS),
        ("synthetic CT", phantom.image, phantom.label, PHANTOM_SEEDS),
    )
    for axes, (name, image, label, seeds) in zip(grid, rows, strict=True):
        before, mask = image.axial(), label.axial()
        for axis, seed in zip(axes[1:], seeds, strict=True):
            hu, painted = painter.paint(
                before, mask, image.axial_spacing, LIVER.index, TUMOR.index, np.random.default_rng(seed)
            )
            z = int((painted == TUMOR.index).sum(axis=(1, 2)).argmax())
            show(axis, f"{name}, painted", image, hu[z], painted[z], outlined=axis is axes[-1])
            if axis is axes[1]:
                show(axes[0], f"{name}, healthy", image, before[z], mask[z])
    pixels = BytesIO()
    figure.savefig(pixels, dpi=60)
    # A palette is enough for gray and one color, and half of the size.
    picture = Image.open(pixels).convert("RGB").quantize(224)
    picture.save(Path(__file__).with_name("synthetic_tumors.png"), optimize=True)


def show(axis: Axes, title: str, image: Volume, hu: np.ndarray, label: np.ndarray, outlined: bool = False) -> None:
    """The liver's part of a slice `(Y, X)`."""
    _, step_y, step_x = image.axial_spacing
    rows, columns = (np.flatnonzero((label > 0).any(axis=axis)) for axis in (1, 0))
    view = tuple(
        slice(max(0, int(found[0]) - round(MARGIN_MM / step)), int(found[-1]) + 1 + round(MARGIN_MM / step))
        for found, step in ((rows, step_y), (columns, step_x))
    )
    axis.imshow(hu[view], cmap="gray", vmin=LOWEST, vmax=HIGHEST, aspect=step_y / step_x)
    if outlined and (label == TUMOR.index).any():
        axis.contour(label[view] == TUMOR.index, [0.5], colors=OUTLINE, linewidths=1)
    axis.set_title(title, color="white", fontsize=11)
    axis.set_axis_off()


if __name__ == "__main__":
    main()
