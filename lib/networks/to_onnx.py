"""A network with its windows in front as ONNX, for programs without PyTorch."""

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.onnx.errors import OnnxExporterError

from lib.errors import ModelError
from lib.files import atomic_write
from lib.networks.from_hu import FromHounsfield, example_slices
from lib.transforms.windowing import Channel

# ONNX Runtime would report its use to its maker; it looks at this when it is imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime

INPUT, OUTPUT = "hu", "logits"
_CLOSE = 1e-4  # probability


def write_onnx(
    path: Path, network: nn.Module, channels: Sequence[Channel], multiple: int, metadata: Mapping[str, str]
) -> None:
    """Write a network with its windows as one ONNX file, once ONNX Runtime has shown that it does the same.

    The input `hu` is float32 `(N, 1, Y, X)`, the output `logits` float32 `(N, classes, Y, X)`, both of any size; see
    `lib.networks.from_hu.FromHounsfield`. On slices of several sizes no class may be more probable or less than the
    network says, by more than 1e-4.

    Args:
        path: of the file.
        network: on the CPU, in evaluation mode.
        channels: see `FromHounsfield`.
        multiple: of which Y and X must be for the network.
        metadata: texts that go along; ONNX Runtime gives them as `custom_metadata_map`.

    Raises:
        ModelError: this network can't be written as ONNX for images of every size.
        StorageError: the disk refused the write.
    """
    own = FromHounsfield(network, channels, multiple).eval()
    examples = example_slices()
    impossible = f"the network {type(network).__name__} can't be exported as ONNX"
    try:
        model = _convert(own, examples[-1])
    except OnnxExporterError as error:  # its text is pages long, with all that it tried
        msg = f"{impossible} for images of every size; try TorchScript"
        raise ModelError(msg) from error
    onnx.helper.set_model_props(model, dict(metadata))
    content = model.SerializeToString(deterministic=True)
    try:
        differs = _differs(content, own, examples)
    except Exception as error:  # what ONNX Runtime raises has no base of its own
        msg = f"{impossible}: ONNX Runtime says {' '.join(str(error).split())[:300]}; try TorchScript"
        raise ModelError(msg) from error
    if differs:
        msg = f"{impossible}: it does not do the same there; try TorchScript"
        raise ModelError(msg)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def _convert(module: nn.Module, example: Tensor) -> onnx.ModelProto:
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:  # they tell each step
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                (example,),
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: "slices", 2: "rows", 3: "columns"},),
                verbose=False,
            )
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    model: onnx.ModelProto = program.model_proto  # type: ignore[union-attr]  # None is for exports to a file
    graph = model.graph
    # Which lines of which files on this machine made each part: of no use elsewhere.
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer, graph):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    dims = (value.type.tensor_type.shape.dim for value in (graph.input[0], graph.output[0]))
    for taken, given in zip(*dims, strict=True):
        if taken.dim_param:  # formulas otherwise
            given.dim_param = taken.dim_param
    return model


def _differs(content: bytes, own: nn.Module, examples: Sequence[Tensor]) -> bool:
    """Whether an ONNX model gives other probabilities than the network on any of the examples."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what matters is raised
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    for example in examples:
        logits = torch.from_numpy(session.run([OUTPUT], {INPUT: example.numpy()})[0])
        with torch.no_grad():
            expected = own(example)
        if logits.shape != expected.shape:
            return True
        if not torch.allclose(logits.softmax(1), expected.softmax(1), rtol=0, atol=_CLOSE):
            return True
    return False
