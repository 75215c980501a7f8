"""One auto-segmentation from file to file, stage by stage, beside MONAI's way of running the same network."""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lib.benchmarks.machine import describe_machine, peak_gpu_memory_mb, peak_memory_mb, reset_peak_memory
from lib.benchmarks.monai_segment import segment_with_monai
from lib.benchmarks.phantoms import phantom_file
from lib.errors import BadInputError, NotFoundError
from lib.inference.command_line import add_app_arguments, device_from, settings_from
from lib.inference.device import resolve_precision, set_threads
from lib.inference.files import Job, run_job
from lib.inference.model import Model, ModelSource, load_model
from lib.inference.predict import predict_axial
from lib.settings import Settings
from lib.volume import Volume
from lib.volume_io import read_image

SUMMARY = "one auto-segmentation, from the file on disk to the label on disk"
STAGES = ("read", "windows", "network", "postprocessing", "write")


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
        "--repeat", type=int, default=1, metavar="N", help="runs; the one of median total counts (default: %(default)s)"
    )
    parser.add_argument("--weights", type=Path, metavar="FILE", help="weights instead of the app's model in force")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores)")
    parser.add_argument(
        "--no-baseline", action="store_true", help="leave out MONAI's way, which takes longer than ours"
    )
    add_app_arguments(parser)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the benchmark.

    Returns:
        `volume`, `machine`, `model_version`, `precision`, `ours`, and `baseline` and `speedup` unless left out. Both
        sides hold `seconds` by stage and in `total`, `slices_per_second`, `peak_memory_mb`, `peak_gpu_memory_mb` and
        `totals`, the seconds of each run.

    Raises:
        LiverLoopError: a wrong argument, an image or weights that can't be used.
    """
    for name in ("repeat", "size", "threads"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            msg = f"--{name} must be at least 1, not {value}"
            raise BadInputError(msg)
    settings, device = settings_from(arguments), device_from(arguments)
    if arguments.threads:
        set_threads(arguments.threads)
    weights = arguments.weights or ModelSource.of_app(settings, arguments.app).path
    model = load_model(settings, weights, device)
    path = _volume(arguments.volume, arguments.size)
    image = read_image(path)
    _warm_up(image, model, settings)

    with tempfile.TemporaryDirectory() as folder:
        job = Job(path, Path(folder) / "label.nrrd")
        slices = len(image.axial())
        ours = _repeat(lambda: run_job(job, model, settings)["seconds"], slices, arguments.repeat, "LiverLoop")
        result = {
            "benchmark": "infer",
            "volume": {"file": str(path), "shape": list(image.shape), "spacing_mm": list(image.spacing)},
            "machine": describe_machine(device),
            "model_version": model.version,
            "precision": resolve_precision(device, settings.inference.precision),
            "batch_slices": settings.inference.batch_slices,
            "ours": ours,
        }
        if not arguments.no_baseline:
            baseline = _repeat(
                lambda: segment_with_monai(path, Path(folder), model, settings), slices, arguments.repeat, "MONAI"
            )
            result["baseline"] = baseline
            result["speedup"] = baseline["seconds"]["total"] / ours["seconds"]["total"]
    return result


def as_text(result: Mapping[str, Any]) -> str:
    """The result as a table."""
    machine, volume = result["machine"], result["volume"]
    shape = " x ".join(map(str, volume["shape"]))
    spacing = " x ".join(f"{step:.2f}" for step in volume["spacing_mm"])
    sides = {"LiverLoop": result["ours"]} | ({"MONAI float32": result["baseline"]} if "baseline" in result else {})
    lines = [
        f"{volume['file']}: {shape} voxels of {spacing} mm",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads; device {machine['device_name']}; "
        f"{result['precision']}, {result['batch_slices']} slices at once; torch {machine['torch']}",
        f"model {result['model_version']}",
        "",
        f"{'stage':<18}" + "".join(f"{name + ' ms':>18}{'share':>8}" for name in sides),
    ]
    for stage in (*STAGES, "total"):
        cells = (
            (side["seconds"][stage] * 1000, side["seconds"][stage] / side["seconds"]["total"])
            for side in sides.values()
        )
        lines.append(f"{stage:<18}" + "".join(f"{milliseconds:>18.1f}{share:>8.1%}" for milliseconds, share in cells))
    for key, title in (
        ("slices_per_second", "slices/s"),
        ("peak_memory_mb", "peak memory MB"),
        ("peak_gpu_memory_mb", "peak GPU MB"),
    ):
        lines.append(f"{title:<18}" + "".join(f"{side[key]:>18.1f}{'':>8}" for side in sides.values()))
    if "speedup" in result:
        lines += ["", f"MONAI's way takes {result['speedup']:.2f} times as long."]
    return "\n".join(line.rstrip() for line in lines)


def _volume(volume: str, size: int) -> Path:
    if volume.isdigit():
        return phantom_file(size, int(volume))
    if not Path(volume).exists():
        msg = f"--volume {volume}: neither a number of slices nor an existing image"
        raise NotFoundError(msg)
    return Path(volume)


def _warm_up(image: Volume, model: Model, settings: Settings) -> None:
    """The first pass through a network chooses kernels and allocates memory; it is not what users wait for."""
    few = image.axial()[: settings.inference.batch_slices]
    predict_axial(
        model.engine(settings),
        few,
        batch_slices=settings.inference.batch_slices,
    )


def _repeat(run: Callable[[], Mapping[str, float]], slices: int, times: int, name: str) -> dict[str, Any]:
    reset_peak_memory()
    runs = []
    for _ in tqdm(range(times), desc=name, unit="run", leave=False):
        seconds = {stage: value for stage, value in run().items() if stage in STAGES}
        runs.append({**seconds, "total": sum(seconds.values())})
    middle = sorted(runs, key=lambda seconds: seconds["total"])[len(runs) // 2]
    return {
        "seconds": middle,
        "totals": [seconds["total"] for seconds in runs],
        "slices_per_second": slices / middle["total"],
        "peak_memory_mb": peak_memory_mb(),
        "peak_gpu_memory_mb": peak_gpu_memory_mb(),
    }
