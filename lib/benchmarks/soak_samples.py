"""What a server holds while it runs: memory, open files, threads, processes, and files in its folders."""

import os
import stat
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

_MB = 1e6


@dataclass(frozen=True)
class Sample:
    """One look at a server.

    Args:
        at: seconds since the start.
        memory_mb: resident memory of the server's process, without its children.
        open_files: file descriptors, sockets included.
        threads: of the process.
        children: processes that it started: a training and its own.
        children_mb: their resident memory together.
        temporary_files: in its TMPDIR.
        sessions: files in its sessions folder.
        app_files: in its app folder: model versions, runs, the cache of decoded cases.
        app_mb: what they take.
        ledger_mb: the ledger's database.
    """

    at: float
    memory_mb: float
    open_files: int
    threads: int
    children: int
    children_mb: float
    temporary_files: int
    sessions: int
    app_files: int
    app_mb: float
    ledger_mb: float


@dataclass(frozen=True)
class Folders:
    """Where a server keeps its files."""

    temporary: Path
    sessions: Path
    app: Path
    ledger: Path


class Sampler(threading.Thread):
    """Looks at a server every so often until it is stopped or the server is gone.

    Args:
        process: the server.
        folders: its own.
        began: `time.monotonic()` at the start.
        every_s: between two looks.
    """

    def __init__(self, process: psutil.Process, folders: Folders, began: float, every_s: float) -> None:
        super().__init__(name="sampler", daemon=True)
        self._process, self._folders = process, folders
        self._began, self._every_s = began, every_s
        self._over = threading.Event()
        self.samples: list[Sample] = []

    def run(self) -> None:
        """Look."""
        while True:
            with suppress(psutil.Error):
                self.samples.append(take_sample(self._process, self._folders, time.monotonic() - self._began))
            if self._over.wait(self._every_s):
                return

    def stop(self) -> None:
        """Take no more samples."""
        self._over.set()
        self.join()


def take_sample(process: psutil.Process, folders: Folders, at: float) -> Sample:
    """Look at a server once.

    Raises:
        psutil.Error: it is gone.
    """
    with process.oneshot():
        memory, threads, open_files = process.memory_info().rss, process.num_threads(), process.num_fds()
    children = process.children(recursive=True)
    children_memory = 0
    for child in children:
        with suppress(psutil.Error):
            children_memory += child.memory_info().rss
    app_files, app_bytes = _count(folders.app)
    return Sample(
        at=at,
        memory_mb=memory / _MB,
        open_files=open_files,
        threads=threads,
        children=len(children),
        children_mb=children_memory / _MB,
        temporary_files=_count(folders.temporary)[0],
        sessions=_count(folders.sessions)[0],
        app_files=app_files,
        app_mb=app_bytes / _MB,
        ledger_mb=sum(_size(path) for path in folders.ledger.glob("ledger.sqlite*")) / _MB,
    )


def columns(samples: Sequence[Sample]) -> dict[str, list[Any]]:
    """The samples as one list for each figure."""
    rows = [asdict(sample) for sample in samples]
    return {key: [row[key] for row in rows] for key in Sample.__dataclass_fields__}


def _count(folder: Path) -> tuple[int, int]:
    """Files in a folder, and their bytes; those that go meanwhile are left out."""
    count = size = 0
    for place, _, names in os.walk(folder):  # which goes on where a folder has just been removed
        for name in names:
            with suppress(OSError):
                status = os.lstat(os.path.join(place, name))
                if stat.S_ISREG(status.st_mode):
                    count, size = count + 1, size + status.st_size
    return count, size


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # SQLite takes its journal away now and then
        return 0
