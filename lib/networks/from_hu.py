"""A network with its windows in front, in one module; as TorchScript it needs none of this code."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from lib.errors import ModelError
from lib.transforms.windowing import HISTOGRAM, Channel, find_window
from lib.volume import AIR_HU

_SIZES = ((1, 64, 64), (2, 96, 64), (3, 50, 33))  # slices, rows, columns: what an export is compared on
_TOP_HU = 32767
_CLOSE = 1e-4  # logits


class FromHounsfield(nn.Module):
    """Axial HU slices in, logits out: rounding, windows, padding to whole multiples and the network.

    The channels are those of `lib.transforms.windowing.blend`, written so that TorchScript and ONNX can hold them; they
    differ by less than 1e-6.

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
        self.air = AIR_HU
        self.top = _TOP_HU
        self.multiple = multiple
        # Where the break points are among the sorted pixels: see `lib.transforms.windowing.histogram_scale`.
        self.thousandths = [1, *range(5, 1000, 10), 999]

    def forward(self, hu: Tensor) -> Tensor:
        """Logits `(N, classes, Y, X)` of HU `(N, 1, Y, X)` of any real dtype and size; Y to posterior, X to left."""
        hu = torch.clamp(torch.round(hu[:, 0].float()), self.air, self.top)
        height, width = hu.shape[1], hu.shape[2]
        # Rounded up so, and not by a remainder, `torch.export` can prove that the network takes every size.
        below = (height + self.multiple - 1) // self.multiple * self.multiple - height
        right = (width + self.multiple - 1) // self.multiple * self.multiple - width
        padded = functional.pad(hu, [0, right, 0, below], value=float(self.air))
        planes: list[Tensor] = []
        for index, is_histogram in enumerate(self.is_histogram):
            if is_histogram:
                planes.append(self._spread(padded, self._levels(hu)))
            else:
                low, high = self.low[index], self.high[index]
                planes.append((torch.clamp(padded, low, high) - low) / (high - low))
        logits = self.network(torch.stack(planes, 1))
        return logits[:, :, :height, :width]

    def _levels(self, whole: Tensor) -> Tensor:
        """The break points `(N, 102)` of each slice's gray values, ascending, with repetitions."""
        ordered = torch.sort(whole.flatten(1), dim=1)[0]
        return ordered[:, torch.tensor(self.thousandths, device=whole.device) * ordered.shape[1] // 1000]

    def _spread(self, hu: Tensor, levels: Tensor) -> Tensor:
        """HU between break points are mapped linearly to equal steps of [0, 1], by a table for each slice."""
        values = torch.arange(self.air, self.top + 1, device=hu.device)
        last = levels.shape[1] - 1
        at = levels.long() - self.air
        empty = torch.zeros(levels.shape[0], values.shape[0], dtype=torch.long, device=hu.device)
        count = empty.scatter_add(1, at, torch.ones_like(at)).cumsum(1)  # of the break points up to each HU
        below, above = torch.clamp(count - 1, 0, last), torch.clamp(count, 0, last)
        low, high = levels.gather(1, below), levels.gather(1, above)
        # Repeated break points are one step.
        step = functional.pad((levels[:, 1:] > levels[:, :-1]).long().cumsum(1), [1, 0])
        steps = step[:, -1:]
        part = (values - low) / torch.clamp(high - low, min=1.0)
        table = torch.clamp((step.gather(1, below) + part) / torch.clamp(steps, min=1), 0.0, 1.0) * (steps > 0)
        return table.gather(1, hu.flatten(1).long() - self.air).reshape(hu.shape)


def example_slices() -> list[Tensor]:
    """HU `(N, 1, Y, X)` of several sizes, to compare a network and what it was exported to; always the same ones."""
    random = torch.Generator().manual_seed(0)
    return [torch.randint(-1000, 1000, (n, 1, y, x), generator=random).float() for n, y, x in _SIZES]


def script_from_hu(network: nn.Module, channels: Sequence[Channel], multiple: int) -> torch.jit.ScriptModule:
    """A network with its windows as TorchScript, checked against the network itself.

    Args:
        network: on the CPU, in evaluation mode.
        channels: see `FromHounsfield`.
        multiple: of which Y and X must be for the network.

    Raises:
        ModelError: this network can't be written as TorchScript for images of every size.
    """
    own = FromHounsfield(network, channels, multiple)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # that TorchScript is old, and that the check of sizes is not in the trace
        traced = torch.jit.trace(network, torch.zeros(1, len(channels), 64, 64), check_trace=False)
        scripted = torch.jit.script(FromHounsfield(traced, channels, multiple))
        for example in example_slices():
            try:
                same = torch.allclose(scripted(example), own(example), rtol=0, atol=_CLOSE)
            except RuntimeError:  # whatever a trace for one size does with another
                same = False
            if not same:
                msg = f"the network {type(network).__name__} can't be exported: its TorchScript does not do the same"
                raise ModelError(msg)
    return scripted
