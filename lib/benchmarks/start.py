"""How long a server takes to its first answer, beside plain MONAI Label with the same app."""

import argparse
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from lib.benchmarks.counts import check_counts
from lib.benchmarks.machine import describe_machine
from lib.benchmarks.server_process import PLAIN, SERVE, ServerProcess
from lib.benchmarks.tiny_images import make_images
from lib.inference.command_line import add_app_arguments

SUMMARY = "a server's start beside plain MONAI Label's"
_SIDES = {"scripts/serve": SERVE, "monailabel start_server": PLAIN}
_IMAGES = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `scripts/benchmark.py start`."""
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="rounds (default: %(default)s)")
    add_app_arguments(parser, device=False)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """In rounds, start a server of either side on ten tiny images, and end it once it is ready.

    Both run the same app, so that they differ in the program that imports and serves it.

    Returns:
        `machine`; of each of `sides`: `seconds` to the first answer and `cpu_seconds` until then, of all rounds;
        `ratio`: the median seconds of plain MONAI Label by ours.

    Raises:
        LiverLoopError: a wrong argument, or a server that does not start.
    """
    check_counts(arguments, "repeat")
    sides: dict[str, dict[str, list[float]]] = {name: {"seconds": [], "cpu_seconds": []} for name in _SIDES}
    with tqdm(total=arguments.repeat * len(_SIDES), unit="start", leave=False) as bar:
        for _ in range(arguments.repeat):
            for name, command in _SIDES.items():
                seconds, cpu_seconds = _start(arguments, command)
                sides[name]["seconds"].append(seconds)
                sides[name]["cpu_seconds"].append(cpu_seconds)
                bar.update()
    ours, plain = (statistics.median(side["seconds"]) for side in sides.values())
    return {
        "benchmark": "start",
        "machine": describe_machine(torch.device("cpu")),
        "images": _IMAGES,
        "sides": sides,
        "ratio": plain / ours,
    }


def _start(arguments: argparse.Namespace, command: tuple[str, ...]) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        make_images(Path(folder) / "studies", _IMAGES, lambda _: None)
        with ServerProcess(Path(folder), arguments.app.resolve(), dict(arguments.conf), command) as server:
            times = server.process.cpu_times()
            return server.start_s, times.user + times.system


def as_text(result: Mapping[str, Any]) -> str:
    """The result as a table."""
    machine = result["machine"]
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, load {machine['load']}; torch {machine['torch']}; "
        f"{result['images']} images",
        "",
        f"{'to the first answer, medians':<30}{'s':>8}{'CPU s':>8}",
    ]
    for name, side in result["sides"].items():
        lines.append(
            f"{name:<30}{statistics.median(side['seconds']):>8.1f}{statistics.median(side['cpu_seconds']):>8.1f}"
        )
    lines += ["", f"ratio: plain MONAI Label takes {result['ratio']:.2f} times as long with the same app."]
    return "\n".join(lines)
