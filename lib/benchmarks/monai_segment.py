"""The baseline: the same network the way MONAI's own transforms and inferer run it, in float32.

It has the same steps as ours, from the file to a written label. MONAI has no equal of the histogram channel, so it
gets one more window, and post-processing is MONAI's largest component and filled holes. The label is therefore a
little different; the work is alike.
"""

from pathlib import Path

import torch
from monai.data import MetaTensor
from monai.inferers import SliceInferer
from monai.transforms import (
    AsDiscrete,
    Compose,
    ConcatItemsd,
    CopyItemsd,
    FillHoles,
    KeepLargestConnectedComponent,
    LoadImaged,
    Orientationd,
    SaveImage,
    ScaleIntensityRanged,
)

from lib.inference.engine import STRIDE
from lib.inference.model import Model
from lib.inference.stopwatch import Stopwatch
from lib.settings import Settings
from lib.transforms.windowing import HISTOGRAM, Window, find_window

_WIDE = Window(2000, 0)  # stands in for the histogram channel


@torch.inference_mode()
def segment_with_monai(image: Path, folder: Path, model: Model, settings: Settings) -> dict[str, float]:
    """Segment one image and write `folder/*.nii.gz`.

    Returns:
        Seconds of "read", "windows", "network", "postprocessing" and "write".
    """
    watch = Stopwatch()
    device = next(model.network.parameters()).device
    orient = Orientationd("image", axcodes="LPS", labels=None)
    with watch("read"):
        data = orient(LoadImaged("image", ensure_channel_first=True)({"image": str(image)}))
    with watch("windows"):
        data = monai_windows(settings)(data)
    inputs = data["channels"]
    with watch("network"):
        roi = [-(-extent // STRIDE) * STRIDE for extent in inputs.shape[1:3]]
        inferer = SliceInferer(
            roi_size=roi, sw_batch_size=settings.inference.batch_slices, spatial_dim=2, sw_device=device, device="cpu"
        )
        label = AsDiscrete(argmax=True)(inferer(inputs[None], model.network)[0])
    with watch("postprocessing"):
        label = FillHoles(applied_labels=[1])(KeepLargestConnectedComponent(applied_labels=[1])(label))
    with watch("write"):
        oriented = MetaTensor(label, meta=data["image"].meta, applied_operations=data["image"].applied_operations)
        restored = orient.inverse({"image": oriented})["image"]
        SaveImage(folder, output_postfix="monai", output_dtype="uint8", separate_folder=False, print_log=False)(
            restored
        )
    return watch.seconds


def monai_windows(settings: Settings) -> Compose:
    """From a channel-first "image" to "channels", as MONAI's transforms scale windows."""
    names = [f"channel_{position}" for position in range(len(settings.channels))]
    windows = [_WIDE if channel == HISTOGRAM else find_window(channel) for channel in settings.blend_channels()]
    scale = [
        ScaleIntensityRanged(name, window.low, window.high, 0, 1, clip=True)
        for name, window in zip(names, windows, strict=True)
    ]
    return Compose([CopyItemsd("image", len(names), names), *scale, ConcatItemsd(names, "channels")])
