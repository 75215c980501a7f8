"""How fast a training goes: its loading, its steps, whole epochs, beside MONAI Label's way of loading."""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from lib.benchmarks.counts import check_counts
from lib.benchmarks.machine import describe_machine, peak_gpu_memory_mb, peak_memory_mb, reset_peak_memory
from lib.benchmarks.phantoms import phantom_copies
from lib.benchmarks.stock_training import StockBatches
from lib.inference.command_line import add_app_arguments, device_from, settings_from
from lib.inference.device import resolve_precision, set_threads
from lib.inference.model import new_network
from lib.settings import Settings
from lib.training.batches import Batch, steps_per_epoch, training_batches
from lib.training.cache import open_cache, size_of
from lib.training.cases import CaseFiles
from lib.training.decoded import Case
from lib.training.fit import build_optimizer, fit, train_step
from lib.training.loss import build_loss

SUMMARY = "a training: loading with augmentation, steps, whole epochs"
_READY = 8  # batches of the steps on ready tensors
_GOAL = 0.9  # of the steps' own throughput


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `scripts/benchmark.py train`."""
    parser.add_argument("--cases", type=int, default=4, metavar="N", help="to train on (default: %(default)s)")
    parser.add_argument("--size", type=int, default=512, metavar="N", help="their columns and rows (%(default)s)")
    parser.add_argument("--slices", type=int, default=100, metavar="N", help="their slices (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=50, metavar="N", help="of an epoch (default: %(default)s)")
    parser.add_argument(
        "--repeat", type=int, default=3, metavar="N", help="epochs; medians count (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: as training.threads)")
    parser.add_argument("--no-baseline", action="store_true", help="leave out MONAI Label's way of loading")
    add_app_arguments(parser)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the benchmark.

    Rounds of steps on ready tensors, of loading alone and of whole epochs follow each other, so that a noisy machine
    disturbs all of them alike. The cases are copies of one phantom whose labels differ by a voxel, so that each is
    decoded by itself.

    Returns:
        `cases`, `machine`, `precision`, `recipe`; `decoding` (`seconds_per_case`, `mb_per_case`); `slices_per_second`
        of `loading`, `step` and `epoch`, and unless left out `stock_loading` and `stock_epoch`; `rounds`, the same of
        each round; `ratio`, the median of epoch to step over the rounds; `peak_memory_mb` of decoding and training,
        `peak_gpu_memory_mb`, and `stock_peak_memory_mb`.

    Raises:
        BadInputError: a wrong argument.
    """
    check_counts(arguments, "cases", "size", "slices", "steps", "repeat", "threads")
    settings, device = settings_from(arguments), device_from(arguments)
    # As many slices of each case as make an epoch of that many steps.
    recipe = settings.training
    each = -(-arguments.steps * recipe.batch_size // arguments.cases)
    recipe = recipe.model_copy(update={"slices_per_case": each, "max_epochs": 1})
    settings = settings.model_copy(update={"training": recipe})
    if device.type == "cpu" or arguments.threads:
        set_threads(arguments.threads or recipe.threads)
    with tempfile.TemporaryDirectory() as temporary:
        files = phantom_copies(arguments.cases, arguments.size, arguments.slices, Path(temporary) / "studies")
        reset_peak_memory()
        begin = time.perf_counter()
        with open_cache(Path(temporary) / "cache", settings.classes, float("inf")) as cache:
            cases = [cache.case(case) for case in tqdm(files, "decoding", leave=False)]
            seconds = time.perf_counter() - begin
            return {
                "benchmark": "train",
                "cases": {"count": arguments.cases, "shape": [arguments.size, arguments.size, arguments.slices]},
                "machine": describe_machine(device),
                "precision": resolve_precision(device, "auto"),
                "decoding": {
                    "seconds_per_case": seconds / len(files),
                    "mb_per_case": size_of(cache.folder) / len(files) / 1e6,
                },
                **_rounds(cases, () if arguments.no_baseline else files, settings, device, arguments.repeat),
            }


def as_text(result: Mapping[str, Any]) -> str:
    """The result as a table."""
    machine, recipe, decoding, speeds = (result[key] for key in ("machine", "recipe", "decoding", "slices_per_second"))
    shape = " x ".join(map(str, result["cases"]["shape"]))
    titles = {
        "loading": "loading and augmenting alone",
        "step": "step alone, on ready tensors",
        "epoch": "whole epoch",
        "stock_loading": "MONAI Label's loading alone",
        "stock_epoch": "MONAI Label's loading and the same step",
    }
    lines = [
        f"{result['cases']['count']} cases of {shape} voxels; epochs of {recipe['steps']} steps of {recipe['batch']} "
        f"patches of {recipe['patch']} x {recipe['patch']}",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads; device {machine['device_name']}; "
        f"{result['precision']}; torch {machine['torch']}",
        f"decoding: {decoding['seconds_per_case']:.1f} s and {decoding['mb_per_case']:.0f} MB on disk for a case",
        "",
        f"{'':<42}{'slices/s':>10}",
        *(f"{title:<42}{speeds[key]:>10.1f}" for key, title in titles.items() if key in speeds),
        "",
        f"A whole epoch reaches {result['ratio']:.1%} of the steps' own speed (goal: {_GOAL:.0%}).",
    ]
    if "stock_epoch" in speeds:
        lines.append(
            f"It is {speeds['epoch'] / speeds['stock_epoch']:.2f} times as fast as with MONAI Label's loading."
        )
    memory = f"peak memory: {result['peak_memory_mb']:.0f} MB, decoding included"
    if result["peak_gpu_memory_mb"]:
        memory += f"; {result['peak_gpu_memory_mb']:.0f} MB on the GPU"
    if "stock_peak_memory_mb" in result:
        memory += f"; with MONAI Label's cached volumes {result['stock_peak_memory_mb']:.0f} MB"
    return "\n".join([*lines, memory])


class _Trainee:
    """A network that is trained by single steps.

    Args:
        settings: network and recipe.
        device: to train on.
    """

    def __init__(self, settings: Settings, device: torch.device) -> None:
        self._network = new_network(settings).to(device).to(memory_format=torch.channels_last).train()
        self._loss = build_loss(settings.training, device)
        self._optimizer = build_optimizer(self._network, settings.training)

    def slices_per_second(self, batches: Iterator[Batch], steps: int) -> float:
        """Of that many steps, after one that warms up."""
        begin, slices = 0.0, 0
        for number, batch in enumerate(islice(batches, steps + 1)):
            loss, _, _ = train_step(self._network, self._loss, self._optimizer, batch, "auto")
            if number in {0, steps}:
                loss.item()  # waits for the device
            if number == 0:
                begin = time.perf_counter()
            else:
                slices += len(batch.image)
        return slices / (time.perf_counter() - begin)


def _rounds(
    cases: Sequence[Case],
    files: Sequence[CaseFiles],
    settings: Settings,
    device: torch.device,
    rounds: int,
) -> dict[str, Any]:
    """Our figures; those of MONAI Label's loading, too, if there are `files` to load."""
    recipe = settings.training
    steps = steps_per_epoch(cases, settings)
    trainee = _Trainee(settings, device)
    ready = list(islice(_batches(cases, settings, device), _READY))
    found: dict[str, list[float]] = {"loading": [], "step": [], "epoch": []}
    stock: StockBatches | None = None
    figures: dict[str, Any] = {}
    for number in tqdm(range(rounds), "rounds", leave=False):
        found["step"].append(trainee.slices_per_second(cycle(ready), steps))
        found["loading"].append(_loading_speed(_batches(cases, settings, device), steps))
        found["epoch"].append(_epoch_speed(cases, settings, device))
        if number == 0:  # before others take memory
            figures |= {"peak_memory_mb": peak_memory_mb(), "peak_gpu_memory_mb": peak_gpu_memory_mb()}
        if files:
            stock = stock or StockBatches(files, settings, device)
            few = max(3, steps // 4)  # it is slow
            found.setdefault("stock_loading", []).append(_loading_speed(iter(stock), few))
            found.setdefault("stock_epoch", []).append(trainee.slices_per_second(iter(stock), few))
    if stock:
        figures["stock_peak_memory_mb"] = peak_memory_mb()
    ratios = [epoch / step for epoch, step in zip(found["epoch"], found["step"], strict=True)]
    speeds = {name: statistics.median(values) for name, values in found.items()}
    return {
        "recipe": {"batch": recipe.batch_size, "patch": recipe.patch_size, "steps": steps},
        "slices_per_second": speeds,
        "rounds": found,
        "ratio": statistics.median(ratios),
        **figures,
    }


def _batches(cases: Sequence[Case], settings: Settings, device: torch.device) -> Iterator[Batch]:
    batches = training_batches(cases, settings, device=device)
    try:
        yield from batches
    finally:
        batches.close()


def _loading_speed(batches: Iterator[Batch], count: int) -> float:
    begin, slices = time.perf_counter(), 0
    for batch in islice(batches, count):
        slices += len(batch.target)
        last = batch.image
    last.flatten()[:1].cpu()  # waits for the device
    return slices / (time.perf_counter() - begin)


def _epoch_speed(cases: Sequence[Case], settings: Settings, device: torch.device) -> float:
    """An epoch as trainings do it, with figures, checkpoints and curves."""
    network = new_network(settings).to(device).to(memory_format=torch.channels_last)
    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        fit(
            network, cases, [], settings, Path(folder),
            on_epoch=lambda _: times.append(time.perf_counter()),
        )  # fmt: skip
    return len(cases) * settings.training.slices_per_case / (times[1] - times[0])
