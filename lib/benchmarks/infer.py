"""One auto-segmentation from file to file, stage by stage, beside MONAI Label's sample app or MONAI's way of ours."""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lib.benchmarks.counts import check_counts
from lib.benchmarks.engine_limit import limits, matrix_peaks
from lib.benchmarks.infer_text import as_text
from lib.benchmarks.machine import describe_machine, drop_from_page_cache
from lib.benchmarks.monai_segment import segment_with_monai
from lib.benchmarks.phantoms import phantom_file
from lib.benchmarks.sample_app import SampleApp
from lib.benchmarks.served import Server, timed
from lib.errors import NotFoundError
from lib.inference.command_line import add_app_arguments, device_from, settings_from
from lib.inference.device import set_threads
from lib.inference.model import Model, ModelSource, load_model
from lib.inference.segment import segment
from lib.metrics.overlap import Overlap
from lib.settings import Settings
from lib.volume import Volume
from lib.volume_io import read_image, write_image

__all__ = ["SUMMARY", "add_arguments", "as_text", "measure", "small_image", "volume_file"]

SUMMARY = "one auto-segmentation, from the file on disk to the label on disk"
SAMPLE_APPS = {"monailabel-radiology": "segmentation", "monailabel-radiology-spleen": "segmentation_spleen"}
MONAI = "monai-2d"
WAYS = ("cold", "warm", "prefetched")

_Record = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `scripts/benchmark.py infer`."""
    parser.add_argument(
        "--volume",
        default="100",
        metavar="SLICES|FILE",
        help="slices of a phantom, rendered once and kept, or an image or DICOM folder (default: %(default)s)",
    )
    parser.add_argument(
        "--size", type=int, default=512, metavar="N", help="columns and rows of the phantom (default: %(default)s)"
    )
    parser.add_argument(
        "--spacing",
        type=float,
        nargs=2,
        metavar=("PIXEL", "SLICE"),
        help="mm of the phantom's pixels and from slice to slice (default: the body and the liver just fit)",
    )
    parser.add_argument(
        "--against",
        choices=(MONAI, *SAMPLE_APPS),
        default=MONAI,
        help="the baseline: our network by MONAI's transforms and inferer in float32, or a 3D network of MONAI Label's "
        "radiology sample app (default: %(default)s)",
    )
    parser.add_argument(
        "--repeat",
        type=int,
        default=1,
        metavar="N",
        help="rounds of all sides in turn; of each the run of median total counts (default: %(default)s)",
    )
    parser.add_argument("--weights", type=Path, metavar="FILE", help="weights instead of the app's model in force")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores)")
    parser.add_argument(
        "--no-baseline", action="store_true", help="leave out the baseline, which takes longer than ours"
    )
    parser.add_argument(
        "--no-agreement",
        action="store_true",
        help="leave out the comparison of labels with the plain path: PyTorch, float32, the whole volume",
    )
    add_app_arguments(parser)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the benchmark.

    Returns:
        `volume`, `machine`, `model_version`, `engine`, `batch_slices`; `ours` by way (`cold`: the first request for
        this image, which is not in the page cache; `warm`: it is; `prefetched`: its result is kept, left out where none
        is); `limit`, see `lib.benchmarks.engine_limit.limits`; unless left out, `agreement`, and `baseline` with
        `ratio`, its total by that of `cold`. Each side holds `seconds` by stage, `other` and `total` of the run of
        median total, `totals` of all, `slices_per_second`, `loaded_memory_mb`, `peak_memory_mb` and
        `peak_gpu_memory_mb`.

    Raises:
        LiverLoopError: a wrong argument, an image or weights that can't be used, a baseline that fails.
    """
    check_counts(arguments, "repeat", "size", "threads")
    settings, device = settings_from(arguments), device_from(arguments)
    if arguments.threads:
        set_threads(arguments.threads)
    weights = arguments.weights or ModelSource.of_app(settings, arguments.app).path
    plain = load_model(settings, weights, device)
    path = volume_file(arguments.volume, arguments.size, arguments.spacing)
    image = read_image(path)
    result: dict[str, Any] = {
        "benchmark": "infer",
        "volume": {"file": str(path), "shape": list(image.shape), "spacing_mm": list(image.spacing)},
        "machine": describe_machine(device),
        "model_version": plain.version,
        "batch_slices": settings.inference.batch_slices,
    }
    slices, voxels = len(image.axial()), image.array.size
    del image  # it does not belong to the memory of a loaded server

    against = None if arguments.no_baseline else arguments.against
    with tempfile.TemporaryDirectory() as folder, _baseline(against, settings, plain, voxels, Path(folder)) as rival:
        small = small_image(Path(folder))
        records: dict[str, list[_Record]] = {way: [] for way in (*WAYS, "baseline")}
        label, peaks = None, matrix_peaks(device)
        if rival:
            rival[1](small)
        for _ in tqdm(range(arguments.repeat), unit="round", leave=False):
            server = Server(settings, weights, device)
            result["engine"] = server.model.engine(settings).name
            label = _our_round(server, path, small, records)
            if rival:
                drop_from_page_cache(path)
                records["baseline"].append(rival[1](path))
            # What else the machine does slows this down as well: the fastest counts.
            peaks = {kind: max(peaks[kind], peak) for kind, peak in matrix_peaks(device).items()}
    result["ours"] = {way: _side(records[way], slices) for way in WAYS if records[way]}
    if rival:
        baseline = {"against": against, **rival[0], **_side(records["baseline"], slices)}
        result["baseline"] = baseline
        result["ratio"] = baseline["seconds"]["total"] / result["ours"]["cold"]["seconds"]["total"]
    assert label is not None
    seen = records["cold"][0]["pixels"]
    result["limit"] = limits(plain.network, len(settings.channels), peaks, label=label.axial(), seen=seen)
    if not arguments.no_agreement:
        plainly = settings.model_copy(
            update={"inference": settings.inference.model_copy(update={"cascade": False, "precision": "float32"})}
        )
        expected = segment(read_image(path), replace(plain, chosen=None), plainly)
        result["agreement"] = {
            "dice": _dice(expected.label, label, settings),
            "different_voxels": int(np.count_nonzero(expected.label.array != label.array)),
            "plain_seconds": sum(expected.seconds.values()),
        }
    return result


