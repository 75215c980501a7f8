"""A network with its windows in front, in one TorchScript module that needs none of this code."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from lib.errors import ModelError
from lib.transforms.windowing import HISTOGRAM, Channel, find_window
from lib.volume import AIR_HU

_EXAMPLES = ((1, 64, 64), (2, 96, 64))  # slices, rows, columns: traced, and compared with the network itself
_CLOSE = 1e-4  # logits


class FromHounsfield(nn.Module):
    """Axial HU slices in, logits out: rounding, windows, padding to whole multiples and the network.

    The channels are those of `lib.transforms.windowing.blend`, written for TorchScript; they differ by less than 1e-6.

    Args:
        network: takes `(N, channels, Y, X)` and gives `(N, classes, Y, X)`.
        channels: presets by name, windows, or "histogram".
        multiple: of which Y and X must be for the network.
    """

    def __init__(self, network: nn.Module, channels: Sequence[Channel], multiple: int) -> None:
        super().__init__()
        self.network = network
        windows = [None if channel == HISTOGRAM else find_window(channel) for channel in channels]
        self.is_histogram = [window is None for window in windows]
        self.low = [float(window.low) if window else 0.0 for window in windows]
        self.high = [float(window.high) if window else 1.0 for window in windows]
        self.air = float(AIR_HU)
        self.multiple = multiple

    def forward(self, hu: Tensor) -> Tensor:
        """Logits `(N, classes, Y, X)` of HU `(N, 1, Y, X)` of any real dtype and size; Y to posterior, X to left."""
        hu = torch.clamp(torch.round(hu[:, 0].float()), self.air, 32767.0)
        height, width = hu.shape[1], hu.shape[2]
        below, right = (-height) % self.multiple, (-width) % self.multiple
        padded = functional.pad(hu, [0, right, 0, below], value=self.air)
        planes: list[Tensor] = []
        for index, is_histogram in enumerate(self.is_histogram):
            if is_histogram:
                slices = [_spread(padded[z], _breaks(hu[z])) for z in range(hu.shape[0])]
                planes.append(torch.stack(slices))
            else:
                low, high = self.low[index], self.high[index]
                planes.append((torch.clamp(padded, low, high) - low) / (high - low))
        logits = self.network(torch.stack(planes, 1))
        return logits[:, :, :height, :width]


def _breaks(whole: Tensor) -> Tensor:
    """The break points of a slice's gray values, ascending; see `lib.transforms.windowing.histogram_scale`."""
    ordered = torch.sort(whole.flatten())[0]
    size = ordered.shape[0]
    ranks = [size // 1000]
    for step in range(100):
        ranks.append(size * (2 * step + 1) // 200)
    ranks.append(size * 999 // 1000)
    return torch.unique_consecutive(ordered[torch.tensor(ranks, device=whole.device)])


def _spread(hu: Tensor, breaks: Tensor) -> Tensor:
    """HU between break points are mapped linearly to equal steps of [0, 1]."""
    last = breaks.shape[0] - 1
    if last == 0:
        return torch.zeros_like(hu)
    index = torch.clamp(torch.searchsorted(breaks, hu.contiguous(), right=True) - 1, 0, last - 1)
    low = breaks[index]
    part = torch.clamp((hu - low) / (breaks[index + 1] - low), 0.0, 1.0)
    return (index + part) / last


def script_from_hu(network: nn.Module, channels: Sequence[Channel], multiple: int) -> torch.jit.ScriptModule:
    """A network with its windows as TorchScript, checked against the network itself.

    Args:
        network: on the CPU, in evaluation mode.
        channels: see `FromHounsfield`.
        multiple: of which Y and X must be for the network.

    Raises:
        ModelError: this network can't be written as TorchScript for images of every size.
    """
    examples = [
        torch.randint(-1000, 1000, (n, 1, y, x), generator=torch.Generator().manual_seed(0)).float()
        for n, y, x in _EXAMPLES
    ]
    own = FromHounsfield(network, channels, multiple)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # that TorchScript is old, and that the check of sizes is not in the trace
        n, y, x = _EXAMPLES[0]
        traced = torch.jit.trace(network, torch.zeros(n, len(channels), y, x), check_trace=False)
        scripted = torch.jit.script(FromHounsfield(traced, channels, multiple))
        for example in examples:
            try:
                same = torch.allclose(scripted(example), own(example), rtol=0, atol=_CLOSE)
            except RuntimeError:  # whatever a trace for one size does with another
                same = False
            if not same:
                msg = f"the network {type(network).__name__} can't be exported: its TorchScript does not do the same"
                raise ModelError(msg)
    return scripted
