"""How long the store takes beside MONAI Label's, from a thousand images to a million."""

import argparse
import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from lib.benchmarks.machine import describe_machine
from lib.benchmarks.store_worker import spread
from lib.benchmarks.tiny_images import forget, label, make_images
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
_STARTS = 3  # of a folder that is known; each in a new process
_MOST_MS, _MOST_GROWTH, _MOST_START_S, _MOST_MEMORY_MB = 20.0, 2.0, 5.0, 1000.0  # the goals


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `scripts/benchmark.py store`."""
    parser.add_argument(
        "--images",
        type=int,
        nargs="+",
        default=[1_000, 20_000, 1_000_000],
        metavar="N",
        help="sizes of the studies folder; a million images take 5 GB and some minutes (default: 1000 20000 1000000)",
    )
    parser.add_argument(
        "--baseline-most",
        type=int,
        default=20_000,
        metavar="N",
        help="leave out MONAI Label's store for more images, where it takes minutes (default: %(default)s)",
    )
    parser.add_argument(
        "--repeat", type=int, default=50, metavar="N", help="how often each operation is done (default: %(default)s)"
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

    Returns:
        `machine`, `sqlite`, `monailabel`, `repeat`, `goals` (see `goals`), and `sizes`: for each its number of
        `images`, `ours`, and `stock` and `ratios` (theirs by ours) unless left out. Both sides hold for each of
        `OPERATIONS` what `lib.benchmarks.store_worker.spread` gives, and `memory_mb`.

    Raises:
        LiverLoopError: a wrong argument, a disk that is too small, a measurement that failed.
    """
    _check(arguments)
    kept = arguments.folder
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
    sizes = []
    with nullcontext(kept) if kept else tempfile.TemporaryDirectory(prefix="liverloop-") as base:
        for images in sorted(set(arguments.images)):
            folder = Path(base) / f"store-{images}"
            with tqdm(total=images, desc=f"making {images:,} images", unit="image", leave=False) as bar:
                make_images(folder, images, bar.update)
            sides = ["ours", "stock"] if images <= arguments.baseline_most else ["ours"]
            sizes.append({"images": images, **_measured(sides, folder, arguments.repeat)})
            if kept is None:  # the next size needs the room
                shutil.rmtree(folder)
    return {
        "benchmark": "store",
        "machine": describe_machine(torch.device("cpu")),
        "sqlite": sqlite3.sqlite_version,
        "monailabel": version("monailabel"),
        "repeat": arguments.repeat,
        "sizes": sizes,
        "goals": goals(sizes),
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
        f"LiverLoop's store and MONAI Label {result['monailabel']}'s LocalDatastore; median and 90th percentile in ms",
    ]
    for size in result["sizes"]:
        lines += ["", *_table(size)]
    lines += ["", f"{'goal':<66}{'measured':>16}{'at most':>14}"]
    for goal in result["goals"]:
        measured, limit = f"{goal['measured']:.2f} {goal['unit']}", f"{goal['limit']:g} {goal['unit']}"
        lines.append(f"{goal['goal']:<66}{measured:>16}{limit:>14}  {'met' if goal['met'] else 'NOT met'}")
    return "\n".join(lines)


def _check(arguments: argparse.Namespace) -> None:
    if arguments.repeat < 1:
        msg = f"--repeat must be at least 1, not {arguments.repeat}"
        raise BadInputError(msg)
    # So that free images are left for every client that asks.
    fewest = 4 * arguments.repeat + 120
    if min(arguments.images) < fewest:
        msg = f"--images must be at least {fewest} with --repeat {arguments.repeat}, not {min(arguments.images)}"
        raise BadInputError(msg)


def _measured(sides: Sequence[str], folder: Path, repeat: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    starts = min(repeat, _STARTS)
    with (
        tempfile.TemporaryDirectory(dir=folder.parent) as beside,
        tqdm(total=len(sides) * (starts + 2), desc=folder.name, unit="process", leave=False) as bar,
    ):
        sent = Path(beside) / "label.nii.gz"
        write_label(sent, label())

        def run(side: str, phase: str) -> dict[str, Any]:
            bar.set_postfix_str(f"{side}: {phase}")
            measured = _in_process(side, phase, folder, sent, repeat)
            bar.update()
            return measured

        for side in sides:
            forget(folder)
            adoption = run(side, "start")["start_ms"] / 1000
            known = [run(side, "start")["start_ms"] / 1000 for _ in range(starts)]
            used = run(side, "use")
            apart = used["save_label"]["median_ms"] - used["file_copy"]["median_ms"]
            result[side] = {
                "adoption": spread([adoption]),
                "start": spread(known),
                **used,
                "save_apart": {"median_ms": max(apart, 0.0)},
            }
    if "stock" in result:
        ours, stock = result["ours"], result["stock"]
        common = [name for name in OPERATIONS if name in ours and name in stock and ours[name]["median_ms"] > 0]
        result["ratios"] = {name: stock[name]["median_ms"] / ours[name]["median_ms"] for name in common}
    return result


def _in_process(side: str, phase: str, folder: Path, sent: Path, repeat: int) -> dict[str, Any]:
    command = ["-m", "lib.benchmarks.store_worker", side, phase, str(folder.resolve()), str(sent.resolve())]
    done = subprocess.run(
        [sys.executable, *command, str(repeat)], cwd=_ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing more is known"])[-1]
        msg = f"measuring {side} in {folder} failed ({phase}): {last}"
        raise LiverLoopError(msg)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _table(size: Mapping[str, Any]) -> list[str]:
    sides = [size["ours"], *([size["stock"]] if "stock" in size else [])]
    names = ("LiverLoop", "MONAI Label")
    header = "".join(f"{name:>16}{'90 %':>11}" for name, _ in zip(names, sides, strict=False))
    title = f"{size['images']:,} images"
    lines = [f"{title:<20}{header}{'theirs / ours' if 'stock' in size else '':>16}".rstrip()]
    for key, title in OPERATIONS.items():
        cells = "".join(_cells(side.get(key)) for side in sides)
        ratio = size.get("ratios", {}).get(key)
        lines.append(f"{title:<20}{cells}{'' if ratio is None else f'{ratio:.1f}':>16}".rstrip())
    for title, key in (("memory MB", "peak"), ("  when imported", "imported")):
        cells = "".join(f"{side['memory_mb'][key]:>16.0f}{'':>11}" for side in sides)
        lines.append(f"{title:<20}{cells}".rstrip())
    return lines


def _cells(times: Mapping[str, float] | None) -> str:
    if times is None:
        return f"{'-':>16}{'':>11}"
    return f"{times['median_ms']:>16,.2f}" + (
        f"{times['p90_ms']:>11,.2f}" if times.get("count", 0) > 3 else f"{'':>11}"
    )
