"""Windows by look-up table on any device."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lib.transforms.windowing import gray_levels, ranks


def look_up(hu: Tensor, tables: Tensor, low: int) -> Tensor:
    """Channels of slices by the tables of `lib.transforms.windowing.channel_tables`.

    Args:
        hu: int16 `(N, Y, X)`.
        tables: float32 `(N, C, L)` on the same device.
        low: the HU of the tables' first entries; HU beyond either end are as there.

    Returns:
        float32 `(N, C, Y, X)`, channels-last in memory.
    """
    number, channels, length = tables.shape
    index = (hu.to(torch.int32) - low).clamp_(0, length - 1).flatten(1)
    # One row of a transposed table is a pixel's channels, side by side as channels-last wants them.
    rows = index + (length * torch.arange(number, device=hu.device, dtype=torch.int32))[:, None]
    pixels = tables.transpose(1, 2).reshape(number * length, channels).index_select(0, rows.flatten())
    return pixels.reshape(number, *hu.shape[1:], channels).permute(0, 3, 1, 2)


def slice_levels(hu: NDArray[np.int16], device: torch.device) -> NDArray[np.int16]:
    """The `gray_levels` of several slices, computed where their network is: a GPU sorts faster than a CPU counts.

    Args:
        hu: int16 HU `(N, Y, X)`, at least one pixel in each.
        device: of the network.

    Returns:
        int16 `(N, 102)`, the same on every device.
    """
    if device.type != "cuda":
        return np.stack([gray_levels(one) for one in hu])
    ordered = torch.from_numpy(hu).to(device).flatten(1).sort(dim=1)[0]
    places = torch.tensor(ranks(ordered.shape[1]), device=device)
    levels: NDArray[np.int16] = ordered[:, places].cpu().numpy()
    return levels
