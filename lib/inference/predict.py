"""The network over a volume, a few axial slices at a time."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lib.inference.device import Precision, autocast
from lib.inference.stopwatch import Stopwatch
from lib.transforms.windowing import Channel, blend
from lib.volume import AIR_HU

STRIDE = 16  # the network halves the image four times


def to_input(slices: NDArray[np.int16], channels: Sequence[Channel], device: torch.device) -> torch.Tensor:
    """Axial HU slices as network input.

    Args:
        slices: int16 HU, `(N, Y, X)`.
        channels: what `lib.transforms.windowing.blend` makes of them.
        device: where the tensor shall lie.

    Returns:
        float32 `(N, channels, Y', X')`, Y' and X' padded with air at the end to multiples of 16, channels-last in
        memory.
    """
    height, width = slices.shape[-2:]
    slices = padded = np.ascontiguousarray(slices)
    if height % STRIDE or width % STRIDE:
        padding = ((0, 0), (0, -height % STRIDE), (0, -width % STRIDE))
        padded = np.pad(slices, padding, constant_values=AIR_HU)
    tensor = torch.from_numpy(blend(padded, channels, histogram_of=None if padded is slices else slices)).to(device)
    return tensor.contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def logits_by_slices(
    network: nn.Module,
    hu: NDArray[np.int16],
    channels: Sequence[Channel],
    *,
    batch_slices: int = 4,
    precision: Precision = "auto",
    watch: Stopwatch | None = None,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield `(first slice, logits)` for successive groups of slices.

    Args:
        network: takes `(N, channels, Y, X)` and gives `(N, classes, Y, X)`; used in the mode it is in.
        hu: int16 HU, axial `(Z, Y, X)`.
        channels: the input channels.
        batch_slices: slices per forward pass.
        precision: see `lib.inference.device.autocast`.
        watch: counts the steps "windows" and "network".

    Yields:
        Index of the group's first slice and its float logits `(N, classes, Y, X)` without the padding.
    """
    device = next(network.parameters()).device
    height, width = hu.shape[1:]
    watch = watch or Stopwatch()
    for start in range(0, len(hu), batch_slices):
        with watch("windows"):
            inputs = to_input(hu[start : start + batch_slices], channels, device)
        with watch("network"), autocast(device, precision):
            logits = network(inputs)
        yield start, logits[..., :height, :width].float()


def predict_axial(
    network: nn.Module,
    hu: NDArray[np.int16],
    channels: Sequence[Channel],
    *,
    batch_slices: int = 4,
    precision: Precision = "auto",
    watch: Stopwatch | None = None,
    progress: Callable[[int], object] | None = None,
) -> NDArray[np.uint8]:
    """Class indices of every voxel: the argmax of the network's output.

    Args:
        network: in evaluation mode; see `logits_by_slices`.
        hu: int16 HU, axial `(Z, Y, X)`.
        channels: the input channels.
        batch_slices: slices per forward pass.
        precision: see `lib.inference.device.autocast`.
        watch: counts the steps "windows" and "network" (forward pass and argmax).
        progress: called with the number of slices just done.

    Returns:
        uint8 `(Z, Y, X)`.
    """
    result = np.empty(hu.shape, np.uint8)
    watch = watch or Stopwatch()
    groups = logits_by_slices(network, hu, channels, batch_slices=batch_slices, precision=precision, watch=watch)
    for start, logits in groups:
        with watch("network"):  # a GPU is waited for only here
            classes = logits.argmax(1).to(torch.uint8).cpu().numpy()
        result[start : start + len(classes)] = classes
        if progress:
            progress(len(classes))
    return result
