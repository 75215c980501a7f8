"""Our side of the benchmark of inference: requests as the server works them off, without HTTP."""

import gc
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lib.benchmarks.engine_limit import Counted
from lib.benchmarks.machine import memory_mb, peak_gpu_memory_mb, peak_memory_mb, reset_peak_memory
from lib.inference.model import Model, ModelSource
from lib.settings import Settings
from lib.volume import Volume
from lib.volume_io import read_label


class Server:
    """MONAI Label's inference task with the model loaded, its engine chosen, and no result kept yet.

    Args:
        settings: the app's.
        weights: of the model.
        device: for the network.
    """

    def __init__(self, settings: Settings, weights: Path, device: torch.device) -> None:
        gc.collect()  # an earlier one does not belong to the memory of this one
        self._settings, self._device = settings, device
        self._source = _CountedSource(settings, weights, weights)
        self._source.get(device)
        self._source.wait()
        self._task = self._fresh()

    @property
    def model(self) -> Model:
        """The model that answers."""
        return self._source.get(self._device)

    def forget(self) -> None:
        """Start anew, but for the model: what was segmented before is not kept."""
        self._task.shared.close()
        self._task = self._fresh()

    def segment(self, image: Path) -> tuple[dict[str, Any], Volume]:
        """One request, for an uncompressed `.nrrd` file, as 3D Slicer asks for it.

        Returns:
            `seconds` by step and in `total`, `cached`, whether the result was there already, `pixels`, which the
            network was given, `loaded_memory_mb` before, and `peak_memory_mb` and `peak_gpu_memory_mb` meanwhile; and
            the label.
        """
        loaded = memory_mb()
        reset_peak_memory()
        self._source.pixels = 0
        begin = time.perf_counter()
        path, result = self._task({"image": str(image), "device": str(self._device)})
        total = time.perf_counter() - begin
        record = {
            "seconds": {**result["latencies"]["steps"], "total": total},
            "cached": bool(result.get("cached")),
            "pixels": self._source.pixels,
            "loaded_memory_mb": loaded,
            "peak_memory_mb": peak_memory_mb(),
            "peak_gpu_memory_mb": peak_gpu_memory_mb(),
        }
        assert path is not None  # it was asked for
        label = read_label(path)
        Path(path).unlink()
        return record, label

    def answer(self, image: Path, client: str) -> Path:
        """The label file that one of many clients gets; may be called from several threads at once."""
        path, _ = self._task({"image": str(image), "device": str(self._device), "client_id": client})
        assert path is not None  # it was asked for
        return Path(path)

    def _fresh(self) -> Any:
        from lib.inference.task import LiverTumorInferTask  # MONAI Label takes seconds and memory

        return LiverTumorInferTask(self._settings, self._source)


class _CountedSource(ModelSource):
    """Counts the pixels that its models see."""

    pixels = 0

    def get(self, device: torch.device) -> Model:
        model = super().get(device)
        return replace(model, chosen=Counted(model.engine(self._settings), self._see))

    def _see(self, pixels: int) -> None:
        self.pixels += pixels


def timed(run: Callable[[], dict[str, float]], gpu: torch.device) -> dict[str, Any]:
    """A record like those of `Server.segment` for what gives its seconds by step."""
    loaded = memory_mb()
    reset_peak_memory()
    begin = time.perf_counter()
    seconds = run()
    if gpu.type == "cuda":
        torch.cuda.synchronize(gpu)
    return {
        "seconds": {**seconds, "total": time.perf_counter() - begin},
        "loaded_memory_mb": loaded,
        "peak_memory_mb": peak_memory_mb(),
        "peak_gpu_memory_mb": peak_gpu_memory_mb(),
    }
