"""One volume from HU to finished label: the method end to end, without a server."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lib.inference.cascade import predict_liver
from lib.inference.model import Model
from lib.inference.observer import Observer
from lib.inference.predict import predict_axial
from lib.inference.stopwatch import Stopwatch
from lib.settings import Settings
from lib.transforms.postprocessing import PostprocessingSettings, postprocess
from lib.transforms.summary import summarize
from lib.volume import Volume

logger = logging.getLogger(__name__)

_TIMES_ON_GPU = 8  # as many slices at once


@dataclass(frozen=True)
class Segmentation:
    """A label in the image's geometry and what to tell the annotator about it.

    Args:
        label: uint8 class indices, shape and affine of the image.
        version: of the model that made it.
        summary: volumes in ml per class and the number of lesions.
        seconds: how long "windows", "network" and "postprocessing" took.
    """

    label: Volume
    version: str
    summary: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)


def segment(
    image: Volume,
    model: Model,
    settings: Settings,
    *,
    postprocessing: PostprocessingSettings | None = None,
    progress: Callable[[int], object] | None = None,
) -> Segmentation:
    """Segment a CT.

    Args:
        image: int16 HU in any orientation.
        model: network and version.
        settings: channels, batch size, precision, labels.
        postprocessing: instead of that of `settings`.
        progress: called with the number of slices just done.
    """
    watch = Stopwatch()
    raw = predict(image, model, settings, watch, progress)
    with watch("postprocessing"):
        label, summary = finish(raw, image, settings, postprocessing or settings.postprocessing)
    return Segmentation(label, model.version, summary, watch.seconds)


def predict(
    image: Volume,
    model: Model,
    settings: Settings,
    watch: Stopwatch,
    progress: Callable[[int], object] | None = None,
    observer: Observer | None = None,
) -> NDArray[np.uint8]:
    """Axial class indices `(Z, Y, X)` before post-processing, as `inference` of `app.yaml` says.

    The cascade looks for a liver, hence only with the classes that it knows. A GPU has seen the whole volume before a
    CPU has told it where the liver is.
    """
    chosen = settings.inference
    engine, hu = model.engine(settings), image.axial()
    on_gpu = engine.device.type == "cuda"
    if on_gpu or not (chosen.cascade and settings.has_liver_and_tumor):
        slices = chosen.batch_slices * (_TIMES_ON_GPU if on_gpu else 1)
        try:
            return predict_axial(engine, hu, batch_slices=slices, watch=watch, progress=progress, observer=observer)
        except torch.OutOfMemoryError:  # of a small GPU, or one that a training uses as well
            if slices == chosen.batch_slices:
                raise
            logger.warning("the GPU has no memory for %d slices at once; %d are tried", slices, chosen.batch_slices)
            if observer:
                observer.begin_again()
            return predict_axial(
                engine, hu, batch_slices=chosen.batch_slices, watch=watch, progress=progress, observer=observer
            )
    return predict_liver(
        engine, hu, image.axial_spacing, margin=chosen.cascade_margin, batch_slices=chosen.batch_slices,
        watch=watch, progress=progress, observer=observer,
    )  # fmt: skip


def finish(
    raw: np.ndarray, image: Volume, settings: Settings, postprocessing: PostprocessingSettings
) -> tuple[Volume, dict[str, Any]]:
    """Post-process axial class indices `(Z, Y, X)` and lay them into the image's geometry.

    The steps know the anatomy of liver and tumor; with other classes in `app.yaml`, or these under other indices, the
    argmax stays as it is.
    """
    cleaned = postprocess(raw, image.axial_spacing, postprocessing) if settings.has_liver_and_tumor else raw
    return image.with_axial(cleaned), summarize(cleaned, image.voxel_ml, settings.label_indices())
