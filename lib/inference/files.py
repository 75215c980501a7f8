"""From image files to label files: what `scripts/infer.py` does with each case."""

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
    jobs = [Job(image, folder / f"{stem_of(image.resolve())}{extension}") for image in images]
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
        on_slices: called with the slices just done and those of the volume.

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

    result = segment(image, model, settings, progress=progress)
    with watch("write"):
        write_label(job.label, result.label, settings.labels)
        written = _write_planes(job, result.label, settings, planes) if planes else None
    seconds = {"read": watch.seconds["read"], **result.seconds, "write": watch.seconds["write"]}
    return {
        "image": str(job.image),
        "label": str(job.label),
        **({"planes": str(written)} if written else {}),
        "seconds": {**seconds, "total": sum(seconds.values())},
        **result.summary,
    }


def one_line(record: Mapping[str, Any]) -> str:
    """A record of `run_job` for the terminal: volumes, lesions, time."""
    volumes = ", ".join(f"{name} {volume:.1f} ml" for name, volume in record["volumes_ml"].items())
    count = record["lesion_count"]
    return (
        f"{record['image']}: {volumes}, {count} {'lesion' if count == 1 else 'lesions'}, "
        f"{record['seconds']['total']:.1f} s -> {record['label']}"
    )


def _write_planes(job: Job, label: Volume, settings: Settings, planes: Planes) -> Path:
    stem = job.label.parent / f"{stem_of(job.label)}_planes"
    if planes == "images":
        planes_as_images(label.axial(), settings.label_indices(), stem)
        return stem
    path = stem.with_name(f"{stem.name}.seg.nrrd")
    write_planes(path, label, settings.labels)
    return path
