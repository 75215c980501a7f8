"""Many cases, with the network always busy: while it works on one, others are read, cleaned and written.

A few threads take a case each from file to file and share the engine, which works on one group of slices at a time.
No more volumes are in memory than there are threads.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lib.cores import available_cores
from lib.errors import LiverLoopError
from lib.inference.engine import Engine
from lib.inference.files import Job, Planes, planes_path, run_job
from lib.inference.model import Model
from lib.inference.observer import Seen
from lib.inference.records import Recipe, find, keep
from lib.inference.stopwatch import Stopwatch
from lib.settings import Settings

_WORKERS = 3  # one has the network, one reads, one writes
_MOST_WORKERS = 8  # a GPU is done before one core has read the next volume
# One bad case: damaged, too large for the memory of machine or GPU, on a share that is gone.
_BAD_CASE = (LiverLoopError, OSError, MemoryError, RuntimeError)


class OneAtATime:
    """An engine for several threads that would only hinder each other in it.

    Args:
        engine: that uses the whole device by itself.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self.name, self.device = engine.name, engine.device

    def __call__(self, hu: NDArray[np.int16], levels: NDArray[np.int16], watch: Stopwatch) -> NDArray[np.uint8]:
        """See `Engine`; waiting is not counted."""
        with self._lock:
            return self._engine(hu, levels, watch)

    def seen(self, hu: NDArray[np.int16], levels: NDArray[np.int16], watch: Stopwatch) -> Seen:
        """See `Engine`; likewise."""
        with self._lock:
            return self._engine.seen(hu, levels, watch)


def workers_for(device: torch.device) -> int:
    """How many cases at once keep a device busy; each takes the memory of one volume."""
    return max(_WORKERS, min(_MOST_WORKERS, available_cores() // 2)) if device.type == "cuda" else _WORKERS


def segment_all(
    jobs: Sequence[Job],
    model: Model,
    settings: Settings,
    recipe: Recipe,
    *,
    workers: int = _WORKERS,
    planes: Planes | None = None,
    again: bool = False,
    on_slices: Callable[[int, int], object] | None = None,
) -> Iterator[dict[str, Any]]:
    """Segment cases; one that can't be used does not end the others, one that was finished before is not done again.

    Args:
        jobs: images and where their labels go.
        model: network and version.
        settings: the app's settings.
        recipe: tells whether a label that is there is the one that would be made.
        workers: cases in memory at once.
        planes: see `lib.inference.files.run_job`.
        again: segment also what was finished before.
        on_slices: see there; from several threads, one at a time.

    Yields:
        A record for each job in their order: that of `run_job`; the old one with `skipped: True`; or `image` and
        `error`.
    """
    shared = replace(model, chosen=OneAtATime(model.engine(settings)))
    stopped, turn = threading.Event(), threading.Lock()

    def progress(done: int, slices: int) -> None:
        if stopped.is_set():
            raise _StoppedError
        if on_slices:
            with turn:
                on_slices(done, slices)

    def finish(job: Job) -> dict[str, Any]:
        try:
            made_from = recipe.of_image(job.image)
            known = None if again else find(job.label, made_from)
            if known is not None and (planes is None or planes_path(job, planes).exists()):
                return {**known, "image": str(job.image), "label": str(job.label), "skipped": True}
            record = run_job(job, shared, settings, planes=planes, on_slices=progress)
            keep(job.label, made_from, record)
        except _BAD_CASE as error:
            reason = str(error) if isinstance(error, LiverLoopError) else f"{type(error).__name__}: {error}"
            return {"image": str(job.image), "error": " ".join(reason.split())}
        return record

    executor = ThreadPoolExecutor(workers, "case")
    try:
        for future in [executor.submit(finish, job) for job in jobs]:
            yield future.result()
    finally:  # nobody wants the rest: a few slices later all threads have ended
        stopped.set()
        executor.shutdown(cancel_futures=True)


class _StoppedError(Exception):
    """Ends a thread between two groups of slices."""
