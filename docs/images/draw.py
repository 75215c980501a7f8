#!/usr/bin/env python3
"""Draw `segmented.png`: what the starter weights make of a real CT and of an unseen phantom.

    .venv/bin/python docs/images/draw.py

The real CT is the contrast series of TotalSegmentator's test files (Apache-2.0), fetched by `scripts/fetch_samples.py`;
its reference is the output of another model. The phantom is synthetic and its reference is exact.
"""

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.datasets.samples import DEFAULT_FOLDER, ensure_samples
from lib.inference.model import load_model
from lib.inference.segment import segment
from lib.phantom import make_phantom
from lib.settings import load_settings
from lib.transforms.windowing import window_level
from lib.volume import Volume
from lib.volume_io import read_image, read_label

APP = REPOSITORY / "apps" / "liver_tumor"
LIVER, TUMOR = "#ff7033", "#2ee06a"
MARGIN = 12  # pixels around the body


def main() -> None:
    """Segment both and draw a row for each."""
    settings = load_settings(APP / "app.yaml")
    model = load_model(settings, APP / "starter.pt", torch.device("cpu"))
    folder = ensure_samples(DEFAULT_FOLDER)
    name = "totalsegmentator_dicom.nii.gz"
    phantom = make_phantom(91002, shape=(512, 512, 24), spacing=(0.8, 0.8, 3.0), tumors=5, phase="portal")
    rows = (
        ("real CT", read_image(folder / name), read_label(folder / "labels_reference" / name)),
        ("synthetic CT, not trained on", phantom.image, phantom.label),
    )
    figure = Figure(figsize=(15, 8.6), layout="constrained", facecolor="black")
    for axes, (title, image, reference) in zip(figure.subplots(2, 3), rows, strict=True):
        prediction = segment(image, model, settings).label
        z = _fullest_slice(reference)
        view = _body(image.axial()[z])
        panels = ((title, None), ("reference", reference), ("LiverLoop's starter weights", prediction))
        for axis, (caption, label) in zip(axes, panels, strict=True):
            axis.imshow(window_level(image.axial()[z][view], "abdomen_soft"), cmap="gray", vmin=0, vmax=1)
            if label is not None:
                _outline(axis, label.axial()[z][view])
            axis.set_title(caption, color="white", fontsize=15)
            axis.set_axis_off()
    figure.savefig(Path(__file__).with_name("segmented.png"), dpi=80)


def _fullest_slice(label: Volume) -> int:
    """The slice with most tumor, or most liver where there is none."""
    axial = label.axial()
    wanted = axial == 2 if (axial == 2).any() else axial == 1
    return int(wanted.sum(axis=(1, 2)).argmax())


def _body(hu: np.ndarray) -> tuple[slice, slice]:
    """The part of a slice `(Y, X)` that holds the trunk."""
    body = hu > -300
    rows = np.flatnonzero(body.mean(axis=1) > 0.15)
    columns = np.flatnonzero(body.mean(axis=0) > 0.15)
    return (
        slice(max(0, rows[0] - MARGIN), rows[-1] + MARGIN),
        slice(max(0, columns[0] - MARGIN), columns[-1] + MARGIN),
    )


def _outline(axis: Axes, label: np.ndarray) -> None:
    for mask, color in ((label >= 1, LIVER), (label == 2, TUMOR)):
        if mask.any():
            axis.contour(mask, [0.5], colors=color, linewidths=1.6)


if __name__ == "__main__":
    main()
