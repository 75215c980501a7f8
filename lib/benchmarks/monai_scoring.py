"""MONAI Label's epistemic scoring as it is, over our network in an inference task of MONAI Label's own making."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from monai.inferers import Inferer, SliceInferer
from monai.transforms import Activationsd, LoadImaged, Orientationd
from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.tasks.infer_v2 import InferType
from monailabel.tasks.infer.basic_infer import BasicInferTask
from monailabel.tasks.scoring.epistemic_v2 import EpistemicScoring

from lib.benchmarks.monai_segment import monai_windows
from lib.inference.engine import STRIDE
from lib.inference.model import Model
from lib.settings import Settings


class _DropoutTask(BasicInferTask):
    """Probabilities with dropout, in float32, slice by slice, as `lib.benchmarks.monai_segment` segments.

    Args:
        model: network and weights.
        settings: channels, labels, slices at once.
    """

    def __init__(self, model: Model, settings: Settings) -> None:
        super().__init__(
            path=None,
            network=model.network,
            type=InferType.SEGMENTATION,
            labels=settings.label_indices(),
            dimension=3,
            description="2D network with dropout",
            config={"device": str(next(model.network.parameters()).device)},
            train_mode=True,
            skip_writer=True,
        )
        self._settings = settings

    def pre_transforms(self, data: dict[str, Any] | None = None) -> Sequence[Callable]:
        """From the file to "image", the network's channels."""
        return [
            LoadImaged("image", ensure_channel_first=True),
            Orientationd("image", axcodes="LPS", labels=None),
            monai_windows(self._settings),
            lambda data: {**data, "image": data["channels"]},
        ]

    def inferer(self, data: dict[str, Any] | None = None) -> Inferer:
        """Whole axial slices."""
        assert data is not None
        roi = [-(-extent // STRIDE) * STRIDE for extent in data["image"].shape[1:3]]
        return SliceInferer(
            roi_size=roi,
            sw_batch_size=self._settings.inference.batch_slices,
            spatial_dim=2,
            sw_device=data["device"],
            device="cpu",
        )

    def post_transforms(self, data: dict[str, Any] | None = None) -> Sequence[Callable]:
        """Probabilities, which the scoring takes the entropy of."""
        return [Activationsd("pred", softmax=True)]


def epistemic_seconds(folder: Path, model: Model, settings: Settings) -> tuple[dict[str, float], float]:
    """Score all images of a folder with MONAI Label's defaults: 5 passes of each image, two images at once.

    Args:
        folder: of `.nii.gz` files; MONAI Label's datastore writes into it.
        model: network and weights.
        settings: the app's.

    Returns:
        By image its score, and the seconds that all took together.
    """
    store = LocalDatastore(str(folder), auto_reload=False)
    scoring = EpistemicScoring(_DropoutTask(model, settings))
    begin = time.perf_counter()
    scoring({}, store)
    seconds = time.perf_counter() - begin
    images = store.list_images()
    return {image: float(store.get_image_info(image)["epistemic_entropy"]) for image in images}, seconds
