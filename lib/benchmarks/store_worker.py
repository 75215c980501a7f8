"""One phase of the store's benchmark, in a process of its own so that phases and sides don't disturb each other.

    python -m lib.benchmarks.store_worker SIDE PHASE LABEL REPEAT FOLDER...

The last line it prints is what it measured, as JSON.
"""

import json
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, TypeVar

from lib.benchmarks.machine import peak_memory_mb, reset_peak_memory

MOST_ASKED = 100  # images, during one look through the folder
_DISK_BYTES = 4096
_PAUSE_S = 0.05  # between clients who ask during a rescan
_LABEL_INFO = [{"name": "liver", "idx": 1}, {"name": "tumor", "idx": 2}]

_Result = TypeVar("_Result")
_Taken = tuple[float, float]  # seconds, and how many of them the CPU worked for it


class Side(Protocol):
    """A store as its server uses it."""

    answers_during_rescan: bool

    def serve(self) -> None:
        """What the server does besides, once it has opened the store."""

    def next_sample(self, client_id: str) -> str:
        """The image that a client is given by the store's default strategy."""

    def score_all(self) -> None:
        """Have scores of all images, for strategies that go by them."""

    def save_label(self, image_id: str, label: Path, client_id: str) -> None:
        """Save a final label."""

    def copy_label(self, image_id: str, label: Path, scratch: Path) -> None:
        """Only what `save_label` does with files, in another folder."""

    def status(self) -> Mapping[str, Any]:
        """How many images there are and how many are labelled."""

    def rescan(self) -> None:
        """Look through the whole folder."""

    def give_back(self, image_id: str, client_id: str) -> None:
        """A client doesn't label the image it was given."""

    def close(self) -> None:
        """Leave the folder."""


_Opened = Callable[[Path, list[dict[str, Any]]], Side]


def run_phase(side: str, phase: str, label: Path, repeat: int, folders: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Measure.

    Args:
        side: `"ours"` or `"stock"`.
        phase: `"start"` opens a store, `"score"` gives it scores of all images, `"look"` opens it, does everything
            once and looks through the whole folder, `"use"` does what clients ask for many times, in all folders in
            turn: a machine or a disk that is busy for a while is so for all of them.
        label: a file that fits the images, on the disk of the folders.
        repeat: how often `"use"` does each operation.
        folders: of `lib.benchmarks.tiny_images`.

    Returns:
        For each folder's name `{operation: [(seconds, seconds of the CPU), ...]}`. Of `"start"` that is only from the
        opening to the first answer, of `"score"` nothing. Of `"look"` it is what the folder's size decides, and
        `memory_mb` with `imported`, before the store was opened, and `peak`.
    """
    opened = _opener(side)
    if phase == "use":
        return _use({folder.name: opened(folder, _LABEL_INFO) for folder in folders}, label, repeat)
    measure = {"start": _start, "score": _score, "look": _look}[phase]
    return {folder.name: measure(opened, folder, label) for folder in folders}


def _opener(side: str) -> _Opened:
    # Imported only now, so that what one side imports doesn't count as memory of the other.
    if side == "ours":
        from lib.benchmarks.our_store import OurStore

        return OurStore
    from lib.benchmarks.stock_store import StockStore

    return StockStore


def _start(opened: _Opened, folder: Path, _: Path) -> dict[str, Any]:
    store, taken = _timed(_started, opened, folder)
    store.close()
    return {"start": [taken]}


def _score(opened: _Opened, folder: Path, _: Path) -> dict[str, Any]:
    store = opened(folder, _LABEL_INFO)
    store.score_all()
    store.close()
    return {}


def _started(opened: _Opened, folder: Path) -> Side:
    store = opened(folder, _LABEL_INFO)
    store.serve()
    store.next_sample(f"early annotator {time.time_ns()}")
    return store


def _look(opened: _Opened, folder: Path, label: Path) -> dict[str, Any]:
    reset_peak_memory()
    imported = peak_memory_mb()
    store = opened(folder, _LABEL_INFO)
    with TemporaryDirectory(dir=label.parent) as scratch:
        _use_once(store, label, Path(scratch))
    result = _ask_during_rescan(store) if store.answers_during_rescan else {"rescan": [_timed(store.rescan)[1]]}
    store.close()
    return {**result, "memory_mb": {"imported": imported, "peak": peak_memory_mb()}}


def _use(stores: Mapping[str, Side], label: Path, repeat: int) -> dict[str, dict[str, Any]]:
    result: dict[str, dict[str, Any]] = {name: defaultdict(list) for name in stores}
    with TemporaryDirectory(dir=label.parent) as scratch:
        for _ in range(repeat):
            for name, store in stores.items():
                for operation, taken in _use_once(store, label, Path(scratch) / name).items():
                    result[name][operation].append(taken)
    for store in stores.values():
        store.close()
    return result


def _use_once(store: Side, label: Path, scratch: Path) -> dict[str, _Taken]:
    client = f"annotator {time.time_ns()}"
    image_id, asked = _timed(store.next_sample, client)
    return {
        "next_sample": asked,
        "file_copy": _timed(store.copy_label, image_id, label, scratch)[1],
        "save_label": _timed(store.save_label, image_id, label, client)[1],
        "status": _timed(store.status)[1],
        "disk": _timed(_write_to_disk, scratch / "small")[1],
    }


def _ask_during_rescan(store: Side) -> dict[str, list[_Taken]]:
    """A look through the folder, and clients that ask for images meanwhile."""
    rescans: list[_Taken] = []
    thread = threading.Thread(target=lambda: rescans.append(_timed(store.rescan)[1]), name="rescan")
    thread.start()
    asked: list[_Taken] = []
    given: list[tuple[str, str]] = []
    while not asked or (thread.is_alive() and len(asked) < MOST_ASKED):
        client = f"late annotator {time.time_ns()}"
        image_id, taken = _timed(store.next_sample, client)
        asked.append(taken)
        given.append((image_id, client))
        thread.join(_PAUSE_S)
    thread.join()
    for image_id, client in given:  # a long look at many images leaves no more in people's hands than a short one
        store.give_back(image_id, client)
    return {"rescan": rescans, "next_sample_during_rescan": asked}


def _write_to_disk(path: Path) -> None:
    """What any program needs to know that a few bytes survive a power cut."""
    with path.open("ab") as file:
        file.write(bytes(_DISK_BYTES))
        file.flush()
        os.fsync(file.fileno())


def _timed(action: Callable[..., _Result], *arguments: Any) -> tuple[_Result, _Taken]:
    begin, begin_cpu = time.perf_counter(), time.thread_time()
    result = action(*arguments)
    return result, (time.perf_counter() - begin, time.thread_time() - begin_cpu)


if __name__ == "__main__":
    chosen, what, file, times, *studies = sys.argv[1:]
    print(json.dumps(run_phase(chosen, what, Path(file), int(times), [Path(folder) for folder in studies])))
