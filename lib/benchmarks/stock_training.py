"""The loading that MONAI Label's own trainers do, for the same network: cached float volumes, MONAI's dictionary
transforms, a PyTorch data loader.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from monai.data import CacheDataset, DataLoader, list_data_collate
from monai.transforms import (
    Compose,
    ConcatItemsd,
    CopyItemsd,
    EnsureChannelFirstd,
    LoadImaged,
    Orientationd,
    Rand2DElasticd,
    RandAffined,
    RandCropByPosNegLabeld,
    RandGaussianNoised,
    RandGridDistortiond,
    ScaleIntensityRanged,
    SqueezeDimd,
)

from lib.settings import Settings
from lib.training.batches import Batch
from lib.training.cases import CaseFiles
from lib.transforms.windowing import HISTOGRAM, PRESETS, Window, find_window

_BOTH = ("image", "label")
_MODES = ("bilinear", "nearest")


class StockBatches:
    """Batches of patches as MONAI Label's `CacheDataset` and `DataLoader` make them.

    Windows and augmentation are those of the settings as far as MONAI has them; in place of the "histogram" channel,
    which it has not, stands another window, which is cheaper.

    Args:
        files: labelled cases; all are loaded into memory at once.
        settings: patch and batch size, channels, augmentation.
        device: of the batches.
    """

    def __init__(self, files: Sequence[CaseFiles], settings: Settings, device: torch.device) -> None:
        items = [{"image": str(case.image), "label": str(case.label)} for case in files]
        self._device = device
        dataset = CacheDataset(items, _transforms(settings), progress=False)
        # MONAI Label's default: no worker processes, the loading goes on in the training's own thread.
        self._loader = DataLoader(dataset, batch_size=1, shuffle=True, collate_fn=list_data_collate)

    def __iter__(self) -> Iterator[Batch]:
        """Batches without end; each is of one case."""
        while True:
            for batch in self._loader:
                image, label = (batch[key].as_tensor() for key in _BOTH)
                image = image.to(self._device, memory_format=torch.channels_last)
                yield Batch(image, label[:, 0].to(self._device, torch.uint8))


def _transforms(settings: Settings) -> Compose:
    recipe, changes = settings.training, settings.augmentation
    size = recipe.patch_size
    names = [f"channel_{number}" for number, _ in enumerate(settings.blend_channels())]
    scaled: list[Any] = [
        ScaleIntensityRanged(name, window.low, window.high, 0.0, 1.0, clip=True)
        for name, window in zip(names, map(_window, settings.blend_channels()), strict=True)
    ]
    slicewise = partial(RandCropByPosNegLabeld, _BOTH, "label", (size, size, 1), pos=2, neg=1)
    return Compose(
        [
            LoadImaged(_BOTH, image_only=True),
            EnsureChannelFirstd(_BOTH),
            Orientationd(_BOTH, "LPS", labels=None),
            CopyItemsd("image", len(names), names),
            *scaled,
            ConcatItemsd(names, "image"),
            slicewise(num_samples=recipe.batch_size, allow_smaller=False),
            SqueezeDimd(_BOTH, dim=-1),
            Rand2DElasticd(
                _BOTH,
                spacing=(changes.elastic_sigma * 4,) * 2,
                magnitude_range=(0, changes.elastic_sigma),
                prob=changes.elastic_probability,
                mode=_MODES,
                padding_mode="zeros",
            ),
            RandGridDistortiond(
                _BOTH,
                num_cells=changes.grid_cells,
                prob=changes.grid_probability,
                distort_limit=changes.grid_limit,
                mode=_MODES,  # type: ignore[arg-type]  # one for each key, as its documentation says
                padding_mode="zeros",
            ),
            RandAffined(
                _BOTH,
                prob=changes.affine_probability,
                rotate_range=changes.rotation_degrees * torch.pi / 180,
                scale_range=(changes.scale[0] - 1, changes.scale[1] - 1),
                mode=_MODES,
                padding_mode="zeros",
            ),
            RandGaussianNoised("image", prob=changes.noise_probability, std=changes.noise_hu / 400),
        ]
    )


def _window(channel: str | Window) -> Window:
    return PRESETS["abdomen_soft"] if channel == HISTOGRAM else find_window(channel)
