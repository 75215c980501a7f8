"""Windows by look-up table on any device."""

import torch
from torch import Tensor


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
