"""Trainings, scorings and batches that run, written down so that a server started later knows which were interrupted.

Each has a folder of its own in `model/jobs`, locked by its process for as long as that lives. One that comes to its
end, well or with an error, removes its folder.
"""

import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from lib.errors import BusyError
from lib.files import atomic_write
from lib.training.state import STATE_FILE, alone_in

logger = logging.getLogger(__name__)

TRAIN, SCORING, BATCH = METHODS = ("train", "scoring", "batch_infer")  # MONAI Label's words
_FILE = "job.json"
# What a training must be given again to go on.
_REPEATED = ("max_epochs", "train_batch_size", "val_split", "early_stop_patience", "device", "multi_gpu", "gpus")


@dataclass(frozen=True)
class Interrupted:
    """Work whose process has ended without saying how.

    Args:
        method: "train", "scoring" or "batch_infer".
        request: what was asked for.
        pid: of its process.
        started_at, ended_at: seconds since the epoch; the end is when it was last heard of.
        told: what a person is told of it.
        training: its number in the ledger; None: it has none.
    """

    method: str
    request: Mapping[str, Any]
    pid: int
    started_at: float
    ended_at: float
    told: str
    training: int | None


class JobRecords:
    """The records of an app folder.

    Args:
        model_folder: `model` in the app's folder.
    """

    def __init__(self, model_folder: Path) -> None:
        self._models = model_folder
        self._folder = model_folder / "jobs"
        self._current: Path | None = None  # of this process

    @contextmanager
    def kept(self, method: str, request: Mapping[str, Any]) -> Iterator[None]:
        """Keep a record while the block runs; what was interrupted before is no longer shown.

        Args:
            method: "train", "scoring" or "batch_infer".
            request: what was asked for.
        """
        for folder in self._left(method):
            shutil.rmtree(folder, ignore_errors=True)
        name = f"{method}-{uuid.uuid4().hex[:12]}"
        folder, beginning = self._folder / name, self._folder / f".{name}"  # nobody looks there before it is locked
        beginning.mkdir(parents=True)
        with alone_in(beginning):
            beginning.rename(folder)
            self._current = folder
            _write(folder, {"method": method, "request": dict(request), "pid": os.getpid(), "started": time.time()})
            try:
                yield
            except (
                Exception
            ):  # told by who runs it; a process that is ended from outside gets something else or nothing
                shutil.rmtree(folder, ignore_errors=True)
                raise
            shutil.rmtree(folder, ignore_errors=True)

    def note(self, **facts: Any) -> None:
        """Add to this process's record: `training`, the number in the ledger; `run`, the name of the run's folder."""
        if self._current is not None and (content := _read(self._current)) is not None:
            _write(self._current, content | facts)

    def interrupted(self) -> list[Interrupted]:
        """What has ended without saying how, the first begun first."""
        found = ((folder, _read(folder)) for method in METHODS for folder in self._left(method))
        jobs = [self._described(folder, content) for folder, content in found if content is not None]
        return sorted(jobs, key=lambda job: job.started_at)

    def forget(self, pid: int) -> None:
        """Drop the record of a process that somebody stopped on purpose."""
        for folder in self._folder.glob(f"*/{_FILE}"):
            if (_read(folder.parent) or {}).get("pid") == pid:
                shutil.rmtree(folder.parent, ignore_errors=True)

    def _left(self, method: str) -> list[Path]:
        """The folders of a method's records whose process has ended."""
        return [folder for folder in sorted(self._folder.glob(f"{method}-*")) if not _is_held(folder)]

    def _described(self, folder: Path, content: Mapping[str, Any]) -> Interrupted:
        method, request, started = content["method"], content["request"], float(content["started"])
        heard = (folder / _FILE).stat().st_mtime
        if method == TRAIN:
            done, heard, run = self._progress(content, started, heard)
            state = self._models / "runs" / run / STATE_FILE if run else None
            told = training_told(request, run if state and state.is_file() else None, done, heard)
        else:
            goes_on = method == BATCH or request.get("method") == "scores"
            told = "resumable: start it again, it goes on with what is left" if goes_on else "start it again"
            told = f"interrupted, begun at {_clock(started)}; {told}"
        return Interrupted(method, request, int(content["pid"]), started, heard, told, content.get("training"))

    def _progress(
        self, content: Mapping[str, Any], started: float, heard: float
    ) -> tuple[tuple[int, int] | None, float, str | None]:
        """Epochs done and to be done, when that was said, and the name of the run."""
        path = self._models / "train_stats.json"
        run = content.get("run")
        try:
            said = path.stat().st_mtime
            stats = json.loads(path.read_text(encoding="utf-8"))
            if said >= started and run in {None, stats["run"]}:
                return (int(stats["epoch"]), int(stats["total_epochs"])), max(said, heard), stats["run"]
        except (OSError, ValueError, KeyError, TypeError):  # it has not said anything yet
            pass
        return None, heard, run


def training_told(request: Mapping[str, Any], run: str | None, done: tuple[int, int] | None, at: float) -> str:
    """What a person is told of a training that was interrupted.

    Args:
        request: what was asked for.
        run: the name of its run, if it can go on.
        done: epochs done and to be done; None: not known.
        at: when it was last heard of, in seconds since the epoch.
    """
    where = f"after epoch {done[0]} of {done[1]}" if done and done[0] else "before its first epoch was done"
    told = f"interrupted {where}, last heard of at {_clock(at)}"
    if run is None:
        return f"{told}; it can't go on: start it again"
    again = {"resume": run, **{key: request[key] for key in _REPEATED if key in request}}
    if not again.get("multi_gpu"):
        again.pop("gpus", None)  # MONAI Label's own addition
    return f"{told}; resumable: start a training with {json.dumps(again)}"


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M:%S")


def _is_held(folder: Path) -> bool:
    try:
        with alone_in(folder):
            return False
    except BusyError:
        return True
    except FileNotFoundError:  # it has just come to its end
        return True


def _write(folder: Path, content: Mapping[str, Any]) -> None:
    with atomic_write(folder / _FILE) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


def _read(folder: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not written yet
        return None
    return content
