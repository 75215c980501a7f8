"""What runs the network, one beside the other: seconds per slice, and whether the labels are the same."""

import argparse
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from lib.benchmarks.machine import describe_machine
from lib.errors import BadInputError
from lib.inference.agreement import Agreement
from lib.inference.choice import candidates_for, weights_digest, why_no_int8
from lib.inference.command_line import add_app_arguments, device_from, settings_from
from lib.inference.device import set_threads
from lib.inference.engine import STRIDE, Engine, TorchEngine
from lib.inference.int8 import accepted_int8
from lib.inference.model import ModelSource, load_model
from lib.inference.stopwatch import Stopwatch
from lib.phantom import make_phantom
from lib.transforms.windowing import gray_levels

SUMMARY = "the engines that can run the network on this machine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `scripts/benchmark.py engines`."""
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=[512, 320],
        metavar="N",
        help="columns and rows of the slices (default: 512 320)",
    )
    parser.add_argument("--repeat", type=int, default=7, metavar="N", help="rounds; medians count (default: 7)")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="weights instead of the app's model in force")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores)")
    add_app_arguments(parser)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Let all engines segment `inference.batch_slices` slices of a phantom, in turns.

    Returns:
        `machine`, `model_version`, `batch_slices`, `repeat`; `engines`: by name, `preparing` in seconds and, by size,
        `seconds` per slice (median), `fastest`, `processor` (time of the CPU per thread, which other programs don't
        stretch), and `pixels` and `dice` against PyTorch in float32.

    Raises:
        LiverLoopError: a wrong argument, or weights that can't be used.
    """
    for name, least in (("repeat", 1), ("threads", 1)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            msg = f"--{name} must be at least {least}, not {value}"
            raise BadInputError(msg)
    wrong = [size for size in arguments.sizes if size < STRIDE or size % STRIDE]
    if wrong:
        msg = f"--sizes must be multiples of {STRIDE}, not {wrong[0]}"
        raise BadInputError(msg)
    settings, device = settings_from(arguments), device_from(arguments)
    if arguments.threads:
        set_threads(arguments.threads)
    weights = arguments.weights or ModelSource.of_app(settings, arguments.app).path
    model = load_model(settings, weights, device)
    reference = TorchEngine(model.network, settings.blend_channels(), "float32")
    engines: dict[str, Engine] = {}
    report: dict[str, Any] = {}
    digest = weights_digest(model.network)
    int8 = None if why_no_int8(settings) else accepted_int8(model.folder, digest, model.version)
    for candidate in candidates_for(model.network, settings, describe_machine(device)["threads"], int8):
        start = time.perf_counter()
        engines[candidate.name] = candidate.build()
        report[candidate.name] = {"preparing": time.perf_counter() - start, "sizes": {}}
    batch = settings.inference.batch_slices
    for size in arguments.sizes:
        image = make_phantom(1, shape=(size, size, batch), tumors=4, orientation="LPS").image
        hu = np.ascontiguousarray(image.axial())
        levels = np.stack([gray_levels(one) for one in hu])
        expected = reference(hu, levels, Stopwatch())
        found = {name: engine(hu, levels, Stopwatch()) for name, engine in engines.items()}
        taken: dict[str, list[float]] = {name: [] for name in engines}
        worked: dict[str, list[float]] = {name: [] for name in engines}
        for _ in tqdm(range(arguments.repeat), desc=f"{size} x {size}", unit="round", leave=False):
            for name, engine in engines.items():
                start, processor = time.perf_counter(), time.process_time()
                engine(hu, levels, Stopwatch())
                worked[name].append((time.process_time() - processor) / torch.get_num_threads() / batch)
                taken[name].append((time.perf_counter() - start) / batch)
        for name, seconds in taken.items():
            alike = Agreement.of(expected, found[name], settings.classes)
            report[name]["sizes"][str(size)] = {
                "seconds": statistics.median(seconds),
                "fastest": min(seconds),
                "processor": statistics.median(worked[name]),
                "pixels": alike.pixels,
                "dice": list(alike.dice),
            }
    return {
        "benchmark": "engines",
        "machine": describe_machine(device),
        "model_version": model.version,
        "batch_slices": batch,
        "repeat": arguments.repeat,
        "engines": report,
    }


def as_text(result: Mapping[str, Any]) -> str:
    """The result as a table."""
    machine = result["machine"]
    sizes = list(next(iter(result["engines"].values()))["sizes"])
    width = max(map(len, result["engines"])) + 2
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads; torch {machine['torch']}",
        f"model {result['model_version']}; {result['batch_slices']} slices at once; ms per slice, median (fastest) of "
        f"{result['repeat']} rounds, and the CPU's per thread; least Dice of a class against PyTorch float32",
        "",
        f"{'engine':<{width}}{'preparing':>10}"
        + "".join(f"{f'{size} x {size}':>20}{'CPU':>8}{'Dice':>9}" for size in sizes),
    ]
    for name, engine in result["engines"].items():
        row = f"{name:<{width}}{engine['preparing']:>8.2f} s"
        for size in sizes:
            one = engine["sizes"][size]
            row += f"{1000 * one['seconds']:>12.1f} ({1000 * one['fastest']:>5.1f})"
            row += f"{1000 * one['processor']:>8.1f}"
            row += f"{min(dice for dice in one['dice'] if dice is not None):>9.4f}"
        lines.append(row)
    return "\n".join(lines)
