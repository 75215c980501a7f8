"""A network in 8-bit integers for OpenVINO, kept beside its weights and used where its labels were found as good.

NNCF quantizes after the training: slices show how large the network's values get, then weights and values become bytes,
which a CPU with VNNI or AMX multiplies faster than any float. The labels are not quite the network's own. A version's
int8 files therefore count only with a verdict on them, which `lib.training.int8` gives, and only for exactly the
weights that they were made of.
"""

import contextlib
import json
import logging
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from lib.files import atomic_write, file_sha256, write_error
from lib.inference.agreement import Case
from lib.transforms.lookup import look_up
from lib.transforms.windowing import Channel, channel_tables

logger = logging.getLogger(__name__)

VERDICT_FILE = "int8.json"
_GRAPH, _VALUES = "int8.xml", "int8.bin"  # OpenVINO looks for the second by the name of the first
_LEFT_OUT = 1e-4  # of a layer's values on either side: what lies beyond the rest costs all of it its steps
_PROBE = 64  # rows and columns, for telling layers apart by size


class Int8(NamedTuple):
    """An accepted int8 network: its file, and what tells it from others."""

    path: Path
    sha256: str


def quantize(network: nn.Module, channels: Sequence[Channel], slices: Sequence[Case], path: Path) -> None:
    """Write a network in 8-bit integers.

    The layers of full and half resolution stay as they are: most of what int8 changes in the labels comes from them.

    Args:
        network: in evaluation mode, on the CPU.
        channels: its input channels.
        slices: HU and gray levels as an engine gets them, such as annotators label; some dozens.
        path: of the OpenVINO model, `.xml`; a `.bin` is written beside it.

    Raises:
        ImportError: NNCF is not installed.
        Exception: whatever NNCF or OpenVINO raise for a network that they can't express.
    """
    with _quiet_nncf() as nncf:
        import openvino as ov
        from nncf.quantization import advanced_parameters as advanced
        from nncf.quantization import range_estimator as ranges
        from openvino.passes import ConstantFolding, Manager

        from lib.inference.openvino_engine import converted

        graph, _weights = converted(network, len(channels))
        manager = Manager()
        manager.register_pass(ConstantFolding())  # NNCF finds no bias behind the arithmetic of its shape
        manager.run_passes(graph)
        ends = [
            ranges.StatisticsCollectorParameters(
                statistics_type=ranges.StatisticsType.QUANTILE,
                aggregator_type=ranges.AggregatorType.MEAN,
                quantile_outlier_prob=_LEFT_OUT,
            )
            for _ in range(2)
        ]
        pixels = [_pixels(case, channels) for case in slices]
        quantized = nncf.quantize(
            graph,
            nncf.Dataset(pixels),
            preset=nncf.QuantizationPreset.PERFORMANCE,
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(pixels),
            ignored_scope=nncf.IgnoredScope(names=_fine_layers(graph, len(channels))),
            advanced_parameters=advanced.AdvancedQuantizationParameters(
                overflow_fix=advanced.OverflowFix.DISABLE,  # for CPUs without VNNI, which get no int8
                activations_range_estimator_params=ranges.RangeEstimatorParameters(*ends),
            ),
        )
        ov.save_model(quantized, path, compress_to_fp16=False)


def keep_int8(folder: Path, made: Path | None, verdict: Mapping[str, Any]) -> None:
    """Put a verdict into a version's folder, and the files that it accepts.

    The verdict comes last and holds their checksums: without it they are not looked at.

    Args:
        folder: of the version.
        made: what `quantize` wrote; None: it was not accepted, and what was there before is removed.
        verdict: JSON-ready; `weights` is `lib.inference.choice.weights_digest` of the network.

    Raises:
        StorageError: the disk refused the write.
    """
    _remove(folder / VERDICT_FILE)
    sums = {}
    for name, source in ((_GRAPH, made), (_VALUES, made and made.with_suffix(".bin"))):
        if source is None:
            _remove(folder / name)
            continue
        sums[name] = file_sha256(source)  # not of the copy, which another trial may replace meanwhile
        with atomic_write(folder / name) as temporary:
            shutil.copyfile(source, temporary)
    content = {
        **verdict,
        "accepted": made is not None,
        "sha256": sums,
        "software": {name: version(name) for name in ("nncf", "openvino")},
    }
    with atomic_write(folder / VERDICT_FILE) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def accepted_int8(folder: Path | None, weights: str, title: str) -> Int8 | None:
    """A version's int8 network, if there is one that was accepted for these weights and is whole.

    Args:
        folder: of the version; None: there is none.
        weights: `lib.inference.choice.weights_digest` of the network.
        title: of the model, for the log, which tells why files that are there are not used.
    """
    if folder is None:
        return None
    try:
        if not (folder / VERDICT_FILE).is_file():
            return None
        verdict = json.loads((folder / VERDICT_FILE).read_text(encoding="utf-8"))
        if not verdict["accepted"]:
            return None
        if verdict["weights"] != weights:
            logger.warning("model %s: its int8 files are not used, they were made of other weights", title)
            return None
        sums = {name: file_sha256(folder / name) for name in (_GRAPH, _VALUES)}
        if sums != verdict["sha256"]:
            logger.warning("model %s: its int8 files are not used, they are damaged; quantize it again", title)
            return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("model %s: its int8 files are not used, they can't be read: %s", title, error)
        return None
    return Int8(folder / _GRAPH, sums[_GRAPH] + sums[_VALUES])


def _pixels(case: Case, channels: Sequence[Channel]) -> Any:
    """float32 `(N, Y, X, channels)`, as `lib.inference.openvino_engine` gives them to the network."""
    hu, levels = case
    tables, low = channel_tables(levels, channels)
    return look_up(torch.from_numpy(hu), torch.from_numpy(tables), low).permute(0, 2, 3, 1).numpy()


def _fine_layers(graph: Any, channels: int) -> list[str]:
    """Names of the convolutions that give as many pixels as the image has, or a quarter of them."""
    still = graph.clone()
    still.reshape([1, _PROBE, _PROBE, channels])
    return [
        node.get_friendly_name()
        for node in still.get_ordered_ops()
        if "Convolution" in node.get_type_name() and node.output(0).shape[2] >= _PROBE // 2
    ]


@contextlib.contextmanager
def _quiet_nncf() -> Iterator[Any]:
    """NNCF without its reports over the network, its progress bars and its logger for everybody; it takes seconds."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # which NNCF loads: there is no GPU
    usual = logging.getLoggerClass()
    import nncf
    import rich

    logging.setLoggerClass(usual)
    logging.getLogger("nncf").setLevel(logging.ERROR)
    console = rich.get_console()
    before, console.quiet = console.quiet, True
    try:
        yield nncf
    finally:
        console.quiet = before


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise write_error(path.parent, error) from error
