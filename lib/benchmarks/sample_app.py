"""The baseline: a segmentation model of MONAI Label's radiology sample app, as its package ships it.

What is alike on both sides: the image file, the request (an uncompressed `.nrrd` of uint8, as 3D Slicer asks for),
the device and its threads, a process of its own with the model loaded and one small image segmented before, and where
the clock starts and stops, around MONAI Label's inference task. What differs: the sample app's network has the weights
it starts with, as time depends on them little and downloading them is no part of a benchmark; it has other classes; and
it works at its own voxel size, so that its time follows the millimeters of the CT, ours the slices and pixels.
"""

import json
import subprocess
import sys
import tempfile
from collections import deque
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import torch

from lib.benchmarks.machine import memory_mb, peak_memory_mb, reset_peak_memory
from lib.errors import BadInputError, LiverLoopError, NotFoundError

MODELS = ("segmentation", "segmentation_spleen")
STAGES = ("pre", "inferer", "invert", "post", "write")
_WORKER = Path(__file__).with_name("sample_app_worker.py")
_MAIN = "sample-apps/radiology/main.py"
_LINES = 5  # of what the worker printed, in a message
# Measured with 26 and 2 classes: beside what its windows take, it holds a float for each class and voxel of the image
# and copies of these.
_COPIES, _WINDOWS_BYTES = 3.2, 1e9


class SampleApp:
    """The sample app's task in another process, which waits between requests; use it in a `with` block.

    Args:
        model: one of `MODELS`.
        device: where its network runs.

    Raises:
        NotFoundError: MONAI Label's package has no such sample app.
        LiverLoopError: it does not start.
    """

    def __init__(self, model: str, device: torch.device) -> None:
        folder, self.version = find_sample_app()
        self._scratch = tempfile.TemporaryDirectory(prefix="liverloop-sample-app-")
        self._log = Path(self._scratch.name) / "log.txt"
        command = [sys.executable, "-P", _WORKER, folder, model, device, torch.get_num_threads(), self._scratch.name]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self.about: dict[str, Any] = {"monailabel": self.version, "model": model, **self._answer()}

    def __enter__(self) -> "SampleApp":
        """The process runs already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        if kind is not None:
            self._process.kill()
        self._process.wait()
        self._scratch.cleanup()

    def check_memory(self, voxels: int) -> None:
        """Refuse an image for which the system would have to end processes.

        Args:
            voxels: of the image.

        Raises:
            BadInputError: it needs more memory than there is.
        """
        needed = _WINDOWS_BYTES + _COPIES * torch.float32.itemsize * self.about["classes"] * voxels
        available = psutil.virtual_memory().available
        if needed > available:
            msg = (
                f"the sample app's model {self.about['model']} with {self.about['classes']} classes needs about "
                f"{needed / 1e9:.1f} GB for {voxels} voxels, of which {available / 1e9:.1f} GB are free; choose a "
                "smaller volume, or monailabel-radiology-spleen, which has 2 classes"
            )
            raise BadInputError(msg)

    def segment(self, image: Path) -> dict[str, Any]:
        """Segment an image file.

        Returns:
            `seconds` by stage, rounded by MONAI Label to 0.01 s, and in `total`; `loaded_memory_mb` before,
            `peak_memory_mb` and `peak_gpu_memory_mb` of its process meanwhile.

        Raises:
            LiverLoopError: the sample app failed.
        """
        assert self._process.stdin is not None
        number = self._process.pid
        reset_peak_memory(number)
        loaded = memory_mb(number)
        print(image.resolve(), file=self._process.stdin, flush=True)
        taken = self._answer()
        return {
            "seconds": {**taken["seconds"], "total": taken["total"]},
            "loaded_memory_mb": loaded,
            "peak_memory_mb": peak_memory_mb(number),
            "peak_gpu_memory_mb": taken["peak_gpu_memory_mb"],
        }

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        code = self._process.wait()
        with self._log.open() as log:
            said = "".join(deque(log, _LINES)).strip()
        msg = f"MONAI Label's sample app ended with code {code}: {said or 'it said nothing'}"
        if code < 0:
            msg += "; a system without enough memory ends processes, try a smaller volume"
        raise LiverLoopError(msg)


def find_sample_app() -> tuple[Path, str]:
    """Folder of the radiology sample app in MONAI Label's package, and the version of that.

    Raises:
        NotFoundError: MONAI Label is not installed, or without its sample apps.
    """
    try:
        package = distribution("monailabel")
    except PackageNotFoundError:
        msg = "MONAI Label is not installed; install requirements.txt"
        raise NotFoundError(msg) from None
    for file in package.files or ():
        if file.as_posix().endswith(_MAIN):
            return Path(str(package.locate_file(file))).resolve().parent, package.version
    msg = f"monailabel {package.version} is installed without {_MAIN}; install its wheel from PyPI"
    raise NotFoundError(msg)