def _our_round(server: Server, path: Path, small: Path, records: Mapping[str, list[_Record]]) -> Volume:
    """A cold request, the same again from what was kept, and once more with nothing kept; the first one's label."""
    server.segment(small)
    drop_from_page_cache(path)
    record, label = server.segment(path)
    records["cold"].append(record)
    again, _ = server.segment(path)
    if again["cached"]:
        records["prefetched"].append(again)
    server.forget()
    records["warm"].append(server.segment(path)[0])
    return label


_Rival = tuple[dict[str, Any], Callable[[Path], _Record]]


@contextmanager
def _baseline(name: str | None, settings: Settings, model: Model, voxels: int, folder: Path) -> Iterator[_Rival | None]:
    """What the other side is, and what segments a file of so many voxels with it."""
    device = next(model.network.parameters()).device
    if name is None:
        yield None
    elif name == MONAI:
        yield (
            {"title": "MONAI's transforms and slice inferer with the same network, float32"},
            lambda path: timed(lambda: segment_with_monai(path, folder, model, settings), device),
        )
    else:
        with SampleApp(SAMPLE_APPS[name], device) as app:
            app.check_memory(voxels)
            about = app.about
            title = (
                f"MONAI Label {about['monailabel']}, radiology sample app, {about['model']}: {about['network']}, "
                f"{about['classes']} classes, {' x '.join(map(str, about['spacing_mm']))} mm, "
                f"window {' x '.join(map(str, about['roi']))}, random weights, float32"
            )
            yield {"title": title, **about}, app.segment


def _side(records: Sequence[_Record], slices: int) -> dict[str, Any]:
    middle = sorted((record["seconds"] for record in records), key=lambda seconds: seconds["total"])[len(records) // 2]
    stages = {stage: value for stage, value in middle.items() if stage != "total"}
    total = middle["total"]
    return {
        "seconds": {**stages, "other": max(0.0, total - sum(stages.values())), "total": total},
        "totals": [record["seconds"]["total"] for record in records],
        "slices_per_second": slices / total,
        "loaded_memory_mb": min(record["loaded_memory_mb"] for record in records),
        "peak_memory_mb": max(record["peak_memory_mb"] for record in records),
        "peak_gpu_memory_mb": max(record["peak_gpu_memory_mb"] for record in records),
    }


def volume_file(volume: str, size: int, spacing: tuple[float, float] | None) -> Path:
    """The image that `--volume` names: a phantom of so many slices, or a file or folder.

    Raises:
        LiverLoopError: there is neither, or no such phantom.
    """
    if volume.isdigit():
        return phantom_file(size, int(volume), spacing=spacing)
    if not Path(volume).exists():
        msg = f"--volume {volume}: neither a number of slices nor an existing image"
        raise NotFoundError(msg)
    return Path(volume)


def small_image(folder: Path) -> Path:
    """An image of other size that each side segments first: what a process imports and prepares once is no part of a
    request, what it prepares for an image of this size is.
    """
    path = folder / "small.nii.gz"
    hu = np.linspace(-200, 200, 32**3).astype(np.int16).reshape(32, 32, 32)
    write_image(path, Volume(hu, np.diag([-1.5, -1.5, 1.5, 1.0])))
    return path


def _dice(expected: Volume, found: Volume, settings: Settings) -> dict[str, float]:
    return {
        name: Overlap.of(expected.array == index, found.array == index).dice
        for name, index in settings.label_indices().items()
    }
