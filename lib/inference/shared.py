"""Segmentations for many clients: one engine in turn, each result made once, ahead of time where that is known."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from lib.errors import LiverLoopError
from lib.inference.device import choose_device
from lib.inference.model import Model, ModelSource
from lib.inference.observed import Observed, watched
from lib.inference.observer import Watch
from lib.inference.queue import EngineQueue, GiveWay, Rank, WithRest
from lib.inference.results import Kept, Key, Packed, Results, content_of
from lib.inference.segment import Segmentation, finish, predict
from lib.inference.stopwatch import Stopwatch
from lib.settings import Settings
from lib.transforms.postprocessing import PostprocessingSettings
from lib.transforms.summary import centers
from lib.volume import Volume
from lib.volume_io import read_image

logger = logging.getLogger(__name__)

_PACKERS = ThreadPoolExecutor(2, "pack result")


class Served(NamedTuple):
    """What a client gets.

    Args:
        segmentation: the same object for all who waited for it; `seconds` also has "read" and "wait", or "unpack".
        centers: of each class that is there, in voxels along `(X, Y, Z)`.
        cached: whether the network had seen this image before the request.
    """

    segmentation: Segmentation
    centers: dict[str, tuple[int, int, int]]
    cached: bool


class SharedSegmenter:
    """Segments image files; safe to use from several threads.

    Args:
        settings: the app's settings.
        source: where the weights come from.
        watch: makes observers of what is segmented ahead, in batches and by `score`, never of what a person waits for.
    """

    def __init__(self, settings: Settings, source: ModelSource, watch: Watch | None = None) -> None:
        self._settings, self._source, self._watch = settings, source, watch
        self._results = Results(settings.inference.cache_mb * 1_000_000)
        self._queue = EngineQueue(settings.inference.most_waiting)
        # What has left the queue and is not kept yet; those who wait for it hold it.
        self._unfinished: WeakValueDictionary[Key, _Once] = WeakValueDictionary()

    def segment(
        self,
        path: str | Path,
        postprocessing: PostprocessingSettings,
        device: torch.device,
        *,
        client: str = "",
        background: bool = False,
        once: bool = False,
    ) -> Served:
        """Segment a CT, or give out again what was made of the same file with the same model.

        Args:
            path: of the file, or of a DICOM folder.
            postprocessing: which steps.
            device: for the network.
            client: who asks; clients take turns.
            background: let all others go first, as in a batch, of which few are asked for at once; not kept.
            once: nobody will ask for it again.

        Raises:
            OverloadedError: too many wait.
            GoneError: the client has gone meanwhile.
            LiverLoopError: the image or the model can't be used.
        """
        began = time.perf_counter()
        model, key = self._asked(path, postprocessing, device)
        kept = self._results.get(key)
        if kept is not None:
            return _served(kept, model)
        if background:
            return self._one_of_many(path, postprocessing, model)
        work = partial(self._make, Path(path), key, model, once)
        # The next has the engine while this one is finished, by the first of those who wait for it.
        served = self._queue.run(key if key.content else object(), work, client=client).value()
        seconds = served.segmentation.seconds
        waited = max(0.0, time.perf_counter() - began - sum(seconds.values()))
        return served._replace(segmentation=replace(served.segmentation, seconds={"wait": waited, **seconds}))

    def prefetch(self, path: str | Path, client: str) -> None:
        """Segment a file in the background, as far as can be told how it will be asked for; returns at once.

        Args:
            path: of the image.
            client: who will ask; what they would have asked for before is dropped unless it has begun.
        """
        try:
            model, key = self._asked(path, self._settings.postprocessing, choose_device())
        except LiverLoopError as error:
            logger.warning("not segmented ahead: %s", error)
            return
        if key.content and self._results.get(key) is None:
            self._queue.start(key, partial(self._make_whole, Path(path), key, model), client=client)

    def score(self, path: str | Path) -> None:
        """Have a case watched that nobody asked for, while nothing else is to be done; keeps nothing, blocks.

        Args:
            path: of the image.

        Raises:
            LiverLoopError: the image or the model can't be used, or the server is being stopped.
        """
        if self._watch is None:
            return
        model, _ = self._asked(path, self._settings.postprocessing, choose_device())
        image = read_image(path)
        observer = watched(self._watch, str(path), image, model)
        if observer is not None:
            self._watched(image, self._settings.postprocessing, model, Stopwatch(), observer, Rank.IDLE)

    def info(self) -> dict[str, Any]:
        """How many jobs wait, how many results are kept and how much memory those take."""
        return {
            "waiting": self._queue.waiting,
            "kept_results": len(self._results),
            "kept_mb": round(self._results.bytes / 1e6, 1),
        }

    def close(self) -> None:
        """Break off what runs."""
        self._queue.close()

    def _asked(
        self, path: str | Path, postprocessing: PostprocessingSettings, device: torch.device
    ) -> tuple[Model, Key]:
        """The model in force now, once for the whole request, and what its result goes by."""
        model = self._source.get(device)
        self._results.keep_only(model.version)
        return model, Key(content_of(path), model.version, postprocessing)

    def _make(
        self, path: Path, key: Key, model: Model, once: bool, give_way: GiveWay, watch_by: Watch | None = None
    ) -> "_Once":
        """What needs the engine; the rest is done when its value is asked for."""
        unfinished = self._unfinished.get(key)  # first: once that is gone, it is kept
        if unfinished is not None:
            return _Once(lambda: unfinished.value()._replace(cached=True))
        kept = self._results.get(key)  # made while this one waited
        if kept is not None:
            return _Once(partial(_served, kept, model))
        watch = Stopwatch()
        before = key._replace(postprocessing=None)
        made = self._results.get(before)
        if made is not None:
            observer = None
            with watch("unpack"):
                raw, image = made.voxels.unpacked(), _without_voxels(made.image_shape, made.affine)
        else:
            with watch("read"):
                image = read_image(path)
            observer = watched(watch_by, str(path), image, model)
            give_way()
            raw = self._predict(image, model, watch, give_way, observer)
            give_way()
            image = _without_voxels(image.shape, image.affine)  # the next one can have its memory
        keep = not once and content_of(path) == key.content  # else it changed while it was read
        finish_it = partial(self._finish, raw, image, key, model, watch, keep, made is not None)
        once_made = _Once(finish_it, observer if keep else None)
        if keep:
            self._unfinished[key] = once_made
        return once_made

    def _make_whole(self, path: Path, key: Key, model: Model, give_way: GiveWay) -> "_Once | WithRest":
        """With nobody waiting who could finish it; who asks meanwhile has the result before its scores are done."""
        made = self._make(path, key, model, False, give_way, self._watch)
        served, observer = made.value(), made.take_observer()
        return made if observer is None else WithRest(made, partial(_tell, observer, served))

    def _predict(
        self, image: Volume, model: Model, watch: Stopwatch, give_way: GiveWay, observer: Observed | None
    ) -> NDArray[np.uint8]:
        if observer is not None:
            try:
                return predict(image, model, self._settings, watch, lambda _: give_way(), observer)
            except LiverLoopError:  # the server is being stopped
                raise
            except Exception as error:  # it has no memory for what an observer is to see, or can't give it
                observer.fail(error)
        return predict(image, model, self._settings, watch, lambda _: give_way())

    def _finish(
        self, raw: NDArray[np.uint8], image: Volume, key: Key, model: Model, watch: Stopwatch, keep: bool, cached: bool
    ) -> Served:
        assert key.postprocessing is not None
        packing = None
        if keep and not cached:  # meanwhile: whoever asks for the same now need not wait for the network again
            packing = _PACKERS.submit(self._keep_raw, raw, image, key)
        served = self._finished(raw, image, key.postprocessing, model, watch)
        if packing is not None:
            packing.result()
        if keep:  # nobody waits for this: what is kept already gives the same label
            _PACKERS.submit(self._keep_label, served, key)
        return served._replace(cached=cached)

    def _keep_raw(self, raw: NDArray[np.uint8], image: Volume, key: Key) -> None:
        before = key._replace(postprocessing=None)
        self._results.put(before, Kept(Packed.of(raw), image.affine, image.shape))

    def _keep_label(self, served: Served, key: Key) -> None:
        label, summary = served.segmentation.label, served.segmentation.summary
        self._results.put(key, Kept(Packed.of(label.array), label.affine, label.shape, summary, served.centers))

    def _one_of_many(self, path: str | Path, postprocessing: PostprocessingSettings, model: Model) -> Served:
        """Only the network is waited for, so that others of the batch are read and cleaned while it works."""
        watch = Stopwatch()
        with watch("read"):
            image = read_image(path)
        observer = watched(self._watch, str(path), image, model)
        return self._watched(image, postprocessing, model, watch, observer, Rank.BACKGROUND)

    def _watched(
        self,
        image: Volume,
        postprocessing: PostprocessingSettings,
        model: Model,
        watch: Stopwatch,
        observer: Observed | None,
        rank: Rank,
    ) -> Served:
        def work(give_way: GiveWay) -> NDArray[np.uint8]:
            return self._predict(image, model, watch, give_way, observer)

        raw = self._queue.run(object(), work, rank=rank)
        served = self._finished(raw, image, postprocessing, model, watch)
        if observer is not None:
            with watch("observe"):
                self._queue.run(object(), partial(_tell, observer, served), rank=rank)
        return served

    def _finished(
        self,
        raw: NDArray[np.uint8],
        image: Volume,
        postprocessing: PostprocessingSettings,
        model: Model,
        watch: Stopwatch,
    ) -> Served:
        with watch("postprocessing"):
            label, summary = finish(raw, image, self._settings, postprocessing)
            found = centers(label.array, self._settings.label_indices())
        return Served(Segmentation(label, model.version, summary, watch.seconds), found, cached=False)


def _served(kept: Kept, model: Model) -> Served:
    watch = Stopwatch()
    with watch("unpack"):
        label = Volume(kept.voxels.unpacked(), kept.affine)
    return Served(Segmentation(label, model.version, kept.summary, watch.seconds), kept.centers, cached=True)


def _tell(observer: Observed, served: Served, give_way: GiveWay) -> None:
    """The observer's last part, which may use the network."""
    label, summary = served.segmentation.label, served.segmentation.summary
    observer.finished(label.axial(), summary["lesion_count"], give_way)


def _without_voxels(shape: tuple[int, int, int], affine: NDArray[np.float64]) -> Volume:
    """A volume as large as an image and where it is, but for a voxel's memory."""
    return Volume(np.broadcast_to(np.int16(0), shape), affine)


class _Once:
    """Work that the first of several threads does for all; the others wait for it.

    Args:
        work: to be done.
        observer: of the case, who is to be told of the result.
    """

    def __init__(self, work: Callable[[], Served], observer: Observed | None = None) -> None:
        self._lock = threading.Lock()
        self._observer = observer
        self._work: Callable[[], Served] | None = work
        self._outcome: Future[Served] = Future()

    def value(self) -> Served:
        """What came of it, or its error, each time."""
        with self._lock:
            if self._work is not None:
                work, self._work = self._work, None  # with the voxels that it holds
                try:
                    self._outcome.set_result(work())
                except BaseException as error:
                    self._outcome.set_exception(error)
        return self._outcome.result()

    def take_observer(self) -> Observed | None:
        """The observer, for the first who asks."""
        with self._lock:
            observer, self._observer = self._observer, None
        return observer
