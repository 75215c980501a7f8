"""What runs a network: PyTorch here; others have the same few lines of interface and give the same labels."""

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lib.inference.device import Precision, autocast, resolve_precision
from lib.inference.observer import Seen
from lib.inference.stopwatch import Stopwatch
from lib.networks.unet import MulticlassUNet
from lib.transforms.lookup import look_up
from lib.transforms.windowing import Channel, channel_tables

logger = logging.getLogger(__name__)

STRIDE = 16  # the network halves the image four times

_Output = tuple[torch.Tensor, torch.Tensor | None]


class Engine(Protocol):
    """Runs one model's network over patches of axial slices.

    Attributes:
        name: of engine, number format and device, for logs and reports.
        device: where it computes.
    """

    name: str
    device: torch.device

    def __call__(self, hu: NDArray[np.int16], levels: NDArray[np.int16], watch: Stopwatch) -> NDArray[np.uint8]:
        """Class indices: the argmax of the network's output. Safe to call from several threads.

        Args:
            hu: int16 HU `(N, Y, X)`, C-contiguous; Y and X are multiples of `STRIDE`.
            levels: int16 `(N, 102)`, `lib.transforms.windowing.gray_levels` of the whole slices.
            watch: counts the steps "windows" and "network".

        Returns:
            uint8 `(N, Y, X)`.
        """
        ...

    def seen(self, hu: NDArray[np.int16], levels: NDArray[np.int16], watch: Stopwatch) -> Seen:
        """The same class indices and what they come from; arguments as when called."""
        ...


class TorchEngine:
    """The network itself.

    Args:
        network: takes float32 `(N, channels, Y, X)` and gives `(N, classes, Y, X)`; used in the mode it is in.
        channels: its input channels.
        precision: see `lib.inference.device.autocast`.
        compiled: by `torch.compile` for slices of every size and number, at the first call, which takes some seconds
            to a minute. It needs a C compiler; where that or anything else fails, the network runs as it is.
    """

    def __init__(
        self, network: nn.Module, channels: Sequence[Channel], precision: Precision = "auto", *, compiled: bool = False
    ) -> None:
        self._channels = channels
        self._network = _WithBottom(network)
        self.device = next(network.parameters()).device
        self._precision = resolve_precision(self.device, precision)
        self._compiled: Callable[[torch.Tensor], _Output] | None = None
        if compiled:
            self._compiled = torch.compile(self._network, dynamic=True)
        self.name = f"PyTorch {self._precision}{' compiled' if compiled else ''} on {self.device}"

    @torch.inference_mode()
    def logits(self, hu: NDArray[np.int16], levels: NDArray[np.int16], watch: Stopwatch) -> torch.Tensor:
        """The network's output, float32 `(N, classes, Y, X)` on its device; arguments as when called."""
        return self._run(hu, levels, watch)[0]

    def _run(self, hu: NDArray[np.int16], levels: NDArray[np.int16], watch: Stopwatch) -> _Output:
        with watch("windows"):
            tables, low = channel_tables(levels, self._channels)
            inputs = look_up(torch.from_numpy(hu).to(self.device), torch.from_numpy(tables).to(self.device), low)
        with watch("network"), autocast(self.device, self._precision):
            logits, bottom = self._forward(inputs)
            return logits.float(), bottom

    def _forward(self, inputs: torch.Tensor) -> _Output:
        compiled = self._compiled
        if compiled is not None:
            try:
                return compiled(inputs)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # whatever a compiler raises, for this size or for all
                reason = " ".join(str(error).split())[:300]
                logger.warning("%s goes on without being compiled: %s", self.name, reason)
                self._compiled, self.name = None, self.name.replace(" compiled", "")
        output: _Output = self._network(inputs)
        return output

    def __call__(self, hu: NDArray[np.int16], levels: NDArray[np.int16], watch: Stopwatch) -> NDArray[np.uint8]:
        """See `Engine`."""
        logits = self.logits(hu, levels, watch)
        with watch("network"):  # a GPU is waited for only here
            return _classes(logits)

    @torch.inference_mode()
    def seen(self, hu: NDArray[np.int16], levels: NDArray[np.int16], watch: Stopwatch) -> Seen:
        """See `Engine`."""
        logits, bottom = self._run(hu, levels, watch)
        with watch("network"):
            classes, features = _classes(logits), None if bottom is None else bottom.float().cpu().numpy()
        return Seen(classes, logits.softmax(1).cpu().numpy(), features)


def _classes(logits: torch.Tensor) -> NDArray[np.uint8]:
    classes: NDArray[np.uint8] = logits.argmax(1).to(torch.uint8).cpu().numpy()
    return classes


class _WithBottom(nn.Module):
    """A network that also gives the bottom of its U, where it is known to have one.

    It is there anyway, so that one compiled network does for all who ask.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: torch.Tensor) -> _Output:
        """Logits and bottom."""
        if isinstance(self.network, MulticlassUNet):
            features = self.network.encode(inputs)
            return self.network.decode(features), features[-1]
        return self.network(inputs), None
