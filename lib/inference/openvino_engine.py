"""OpenVINO behind the interface of `lib.inference.engine`: the same network and windows, often faster on a CPU."""

import copy
import sys
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

# OpenVINO reports its use over the network as soon as it is imported, unless this package can't be.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino as ov  # noqa: E402
from openvino.frontend import FrontEndManager  # noqa: E402
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder  # noqa: E402

from lib.inference.device import has_fast_bfloat16  # noqa: E402
from lib.inference.stopwatch import Stopwatch  # noqa: E402
from lib.transforms.lookup import look_up  # noqa: E402
from lib.transforms.windowing import Channel, channel_tables  # noqa: E402

_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


class OpenVinoEngine:
    """A network compiled by OpenVINO for this CPU. Later changes of the network's weights don't reach it.

    Slices are divided among `streams`, which share the threads: streams need not wait for one another after each layer
    as the threads of one stream do, but a single slice keeps only one of them busy.

    Args:
        network: takes float32 `(N, channels, Y, X)` and gives `(N, classes, Y, X)`; its evaluation mode is compiled. Of
            int8 the file that `lib.inference.int8` made.
        channels: its input channels.
        precision: of the sums' operands; what is not quantized in an int8 file runs in what "auto" means here.
        threads: CPU threads.
        streams: at most `threads`.

    Raises:
        RuntimeError: OpenVINO can't express the network, or read the file.
    """

    def __init__(
        self,
        network: nn.Module | Path,
        channels: Sequence[Channel],
        precision: Literal["float32", "bfloat16", "int8"],
        *,
        threads: int,
        streams: int = 1,
    ) -> None:
        self._channels, self._streams = channels, streams
        source, _weights = (network, None) if isinstance(network, Path) else converted(network, len(channels))
        rest = ("bfloat16" if has_fast_bfloat16() else "float32") if precision == "int8" else precision
        self._compiled = ov.Core().compile_model(
            source,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": _PRECISIONS[rest],
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": streams,
                "ENABLE_CPU_PINNING": False,  # the cores are shared with the server, other sessions and trainings
            },
        )
        self.name, self.device = openvino_name(precision, streams), torch.device("cpu")

    def __call__(self, hu: NDArray[np.int16], levels: NDArray[np.int16], watch: Stopwatch) -> NDArray[np.uint8]:
        """See `lib.inference.engine.Engine`."""
        with watch("windows"):
            tables, low = channel_tables(levels, self._channels)
            # Channels-last in memory, as the CPU's kernels want it: a view, no copy.
            pixels = look_up(torch.from_numpy(hu), torch.from_numpy(tables), low).permute(0, 2, 3, 1).numpy()
        with watch("network"):
            classes = np.empty(hu.shape, np.uint8)
            # A request holds its own arrays and takes microseconds to make: one for each part, none shared by threads.
            running = []
            for part in _parts(len(hu), self._streams):
                request = self._compiled.create_infer_request()
                request.start_async([np.ascontiguousarray(pixels[part])], share_inputs=True)
                running.append((part, request))
            for part, request in running:
                request.wait()
                classes[part] = request.get_output_tensor(0).data
        return classes


def openvino_name(precision: str, streams: int) -> str:
    """What such an engine is called in logs, records and reports."""
    return f"OpenVINO {precision}, {streams} stream{'s' if streams > 1 else ''} on cpu"


def _parts(count: int, streams: int) -> list[slice]:
    """Slices as even as can be, none empty."""
    ends = [count * number // streams for number in range(streams + 1)]
    return [slice(first, last) for first, last in pairwise(ends) if last > first]


class _Labels(nn.Module):
    """From channels-last pixels to class indices, so that neither is copied outside of OpenVINO."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 `(N, Y, X)` of float32 `(N, Y, X, channels)`."""
        return self.network(pixels.permute(0, 3, 1, 2)).argmax(1).to(torch.uint8)


def _traced(network: nn.Module, channels: int) -> TorchScriptPythonDecoder:
    """The network as OpenVINO reads it.

    What the network decides by its input's size is decided by that of the example. `lib.inference.choice` compares
    the labels on other sizes.
    """
    module = _Labels(copy.deepcopy(network)).eval()
    example = torch.zeros(2, 64, 96, channels)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # that tracing fixes decisions, and that PyTorch would rather export
        traced = torch.jit.trace(module, example, check_trace=False)
        return TorchScriptPythonDecoder(traced, example_input=(example,))


def converted(network: nn.Module, channels: int) -> tuple[Any, object]:
    """A network as an OpenVINO model: float32 pixels `(N, Y, X, channels)` of any size to uint8 class indices.

    By the frontend itself: `openvino.convert_model` sets the level of the whole program's log as long as it works.

    Returns:
        The model, and what holds its weights and must live as long.
    """
    decoder = _traced(network, channels)
    frontend = FrontEndManager().load_by_framework("pytorch")
    model = frontend.convert(frontend.load(decoder))
    model.reshape(ov.PartialShape([-1, -1, -1, channels]))
    return model, decoder
