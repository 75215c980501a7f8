"""How long the store takes beside MONAI Label's, from a thousand images to a million."""

import argparse
import json
import sqlite3
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from importlib.metadata import version
from operator import itemgetter
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tqdm import tqdm

from lib.benchmarks.counts import check_counts
from lib.benchmarks.machine import describe_machine
from lib.benchmarks.store_worker import MOST_ASKED
from lib.benchmarks.tiny_images import label, make_images
from lib.errors import BadInputError, LiverLoopError
from lib.volume_io import write_label

SUMMARY = "the store of images and labels beside MONAI Label's, with up to a million images"
OPERATIONS = {
    "adoption": "first start",
    "start": "start",
    "next_sample": "next_sample",
    "save_label": "save_label",
    "file_copy": "  its file copy",
    "save_apart": "  apart from that",
    "status": "status",
    "rescan": "rescan",
    "next_sample_during_rescan": "  next_sample then",
    "disk": "4 KB to the disk",
}
_ROOT = Path(__file__).resolve().parents[2]
_ROUNDS = 3  # processes that start each store anew, and as many that look through its folder
_MOST_MS, _MOST_GROWTH, _MOST_START_S, _MOST_MEMORY_MB = 20.0, 2.0, 5.0, 1000.0  # the goals


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `scripts/benchmark.py store`."""
    parser.add_argument(
        "--images",
        type=int,
        nargs="+",
        default=[1_000, 20_000, 1_000_000],
        metavar="N",
        help="sizes of the studies folder; a million images take 6 GB and half an hour (default: 1000 20000 1000000)",
    )
    parser.add_argument(
        "--baseline-most",
        type=int,
        default=20_000,
        metavar="N",
        help="leave out MONAI Label's store for more images, where it takes minutes (default: %(default)s)",
    )
    parser.add_argument(
        "--repeat", type=int, default=60, metavar="N", help="how often clients ask and save (default: %(default)s)"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        metavar="DIR",
        help="make the images here, on the disk to be measured, and keep them for the next time (default: a temporary "
        "folder that is removed)",
    )


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the benchmark.

    Ours hands out images by its default strategy, all images having been scored; theirs at random, as it does best.
    Clients' requests are measured in all sizes in turn, so that a machine that is busy for a while is so for all of
    them; starts and looks through the folder several times over, each in a new process.

    Returns:
        `machine`, `sqlite`, `monailabel`, `repeat`, `goals` (see `goals`), and `sizes`: for each its number of
        `images`, `ours`, and `stock` and `ratios` (theirs by ours) unless left out. Both sides hold what `spread` gives
        for each of `OPERATIONS`, and `memory_mb` with `imported`, before the store was opened, and `peak`.

    Raises:
        LiverLoopError: a wrong argument, a disk that is too small, a measurement that failed.
    """
    _check(arguments)
    sizes = sorted(set(arguments.images))
    if arguments.folder:
        arguments.folder.mkdir(parents=True, exist_ok=True)
    with nullcontext(arguments.folder) if arguments.folder else TemporaryDirectory(prefix="liverloop-") as base:
        # A folder for each size and side, as each store leaves something in it.
        folders = {
            (images, side): Path(base).resolve() / f"store-{images}-{side}"
            for images in sizes
            for side in (("ours", "stock") if images <= arguments.baseline_most else ("ours",))
        }
        for (images, _), folder in folders.items():
            with tqdm(total=images, desc=f"making {images:,} images", unit="image", leave=False) as bar:
                make_images(folder, images, bar.update)
        found = _measured(folders, Path(base).resolve(), arguments.repeat)
    table = [
        _size(images, {side: measured for (size, side), measured in found.items() if size == images})
        for images in sizes
    ]
    return {
        "benchmark": "store",
        "machine": describe_machine(torch.device("cpu")),
        "sqlite": sqlite3.sqlite_version,
        "monailabel": version("monailabel"),
        "repeat": arguments.repeat,
        "sizes": table,
        "goals": goals(table),
    }


