"""One phase of the store's benchmark, in a process of its own so that sizes and sides don't disturb each other.

    python -m lib.benchmarks.store_worker SIDE PHASE FOLDER LABEL REPEAT

The last line it prints is what it measured, as JSON.
"""

import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from lib.benchmarks.machine import peak_memory_mb, reset_peak_memory

_Result = TypeVar("_Result")
RESCANS = 3  # at most so many: they take long
MOST_DURING_A_RESCAN = 100
_DISK_BYTES = 4096
_PAUSE_S = 0.05  # between clients who ask during a rescan
_LABEL_INFO = [{"name": "liver", "idx": 1}, {"name": "tumor", "idx": 2}]


class Side(Protocol):
    """A store as its server uses it."""

    def serve(self) -> None:
        """What the server does besides, once it has opened the store."""

    def next_sample(self, client_id: str) -> str:
        """The image that a client is given by the strategy `random`."""

    def save_label(self, image_id: str, label: Path, client_id: str) -> None:
        """Save a final label."""

    def copy_label(self, image_id: str, label: Path, scratch: Path) -> None:
        """Only what `save_label` does with files, in another folder."""

    def status(self) -> Mapping[str, Any]:
        """How many images there are and how many are labelled."""

    def rescan(self) -> None:
        """Look through the whole folder."""

    def close(self) -> None:
        """Leave the folder."""


def run_phase(side: str, phase: str, folder: Path, label: Path, repeat: int) -> dict[str, Any]:
    """Measure.

    Args:
        side: `"ours"` or `"stock"`.
        phase: `"start"` opens the store once, `"use"` does everything that clients ask for.
        folder: of `lib.benchmarks.tiny_images`.
        label: a file that fits its images, beside the folder.
        repeat: how often each operation is done; a look through the folder at most `RESCANS` times.

    Returns:
        For `"start"` only `start_ms`, from the opening to the first answer. For `"use"` the times of each operation as
        `spread` gives them, and `memory_mb` with `imported`, before the store was opened, and `peak`.
    """
    opened = _opener(side)
    if phase == "start":
        begin = time.perf_counter()
        store = opened(folder, _LABEL_INFO)
        store.serve()
        store.next_sample(f"early annotator {time.time_ns()}")
        elapsed = time.perf_counter() - begin
        store.close()
        return {"start_ms": elapsed * 1000}
    reset_peak_memory()
    imported = peak_memory_mb()
    store = opened(folder, _LABEL_INFO)
    try:
        result = _use(store, label, repeat)
        if side == "ours":  # the other changes its list of images under those who ask meanwhile
            result["next_sample_during_rescan"] = _ask_during_rescan(store)
    finally:
        store.close()
    return {**result, "memory_mb": {"imported": imported, "peak": peak_memory_mb()}}


def spread(seconds: list[float]) -> dict[str, Any]:
    """Median, 90th percentile (the nearest rank) and number of some times, in ms."""
    ordered = sorted(seconds)
    rank = max(0, -(-len(ordered) * 9 // 10) - 1)
    return {
        "median_ms": statistics.median(ordered) * 1000,
        "p90_ms": ordered[rank] * 1000,
        "count": len(ordered),
    }


def _opener(side: str) -> Callable[[Path, list[dict[str, Any]]], Side]:
    # Imported only now, so that what one side imports doesn't count as memory of the other.
    if side == "ours":
        from lib.benchmarks.our_store import OurStore

        return OurStore
    from lib.benchmarks.stock_store import StockStore

    return StockStore


def _use(store: Side, label: Path, repeat: int) -> dict[str, Any]:
    asked, copies, saves = [], [], []
    given: dict[str, str] = {}
    for number in range(repeat):
        client = f"annotator {number}"
        seconds, given[client] = _timed(store.next_sample, client)
        asked.append(seconds)
    with tempfile.TemporaryDirectory(dir=label.parent) as scratch:
        for client, image_id in given.items():
            copies.append(_timed(store.copy_label, image_id, label, Path(scratch))[0])
            saves.append(_timed(store.save_label, image_id, label, client)[0])
        disk = [_timed(_write_to_disk, Path(scratch) / "small")[0] for _ in range(repeat)]
    return {
        "next_sample": spread(asked),
        "save_label": spread(saves),
        "file_copy": spread(copies),
        "disk": spread(disk),
        "status": spread([_timed(store.status)[0] for _ in range(repeat)]),
        "rescan": spread([_timed(store.rescan)[0] for _ in range(min(repeat, RESCANS))]),
    }


def _ask_during_rescan(store: Side) -> dict[str, Any]:
    """Clients that ask for images while the folder is looked through."""
    over = threading.Event()

    def rescan() -> None:
        try:
            store.rescan()
        finally:
            over.set()

    thread = threading.Thread(target=rescan, name="rescan")
    thread.start()
    seconds: list[float] = []
    while not seconds or (not over.is_set() and len(seconds) < MOST_DURING_A_RESCAN):
        seconds.append(_timed(store.next_sample, f"late annotator {len(seconds)}")[0])
        over.wait(_PAUSE_S)
    thread.join()
    return spread(seconds)


def _write_to_disk(path: Path) -> None:
    """What any program needs to know that a few bytes survive a power cut."""
    with path.open("ab") as file:
        file.write(bytes(_DISK_BYTES))
        file.flush()
        os.fsync(file.fileno())


def _timed(action: Callable[..., _Result], *arguments: Any) -> tuple[float, _Result]:
    begin = time.perf_counter()
    result = action(*arguments)
    return time.perf_counter() - begin, result


if __name__ == "__main__":
    chosen, what, studies, file, times = sys.argv[1:]
    print(json.dumps(run_phase(chosen, what, Path(studies), Path(file), int(times))))
