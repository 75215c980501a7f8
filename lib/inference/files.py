"""From image files to label files: what `scripts/infer.py` does with each case."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lib.errors import BadInputError
from lib.inference.model import Model
from lib.inference.segment import segment
from lib.inference.stopwatch import Stopwatch
from lib.settings import Settings
from lib.transforms.onehot import planes_as_images
from lib.volume import Volume
from lib.volume_io import read_image, stem_of, write_label, write_planes

Planes = Literal["seg.nrrd", "images"]


@dataclass(frozen=True)
class Job:
    """One image and where its label goes."""

    image: Path
    label: Path


def plan_jobs(images: Iterable[Path], folder: Path, extension: str) -> list[Job]:
    """Name the label of each image after it.

    Args:
        images: files or DICOM folders.
        folder: where the labels go.
        extension: of the labels, such as `.nii.gz`.

    Raises:
        BadInputError: two images have one name, or a label would overwrite an image.
    """
    # The name of a link counts, not that of its target; and "." has a name, too.
    jobs = [Job(image, folder / f"{stem_of(os.path.abspath(image))}{extension}") for image in images]
    sources = {job.image.resolve() for job in jobs}
    taken: dict[Path, Path] = {}
    for job in jobs:
        if job.label.resolve() in sources:
            msg = f"the label of {job.image} would overwrite the image {job.label}; choose another output folder"
            raise BadInputError(msg)
        if job.label in taken:
            msg = f"{taken[job.label]} and {job.image} would both be written to {job.label}; segment them one by one"
            raise BadInputError(msg)
        taken[job.label] = job.image
    return jobs


def run_job(
    job: Job,
    model: Model,
    settings: Settings,
    *,
    planes: Planes | None = None,
    on_slices: Callable[[int, int], object] | None = None,
) -> dict[str, Any]:
    """Read, segment and write one case.

    Args:
        job: the image and where its label goes.
        model: network and version.
        settings: the app's settings.
        planes: also write one plane per class beside the label: `NAME_planes.seg.nrrd`, or the folder `NAME_planes`
            with one PNG per class and slice.
        on_slices: called with the slices just done and those of the volume; with 0 once it is read.

    Returns:
        For a report: `image`, `label`, `planes`, `seconds` per step and in `total`, and what
        `lib.transforms.summary.summarize` gives.

    Raises:
        LiverLoopError: the image can't be used or the label can't be written.
    """
    watch = Stopwatch()
    with watch("read"):
        image = read_image(job.image)
    slices = len(image.axial())

    def progress(done: int) -> None:
        if on_slices:
            on_slices(done, slices)

    progress(0)
    result = segment(image, model, settings, progress=progress)
    with watch("write"):
        write_label(job.label, result.label, settings.labels)
        if planes:
            _write_planes(planes_path(job, planes), result.label, settings, planes)
    seconds = {"read": watch.seconds["read"], **result.seconds, "write": watch.seconds["write"]}
    return {
        "image": str(job.image),
        "label": str(job.label),
        **({"planes": str(planes_path(job, planes))} if planes else {}),
        "seconds": {**seconds, "total": sum(seconds.values())},
        **result.summary,
    }


def one_line(record: Mapping[str, Any]) -> str:
    """A record of `run_job` for the terminal: volumes, lesions, time."""
    volumes = ", ".join(f"{name} {volume:.1f} ml" for name, volume in record["volumes_ml"].items())
    count = record["lesion_count"]
    took = "done before" if record.get("skipped") else f"{record['seconds']['total']:.1f} s"
    return f"{record['image']}: {volumes}, {count} {'lesion' if count == 1 else 'lesions'}, {took} -> {record['label']}"


def planes_path(job: Job, planes: Planes) -> Path:
    """Where the planes of a case go: a file, or the folder of the images."""
    stem = f"{stem_of(job.label)}_planes"
    return job.label.parent / (stem if planes == "images" else f"{stem}.seg.nrrd")


def _write_planes(path: Path, label: Volume, settings: Settings, planes: Planes) -> None:
    if planes == "images":
        planes_as_images(label.axial(), settings.label_indices(), path)
    else:
        write_planes(path, label, settings.labels)
