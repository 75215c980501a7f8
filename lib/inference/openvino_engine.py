"""OpenVINO behind the interface of `lib.inference.engine`: the same network and windows, often faster on a CPU."""

import copy
import sys
import threading
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
import openvino.opset8 as ops  # noqa: E402
from openvino.frontend import FrontEndManager  # noqa: E402
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder  # noqa: E402

from lib.inference.device import has_fast_bfloat16  # noqa: E402
from lib.inference.observer import Seen  # noqa: E402
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
        has_bottom: whether the network is a U whose bottom goes into its first transposed convolution.

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
        has_bottom: bool = False,
    ) -> None:
        self._channels, self._streams = channels, streams
        core = ov.Core()
        graph, weights = (
            (core.read_model(network), None) if isinstance(network, Path) else converted(network, len(channels))
        )
        rest = ("bfloat16" if has_fast_bfloat16() else "float32") if precision == "int8" else precision
        options = {
            "INFERENCE_PRECISION_HINT": _PRECISIONS[rest],
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": streams,
            "ENABLE_CPU_PINNING": False,  # the cores are shared with the server, other sessions and trainings
        }
        self._compiled = core.compile_model(graph, "CPU", options)
        # Further outputs would cost those time who only want labels: another model has them, once it is needed.
        self._lock = threading.Lock()
        self._telling: Any = None
        self._source: Any = graph, weights, options, has_bottom
        self.name, self.device = openvino_name(precision, streams), torch.device("cpu")

    def __call__(self, hu: NDArray[np.int16], levels: NDArray[np.int16], watch: Stopwatch) -> NDArray[np.uint8]:
        """See `lib.inference.engine.Engine`."""
        (classes,) = self._run(self._compiled, hu, levels, watch)
        return classes

    def seen(self, hu: NDArray[np.int16], levels: NDArray[np.int16], watch: Stopwatch) -> Seen:
        """See `lib.inference.engine.Engine`.

        Raises:
            RuntimeError: OpenVINO can't express the network with these outputs.
        """
        with self._lock:
            if self._telling is None:
                graph, _weights, options, has_bottom = self._source
                self._telling = ov.Core().compile_model(_telling(graph, has_bottom=has_bottom), "CPU", options)
                self._source = None
        classes, probabilities, *features = self._run(self._telling, hu, levels, watch)
        return Seen(classes, probabilities, features[0] if features else None)

    def _run(
        self, compiled: Any, hu: NDArray[np.int16], levels: NDArray[np.int16], watch: Stopwatch
    ) -> list[NDArray[Any]]:
        """All outputs of a compiled network, of all slices."""
        with watch("windows"):
            tables, low = channel_tables(levels, self._channels)
            # Channels-last in memory, as the CPU's kernels want it: a view, no copy.
            pixels = look_up(torch.from_numpy(hu), torch.from_numpy(tables), low).permute(0, 2, 3, 1).numpy()
        with watch("network"):
            # A request holds its own arrays and takes microseconds to make: one for each part, none shared by threads.
            running = []
            for part in _parts(len(hu), self._streams):
                request = compiled.create_infer_request()
                request.start_async([np.ascontiguousarray(pixels[part])], share_inputs=True)
                running.append((part, request))
            results: list[NDArray[Any]] = []
            for part, request in running:
                request.wait()
                outputs = [request.get_output_tensor(number).data for number in range(len(compiled.outputs))]
                results = results or [np.empty((len(hu), *output.shape[1:]), output.dtype) for output in outputs]
                for result, output in zip(results, outputs, strict=True):
                    result[part] = output
        return results


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


def _telling(graph: Any, *, has_bottom: bool) -> Any:
    """The model with further outputs: the softmax and, where it has one, the bottom of the U."""
    graph = graph.clone()
    nodes = graph.get_ordered_ops()

    def goes_into(kind: str, number: int) -> Any:
        found = [node for node in nodes if node.get_type_name() == kind]
        if not found:
            msg = f"OpenVINO's model of the network has no {kind}, hence nothing to look at beside its labels"
            raise RuntimeError(msg)
        return found[number].input_value(0)

    # What OpenVINO finds next to an output it keeps in float32, and with bfloat16 the labels were others in places:
    # softmax stands before the one, as the argmax does anyway, and a convolution that changes nothing before the other.
    outputs = [ops.softmax(goes_into("TopK", -1), 1)]
    if has_bottom:
        bottom = goes_into("ConvolutionBackpropData", 0)
        ones = np.ones((bottom.get_partial_shape()[1].get_length(), 1, 1, 1, 1), np.float32)
        outputs.append(ops.group_convolution(bottom, ones, [1, 1], [0, 0], [0, 0], [1, 1]))
    graph.add_outputs([node.output(0) for node in outputs])
    return graph