def spread(taken: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Median and 90th percentile (nearest rank) of the seconds, median of the seconds of the CPU, all in ms.

    Args:
        taken: `(seconds, seconds of the CPU)` for each time.
    """
    seconds = sorted(wall for wall, _ in taken)
    return {
        "median_ms": median(seconds) * 1000,
        "p90_ms": seconds[-(-len(seconds) * 9 // 10) - 1] * 1000,
        "cpu_ms": median(cpu for _, cpu in taken) * 1000,
        "count": len(seconds),
    }


def goals(sizes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What our store is to reach at the largest size, the growth being that since the smallest.

    Args:
        sizes: as `measure` gives them, from small to large.

    Returns:
        `goal` in words, the `measured` value, the `limit` it must not exceed, their `unit`, and whether it is `met`.
    """
    small, large = sizes[0], sizes[-1]
    at = f"at {large['images']:,} images"
    found: list[tuple[str, float, float, str]] = []
    for name, key in (("next_sample", "next_sample"), ("save_label apart from its file copy", "save_apart")):
        now, before = large["ours"][key]["median_ms"], small["ours"][key]["median_ms"]
        found.append((f"{name} {at}", now, _MOST_MS, "ms"))
        if large is not small:
            growth = now / before if before > 0 else float("inf")
            found.append((f"{name} {at} by that at {small['images']:,}", growth, _MOST_GROWTH, "times"))
    found.append((f"start {at} known already", large["ours"]["start"]["median_ms"] / 1000, _MOST_START_S, "s"))
    found.append((f"memory {at}, at its peak", large["ours"]["memory_mb"]["peak"], _MOST_MEMORY_MB, "MB"))
    return [
        {"goal": goal, "measured": value, "limit": limit, "unit": unit, "met": value <= limit}
        for goal, value, limit, unit in found
    ]


def as_text(result: Mapping[str, Any]) -> str:
    """The result as tables."""
    machine = result["machine"]
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores; Python {machine['python']}, SQLite {result['sqlite']}",
        f"LiverLoop's store beside the LocalDatastore of MONAI Label {result['monailabel']}",
        "in ms: the median, the CPU's part of it, the 90th percentile",
    ]
    for size in result["sizes"]:
        lines += ["", *_table(size)]
    width = max(len(goal["goal"]) for goal in result["goals"])
    lines += ["", f"{'goal':<{width}}{'measured':>16}{'at most':>14}"]
    for goal in result["goals"]:
        measured, limit = f"{goal['measured']:.2f} {goal['unit']}", f"{goal['limit']:g} {goal['unit']}"
        lines.append(f"{goal['goal']:<{width}}{measured:>16}{limit:>14}  {'met' if goal['met'] else 'NOT met'}")
    return "\n".join(lines)


def _check(arguments: argparse.Namespace) -> None:
    check_counts(arguments, "repeat")
    # So that free images are left for every client that asks.
    fewest = arguments.repeat + _ROUNDS * (MOST_ASKED + 2)
    if min(arguments.images) < fewest:
        msg = f"--images must be at least {fewest} with --repeat {arguments.repeat}, not {min(arguments.images)}"
        raise BadInputError(msg)


class _Measured:
    """What was measured of one side at one size."""

    def __init__(self) -> None:
        self._taken: defaultdict[str, list[Sequence[float]]] = defaultdict(list)
        self._memory: list[Mapping[str, float]] = []

    def add(self, measured: Mapping[str, Any], **renamed: str) -> None:
        """Gather what a process of `store_worker` found; `renamed` gives an operation another name."""
        for name, values in measured.items():
            if name == "memory_mb":
                self._memory.append(values)
            else:
                self._taken[renamed.get(name, name)] += values

    def summary(self) -> dict[str, Any]:
        """Of each operation `spread`; `memory_mb` of the process that needed most."""
        result: dict[str, Any] = {name: spread(taken) for name, taken in self._taken.items()}
        apart = {key: max(0.0, result["save_label"][key] - result["file_copy"][key]) for key in ("median_ms", "cpu_ms")}
        return {**result, "save_apart": apart, "memory_mb": max(self._memory, key=itemgetter("peak"))}


