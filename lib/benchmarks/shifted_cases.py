"""Labelled cases unlike those that the starter weights have learned from, to show what a training changes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import numpy as np

from lib.errors import BadInputError
from lib.phantom import PhantomSpec, draw_spec, render
from lib.training.cases import CaseFiles
from lib.volume import Volume
from lib.volume_io import read_image, read_label, stem_of, write_image, write_label

FIELD_OF_VIEW_MM = 400
_TUMORS = 5
_LEAST_RADIUS_MM = 12.0  # some voxels across, on a coarse grid too
_UNSEEN_EVERY, _FIRST_UNSEEN = 3, 1  # of the slabs, so that both kinds come from all heights of the liver


@dataclass(frozen=True)
class Cases:
    """What is trained with, and what is only looked at before and after.

    Args:
        corrected: labelled; the training divides them into training and validation.
        unseen: labelled too, and known to no training.
    """

    corrected: tuple[CaseFiles, ...]
    unseen: tuple[CaseFiles, ...]


def arterial_specs(seed: int, size: int, slices: int, slice_mm: float) -> Iterator[PhantomSpec]:
    """Specs of patients in late arterial phase who have a bright tumor of 24 mm or more, without end.

    The phantoms of the starter weights are native or portal-venous, four of five tumors in them are dark.

    Args:
        seed: of the first; the next have the next, and those without such a tumor are passed over.
        size: columns and rows, of `FIELD_OF_VIEW_MM` together.
        slices: axial slices.
        slice_mm: from one slice to the next.
    """
    pixel = FIELD_OF_VIEW_MM / size
    for number in count(seed):
        spec = draw_spec(
            number, shape=(size, size, slices), spacing=(pixel, pixel, slice_mm), phase="arterial", tumors=_TUMORS,
            orientation="LPS", tilt=0.0,
        )  # fmt: skip
        if any(lesion.kind == "hyper" and np.mean(lesion.radii) >= _LEAST_RADIUS_MM for lesion in spec.lesions):
            yield spec


def make_arterial_phantoms(
    folder: Path,
    corrected: int,
    unseen: int,
    *,
    size: int,
    slices: int,
    slice_mm: float,
    seed: int = 3001,
    progress: Callable[[], object] | None = None,
) -> Cases:
    """Render such patients into a folder.

    Args:
        folder: gets the images, and the labels in `labels/final/`.
        corrected: how many to train with.
        unseen: how many to keep apart.
        size: see `arterial_specs`, as for `slices`, `slice_mm` and `seed`.
        slices: axial slices.
        slice_mm: from one slice to the next.
        seed: of the first.
        progress: called after each phantom.

    Raises:
        BadInputError: a size that no phantom can have.
        StorageError: the folder can't be written.
    """
    files = []
    for spec in islice(arterial_specs(seed, size, slices, slice_mm), corrected + unseen):
        phantom = render(spec)
        files.append(_write(folder, f"phantom_{spec.seed}", phantom.image, phantom.label))
        if progress:
            progress()
    return Cases(tuple(files[:corrected]), tuple(files[corrected:]))


def cut_into_slabs(image: Path, label: Path, folder: Path, slabs: int = 8, gap: int = 4) -> Cases:
    """Divide one real CT along the patient's axis into slabs, each a case of its own.

    Every third slab, beginning with the second from the feet, is unseen. The slices of the gaps belong to no slab, so
    that no unseen slice has a neighbor that was trained on. It is one patient all the same: what is learned of this
    patient's contrast and tumors helps in the unseen slabs, too.

    Args:
        image: the CT.
        label: its label, on its grid.
        folder: gets the slabs, and their labels in `labels/final/`.
        slabs: how many, at least 3.
        gap: slices left out between two slabs.

    Raises:
        BadInputError: the CT has too few slices, or a file is no CT or no label.
    """
    volumes = read_image(image), read_label(label)
    total = len(volumes[0].axial())
    thickness = (total - (slabs - 1) * gap) // slabs
    if slabs < 3 or gap < 0 or thickness < 1:
        msg = f"{image.name}: {total} slices can't be divided into {slabs} slabs (3 or more) with gaps of {gap} slices"
        raise BadInputError(msg)
    files = []
    for number in range(slabs):
        first = number * (thickness + gap)
        parts = (_slices(volume, first, first + thickness) for volume in volumes)
        files.append(_write(folder, f"{stem_of(image)}_{first:03d}-{first + thickness - 1:03d}", *parts))
    unseen = files[_FIRST_UNSEEN::_UNSEEN_EVERY]
    return Cases(tuple(file for file in files if file not in unseen), tuple(unseen))


def _write(folder: Path, name: str, image: Volume, label: Volume) -> CaseFiles:
    files = CaseFiles(folder / f"{name}.nii.gz", folder / "labels" / "final" / f"{name}.nii.gz")
    write_image(files.image, image)
    write_label(files.label, label)
    return files


def _slices(volume: Volume, first: int, last: int) -> Volume:
    """Axial slices of a volume, from `first` on and before `last`, counted from the feet; where they lay before."""
    axis = int(np.abs(volume.affine[2, :3]).argmax())
    if volume.affine[2, axis] < 0:
        first, last = volume.shape[axis] - last, volume.shape[axis] - first
    affine = volume.affine.copy()
    affine[:3, 3] += first * affine[:3, axis]
    part = [slice(None)] * 3
    part[axis] = slice(first, last)
    return Volume(np.asfortranarray(volume.array[tuple(part)]), affine)
