"""MONAI Label's inference task: a thin shell around `lib.inference.shared`."""

import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.infer_v2 import InferType
from monailabel.tasks.infer.basic_infer import BasicInferTask
from monailabel.utils.others.generic import device_list

from lib.errors import BadInputError
from lib.inference.device import choose_device
from lib.inference.model import ModelSource
from lib.inference.observer import Watch
from lib.inference.shared import SharedSegmenter
from lib.inference.stopwatch import Stopwatch
from lib.settings import Settings
from lib.transforms.onehot import planes_as_images
from lib.transforms.postprocessing import PostprocessingSettings
from lib.volume import Volume
from lib.volume_io import LABEL_SUFFIXES, write_label, write_planes

_PLANES = ("seg.nrrd", "images")
_STEPS = "steps"  # on its way through MONAI Label's result


class LiverTumorInferTask(BasicInferTask):
    """Segments liver and tumor in one CT and answers with a label of exactly the image's geometry.

    Request keys beside MONAI Label's own: `result_extension` (`.nrrd`, `.nii.gz`, `.nii`, `.seg.nrrd`),
    `result_compress`, every switch of the post-processing (`largest_liver`, `fill_holes`, ...), and `planes`:
    `"seg.nrrd"` for one binary layer per class, `"images"` for a zip of one PNG per class and slice. Only the server
    itself sets `client_id` (requests of different clients take turns), `background` (all others go first) and
    `sent_once` (the file is removed after the answer).

    Args:
        settings: the app's settings.
        source: where the weights come from.
        watch: see `SharedSegmenter`.
    """

    def __init__(self, settings: Settings, source: ModelSource, watch: Watch | None = None) -> None:
        self.settings = settings
        self.source = source
        self.shared = SharedSegmenter(settings, source, watch)
        switches = settings.postprocessing.model_dump()
        devices = device_list()
        super().__init__(
            path=[str(source.starter), str(source.published)],
            network=None,
            type=InferType.SEGMENTATION,
            labels=settings.label_indices(),
            dimension=3,
            description="Liver and tumor in CT: 2D U-Net on axial slices at native resolution",
            config={
                "device": devices if "cpu" in devices else [*devices, "cpu"],
                "result_extension": ".nrrd",
                "result_dtype": "uint8",
                "result_compress": True,  # a four-hundredth to write, to send and to wait for
                "planes": "",
                **switches,
            },
        )

    def pre_transforms(self, data: dict[str, Any] | None = None) -> list:
        """Only checks: the CT is read when the network is free, so that one volume is in memory, not one per client."""
        return [self._prepare]

    def inverse_transforms(self, data: dict[str, Any] | None = None) -> None:
        """None: the network sees a re-ordered view, and `Volume.with_axial` turns its output back."""
        return

    def post_transforms(self, data: dict[str, Any] | None = None) -> list:
        """None: the label is finished already."""
        return []

    def run_inferer(self, data: dict[str, Any], convert_to_batch: bool = True, device: str = "cuda") -> dict[str, Any]:
        """From the file to the finished label; what was made already is not made again."""
        segmentation, centers, data["cached"] = self.shared.segment(
            data["image"],
            data["postprocessing"],
            choose_device(device),
            client=str(data.get("client_id") or ""),
            background=bool(data.get("background")),
            once=bool(data.get("sent_once")),
        )
        data["watch"].seconds |= segmentation.seconds
        data["model_version"], data["summary"] = segmentation.version, segmentation.summary
        data["segmentation"] = segmentation.label
        indices = self.settings.label_indices()
        data["centroids"] = [{name: [indices[name], *center]} for name, center in centers.items()]
        return data

    def writer(
        self, data: dict[str, Any], extension: str | None = None, dtype: Any = None
    ) -> tuple[str | None, dict[str, Any]]:
        """Write the label to a temporary file; MONAI Label deletes it once it is sent.

        Raises:
            BadInputError: an extension, dtype or kind of planes that can't be written.
        """
        extension = extension or data.get("result_extension") or ".nrrd"
        result = {
            "model_version": data["model_version"],
            "cached": data["cached"],
            "postprocessing": data["postprocessing"].model_dump(),
            **data["summary"],
            _STEPS: data["watch"].seconds,
        }
        if not data.get("result_write_to_file", True):
            return None, result
        with data["watch"]("write"):
            return self._write(data, extension), result

    def __call__(
        self, request: dict[str, Any], callbacks: dict[Any, Any] | None = None
    ) -> tuple[str | None, dict[str, Any]]:
        """Run MONAI Label's stages; their latencies get our own steps beside them, in seconds."""
        path, result = super().__call__(request, callbacks)
        steps = {step: round(seconds, 4) for step, seconds in result.pop(_STEPS).items()}
        result["latencies"] = {key: value for key, value in result["latencies"].items() if key != "transform"}
        result["latencies"]["steps"] = steps
        return path, result

    def close(self) -> None:
        """Break off what runs, and remove results that were not sent."""
        self.shared.close()
        _results().cleanup()

    def check(self, request: Mapping[str, Any]) -> PostprocessingSettings:
        """Refuse a request before the work, not after it.

        Returns:
            The post-processing that the request asks for.

        Raises:
            BadInputError: a value that can't be used.
        """
        extension, planes = request.get("result_extension") or ".nrrd", request.get("planes") or None
        if extension not in LABEL_SUFFIXES:
            msg = f"result_extension {extension!r} is not one of {', '.join(LABEL_SUFFIXES)}"
            raise BadInputError(msg)
        if planes is not None and planes not in _PLANES:
            msg = f"planes {planes!r} is not one of {', '.join(_PLANES)}"
            raise BadInputError(msg)
        if (request.get("result_dtype") or "uint8") != "uint8":
            msg = f"result_dtype {request['result_dtype']!r} is not supported; labels are uint8"
            raise BadInputError(msg)
        if request.get("skip_writer"):
            msg = "skip_writer is not supported; result_write_to_file = false answers with the figures alone"
            raise BadInputError(msg)
        chosen = {key: request[key] for key in PostprocessingSettings.model_fields if key in request}
        return self.settings.postprocessing.changed(chosen)

    def _prepare(self, data: dict[str, Any]) -> dict[str, Any]:
        data["postprocessing"] = self.check(data)
        if not isinstance(data.get("image"), str):
            msg = "the image must be an image id, an uploaded file or a session"
            raise BadInputError(msg)
        data["watch"] = Stopwatch()
        return data

    def _write(self, data: dict[str, Any], extension: str) -> str:
        label, planes = data["segmentation"], data.get("planes") or None
        if planes == "images":
            return self._zip_planes(label)
        with _temporary_result(".seg.nrrd" if planes else extension) as path:
            if planes:
                write_planes(path, label, self.settings.labels)
            else:
                # Sent and removed: nobody looks for it after a power cut.
                write_label(path, label, self.settings.labels, compress=bool(data["result_compress"]), durable=False)
        return path

    def _zip_planes(self, label: Volume) -> str:
        with tempfile.TemporaryDirectory() as folder, _temporary_result(".zip") as result:
            written = planes_as_images(label.axial(), self.settings.label_indices(), folder)
            with zipfile.ZipFile(result, "w", zipfile.ZIP_STORED) as archive:
                for path in written:
                    archive.write(path, path.relative_to(folder))
        return result


@cache
def _results() -> tempfile.TemporaryDirectory[str]:
    """The folder of results until they are sent.

    Not the temporary folder itself: MONAI Label's client saves what it gets there under the name of the server's file,
    and on the same machine the server, which deletes its file after the answer, would delete the client's.
    """
    return tempfile.TemporaryDirectory(prefix="liverloop-")


@contextmanager
def _temporary_result(suffix: str) -> Iterator[str]:
    """A new temporary file that stays unless writing it fails."""
    handle, path = tempfile.mkstemp(prefix="liverloop-", suffix=suffix, dir=_results().name)
    os.close(handle)
    try:
        yield path
    except BaseException:
        Path(path).unlink(missing_ok=True)
        raise
