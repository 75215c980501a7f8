"""Many annotators who ask at once: how long each waits beside one who is alone, and what memory that takes."""

import argparse
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lib.benchmarks.counts import check_counts
from lib.benchmarks.machine import describe_machine, memory_mb, peak_memory_mb, reset_peak_memory
from lib.benchmarks.phantoms import phantom_file
from lib.benchmarks.served import Server
from lib.inference.command_line import add_app_arguments, device_from, settings_from
from lib.inference.device import set_threads
from lib.inference.model import ModelSource
from lib.volume_io import read_grid

SUMMARY = "many annotators at once beside one alone"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `scripts/benchmark.py clients`."""
    parser.add_argument("--clients", type=int, default=8, metavar="N", help="how many (default: %(default)s)")
    parser.add_argument(
        "--slices", type=int, default=100, metavar="N", help="of the phantom that each asks for (default: %(default)s)"
    )
    parser.add_argument(
        "--size", type=int, default=512, metavar="N", help="columns and rows of the phantom (default: %(default)s)"
    )
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="rounds (default: %(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores)")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="weights instead of the app's model in force")
    add_app_arguments(parser)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """In rounds, let one client ask, then all at once, each for an image that was not segmented before.

    Requests are worked off as the server does, through MONAI Label's inference task from the file on disk to an
    uncompressed `.nrrd`; only HTTP is left out.

    Returns:
        `volume`, `machine`, `model_version`, `engine`, `clients`; `alone`: seconds of the one in each round;
        `together`: of each round, the seconds of all, ascending; `last` by alone: `times_alone` (the median over the
        rounds of the last by the one); `loaded_memory_mb` before the first round; of each round `memory_mb` after it
        and `peak_memory_mb` with one and with all.

    Raises:
        LiverLoopError: a wrong argument, or weights that can't be used.
    """
    check_counts(arguments, "clients", "slices", "size", "repeat", "threads")
    settings, device = settings_from(arguments), device_from(arguments)
    if arguments.threads:
        set_threads(arguments.threads)
    weights = arguments.weights or ModelSource.of_app(settings, arguments.app).path
    server = Server(settings, weights, device)
    phantom = phantom_file(arguments.size, arguments.slices)
    alone, together, memory, peaks = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        images = [Path(folder) / f"ct_{number}.nii.gz" for number in range(arguments.clients)]
        for image in images:
            shutil.copyfile(phantom, image)  # each its own: nobody waits for another's result
        server.segment(images[0])
        loaded = memory_mb()
        for _ in tqdm(range(arguments.repeat), unit="round", leave=False):
            server.forget()
            reset_peak_memory()
            alone.append(_ask(server, images[:1])[0])
            one = peak_memory_mb()
            server.forget()
            reset_peak_memory()
            together.append(_ask(server, images))
            peaks.append([one, peak_memory_mb()])
            memory.append(memory_mb())
        model = server.model
    grid = read_grid(phantom)
    return {
        "benchmark": "clients",
        "volume": {"shape": list(grid.shape)},
        "machine": describe_machine(device),
        "model_version": model.version,
        "engine": model.engine(settings).name,
        "clients": arguments.clients,
        "alone": alone,
        "together": together,
        "times_alone": statistics.median(all_[-1] / one for one, all_ in zip(alone, together, strict=True)),
        "loaded_memory_mb": loaded,
        "memory_mb": memory,
        "peak_memory_mb": peaks,
    }


def _ask(server: Server, images: Sequence[Path]) -> list[float]:
    """Seconds until each client has an answer, ascending; all ask in the same moment."""
    start = threading.Barrier(len(images))

    def ask(image: Path) -> float:
        start.wait()
        begin = time.perf_counter()
        server.answer(image, client=image.name).unlink()
        return time.perf_counter() - begin

    with ThreadPoolExecutor(len(images)) as pool:
        return sorted(pool.map(ask, images))


def as_text(result: Mapping[str, Any]) -> str:
    """The result as a table."""
    machine, count = result["machine"], result["clients"]
    lines = [
        f"{' x '.join(map(str, result['volume']['shape']))} voxels each; {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['threads']} threads, load {machine['load']}; device {machine['device']}; torch {machine['torch']}",
        f"model {result['model_version']} on {result['engine']}",
        "",
        f"{'round':<8}{'alone s':>9}{f'first of {count} s':>16}{'median s':>10}{'last s':>9}{'last by alone':>15}"
        f"{'memory MB':>11}{'peak, one':>11}{f'peak, {count}':>11}",
    ]
    rows = zip(result["alone"], result["together"], result["memory_mb"], result["peak_memory_mb"], strict=True)
    for number, (one, all_, memory, (peak_one, peak_all)) in enumerate(rows, start=1):
        lines.append(
            f"{number:<8}{one:>9.2f}{all_[0]:>16.2f}{statistics.median(all_):>10.2f}{all_[-1]:>9.2f}"
            f"{all_[-1] / one:>15.2f}{memory:>11.0f}{peak_one:>11.0f}{peak_all:>11.0f}"
        )
    lines += [
        "",
        f"The last of {count} waits {result['times_alone']:.2f} times as long as one who is alone (median); "
        f"{result['loaded_memory_mb']:.0f} MB before.",
    ]
    return "\n".join(lines)
