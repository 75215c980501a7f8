"""Many cases from file to file, beside what the network alone would need and beside one case after the other."""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lib.benchmarks.counts import check_counts
from lib.benchmarks.machine import describe_machine, peak_memory_mb, reset_peak_memory
from lib.benchmarks.phantoms import phantom_file
from lib.errors import BadInputError
from lib.inference.command_line import add_app_arguments, device_from, settings_from
from lib.inference.device import set_threads
from lib.inference.engine import Engine
from lib.inference.files import plan_jobs, run_job
from lib.inference.model import ModelSource, load_model
from lib.inference.observer import Seen
from lib.inference.overlapped import segment_all, workers_for
from lib.inference.records import Recipe
from lib.inference.segment import predict
from lib.inference.stopwatch import Stopwatch
from lib.volume_io import read_image

SUMMARY = "many auto-segmentations at once, beside the network's own speed on slices that are ready"


class Recorder:
    """An engine that keeps what it is given, to give it again.

    Args:
        engine: that does the work.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._given: list[tuple[NDArray[np.int16], NDArray[np.int16]]] = []
        self.name, self.device = engine.name, engine.device

    def __call__(self, hu: NDArray[np.int16], levels: NDArray[np.int16], watch: Stopwatch) -> NDArray[np.uint8]:
        """See `lib.inference.engine.Engine`."""
        self._given.append((hu, levels))
        return self._engine(hu, levels, watch)

    def seen(self, hu: NDArray[np.int16], levels: NDArray[np.int16], watch: Stopwatch) -> Seen:
        """See there; not kept."""
        return self._engine.seen(hu, levels, watch)

    def replay(self) -> float:
        """Seconds that the engine alone needs for all that it was given."""
        start = time.perf_counter()
        for hu, levels in self._given:
            self._engine(hu, levels, Stopwatch())
        return time.perf_counter() - start


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `scripts/benchmark.py batch`."""
    parser.add_argument("--cases", type=int, default=6, metavar="N", help="how many (default: %(default)s)")
    parser.add_argument(
        "--slices", type=int, default=200, metavar="N", help="of the phantom that each case is (default: %(default)s)"
    )
    parser.add_argument(
        "--size", type=int, default=512, metavar="N", help="columns and rows of the phantom (default: %(default)s)"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="cases at once (default: as scripts/infer.py)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads of the network (default: all cores)")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="weights instead of the app's model in force")
    add_app_arguments(parser)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the benchmark.

    The engine is given the very patches of a case, ready in memory, before, between and after the two other ways;
    their mean counts, so that what else the machine does weighs alike on all.

    Returns:
        `volume`, `machine`, `model_version`, `engine`, `cases`, `workers`, `slices_per_second` and `peak_memory_mb` by
        way (`engine alone`, `one by one`, `overlapped`) and `share`, the overlapped way's speed by the engine's.

    Raises:
        LiverLoopError: a wrong argument or weights that can't be used.
    """
    check_counts(arguments, "cases", "slices", "size", "workers", "threads")
    settings, device = settings_from(arguments), device_from(arguments)
    if arguments.threads:
        set_threads(arguments.threads)
    weights = arguments.weights or ModelSource.of_app(settings, arguments.app).path
    model = load_model(settings, weights, device).hastened(settings)
    recipe, workers = Recipe.of(model, weights, settings), arguments.workers or workers_for(device)
    phantom = phantom_file(arguments.size, arguments.slices).resolve()
    image = read_image(phantom)
    recorder = Recorder(model.engine(settings))
    predict(image, replace(model, chosen=recorder), settings, Stopwatch())  # the first pass prepares the engine, too

    slices = arguments.cases * len(image.axial())
    seconds, memory = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        images = [Path(folder) / f"case_{number}.nii.gz" for number in range(arguments.cases)]
        for path in images:
            path.symlink_to(phantom)
        jobs = plan_jobs(images, Path(folder) / "labels", ".nii.gz")
        alone = [recorder.replay()]
        ways: dict[str, Callable[[], list[dict[str, Any]]]] = {
            "one by one": lambda: [run_job(job, model, settings) for job in jobs],
            "overlapped": lambda: list(segment_all(jobs, model, settings, recipe, workers=workers)),
        }
        for way, run in tqdm(ways.items(), unit="way", leave=False):
            reset_peak_memory()
            start = time.perf_counter()
            failed = [record["error"] for record in run() if "error" in record]
            seconds[way], memory[way] = time.perf_counter() - start, peak_memory_mb()
            if failed:
                raise BadInputError(failed[0])
            alone.append(recorder.replay())
    speed = {
        "engine alone": slices / (arguments.cases * mean(alone)),
        **{way: slices / value for way, value in seconds.items()},
    }
    return {
        "benchmark": "batch",
        "volume": {"file": str(phantom), "shape": list(image.shape), "spacing_mm": list(image.spacing)},
        "machine": describe_machine(device),
        "model_version": model.version,
        "engine": recorder.name,
        "cases": arguments.cases,
        "workers": workers,
        "slices_per_second": speed,
        "peak_memory_mb": memory,
        "share": speed["overlapped"] / speed["engine alone"],
    }


def as_text(result: Mapping[str, Any]) -> str:
    """The result as a table."""
    machine, volume = result["machine"], result["volume"]
    lines = [
        f"{result['cases']} cases of {' x '.join(map(str, volume['shape']))} voxels, {result['workers']} at once",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads; {result['engine']}; "
        f"torch {machine['torch']}",
        f"model {result['model_version']}",
        "",
        f"{'':<16}{'slices/s':>10}{'peak memory MB':>18}",
    ]
    for way, speed in result["slices_per_second"].items():
        memory = result["peak_memory_mb"].get(way)
        lines.append(f"{way:<16}{speed:>10.1f}" + (f"{memory:>18.0f}" if memory else ""))
    return "\n".join([*lines, "", f"Overlapped reaches {result['share']:.0%} of what the engine alone does."])