def _measured(
    folders: Mapping[tuple[int, str], Path], base: Path, repeat: int
) -> dict[tuple[int, str], dict[str, Any]]:
    found = {folder.name: _Measured() for folder in folders.values()}
    sides = {side: [folder for (_, of), folder in folders.items() if of == side] for _, side in folders}
    with (
        TemporaryDirectory(dir=base) as beside,
        tqdm(total=len(folders) * (2 + 2 * _ROUNDS) + len(sides), desc="measuring", unit="process", leave=False) as bar,
    ):
        sent = Path(beside) / "label.nii.gz"
        write_label(sent, label())

        def run(side: str, phase: str, *chosen: Path, **renamed: str) -> None:
            bar.set_postfix_str(f"{phase}: {', '.join(folder.name for folder in chosen)}")
            for name, measured in _in_process(side, phase, sent, repeat, chosen).items():
                found[name].add(measured, **renamed)
            bar.update()

        for (_, side), folder in folders.items():
            run(side, "start", folder, start="adoption")
            run(side, "score", folder)
        for _ in range(_ROUNDS):
            for (_, side), folder in folders.items():
                run(side, "start", folder)
                run(side, "look", folder)
        for side, chosen in sides.items():
            run(side, "use", *chosen)
    return {key: found[folder.name].summary() for key, folder in folders.items()}


def _size(images: int, sides: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One entry of `sizes`."""
    if "stock" not in sides:
        return {"images": images, **sides}
    ours, stock = sides["ours"], sides["stock"]
    common = [name for name in OPERATIONS if name in ours and name in stock and ours[name]["median_ms"] > 0]
    ratios = {name: stock[name]["median_ms"] / ours[name]["median_ms"] for name in common}
    return {"images": images, **sides, "ratios": ratios}


def _in_process(side: str, phase: str, sent: Path, repeat: int, folders: Sequence[Path]) -> dict[str, Any]:
    command = ["-m", "lib.benchmarks.store_worker", side, phase, str(sent), str(repeat), *map(str, folders)]
    done = subprocess.run([sys.executable, *command], cwd=_ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing more is known"])[-1]
        msg = f"the benchmark failed ({side}: {phase} in {', '.join(map(str, folders))}): {last}"
        raise LiverLoopError(msg)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _table(size: Mapping[str, Any]) -> list[str]:
    sides = {name: size[key] for name, key in (("LiverLoop", "ours"), ("MONAI Label", "stock")) if key in size}
    title = f"{size['images']:,} images"
    lines = [
        f"{title:<20}"
        + "".join(f"{name:>14}{'CPU':>10}{'90 %':>10}" for name in sides)
        + (f"{'theirs / ours':>16}" if "ratios" in size else "")
    ]
    for key, title in OPERATIONS.items():
        ratio = size.get("ratios", {}).get(key)
        cells = "".join(_cells(side.get(key)) for side in sides.values())
        lines.append(f"{title:<20}{cells}{'' if ratio is None else f'{ratio:.1f}':>16}".rstrip())
    for title, key in (("memory MB", "peak"), ("  when imported", "imported")):
        cells = "".join(f"{side['memory_mb'][key]:>14,.0f}{'':>20}" for side in sides.values())
        lines.append(f"{title:<20}{cells}".rstrip())
    return lines


def _cells(times: Mapping[str, float] | None) -> str:
    if times is None:
        return " " * 34
    p90 = f"{times['p90_ms']:,.2f}" if times.get("count", 0) >= 10 else ""
    return f"{times['median_ms']:>14,.2f}{times['cpu_ms']:>10,.2f}{p90:>10}"
