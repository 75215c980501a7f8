"""Labelled cases, decoded once into plain arrays on disk so that training reads slices without unpacking volumes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from lib.errors import BadInputError
from lib.training.split import Side, divide
from lib.volume import Grid, Volume, same_geometry
from lib.volume_io import read_image, read_label, stem_of

# Slices far from the liver teach what is not liver; a few of them are enough.
_MARGIN_SLICES = 5
FAR_SLICE_STEP = 4


@dataclass(frozen=True)
class CaseFiles:
    """One labelled image on disk.

    Args:
        image: its file.
        label: its label's file.
        side: training or validation, where that was decided for good; None where it follows from the name.
        patient: what stands for the patient in the ledger; None where it follows from the name.
        voxels: of each class in the label, where the ledger has counted them.
    """

    image: Path
    label: Path
    side: Side | None = None
    patient: str | None = None
    voxels: Mapping[str, int] | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """The image's name without its suffix."""
        return stem_of(self.image)


@dataclass(frozen=True)
class Case:
    """Slices of one case, ready for training.

    Args:
        name: of the case.
        image_file: `.npy`, int16 HU, axial `(slices, Y, X)`.
        label_file: `.npy`, uint8 class indices of the same shape.
        presence: bool `(slices, classes)`: which classes occur in each slice.
        spacing: voxel size in mm along `(Z, Y, X)`.
    """

    name: str
    image_file: Path
    label_file: Path
    presence: NDArray[np.bool_]
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @cached_property
    def image(self) -> NDArray[np.int16]:
        """int16 HU `(slices, Y, X)`, mapped from disk."""
        return np.load(self.image_file, mmap_mode="r")

    @cached_property
    def label(self) -> NDArray[np.uint8]:
        """uint8 class indices `(slices, Y, X)`, mapped from disk."""
        return np.load(self.label_file, mmap_mode="r")

    def __len__(self) -> int:
        return len(self.presence)


def find_cases(datalist: Iterable[Mapping[str, Any]]) -> list[CaseFiles]:
    """MONAI Label's `[{"image": path, "label": path}, ...]`, by name; `side`, `patient` and `voxels` are optional."""
    cases = [
        CaseFiles(
            Path(entry["image"]), Path(entry["label"]), *(entry.get(key) for key in ("side", "patient", "voxels"))
        )
        for entry in datalist
    ]
    return sorted(cases, key=lambda case: case.name)


def split_cases(cases: Sequence[CaseFiles], validation_fraction: float) -> tuple[list[CaseFiles], list[CaseFiles]]:
    """Cases to train on and cases to validate with.

    Args:
        cases: those without a side get theirs by a hash of their names, see `lib.training.split.divide`.
        validation_fraction: the share of validation among these.
    """
    decided = {case.name: case.side for case in cases if case.side is not None}
    sides = divide([case.name for case in cases], validation_fraction, decided=decided)
    training = [case for case in cases if sides[case.name] == "training"]
    return training, [case for case in cases if sides[case.name] == "validation"]


def decode_case(files: CaseFiles, classes: int, folder: Path) -> Case:
    """Decode one case into `folder`.

    Kept are the slices with labels, a margin around them and every fourth of the others.

    Raises:
        BadInputError: image and label differ in geometry, or the label holds an index beyond `classes`.
    """
    image = read_image(files.image)
    label = checked_label(files, image.grid, classes)
    hu, indices = image.axial(), label.axial()
    kept = kept_slices(indices)
    folder.mkdir(parents=True, exist_ok=True)
    case = Case(
        files.name,
        folder / f"{files.name}.image.npy",
        folder / f"{files.name}.label.npy",
        np.stack([[(indices[z] == c).any() for c in range(classes)] for z in kept]),
        image.axial_spacing,
    )
    for path, array, dtype in ((case.image_file, hu, np.int16), (case.label_file, indices, np.uint8)):
        stored = open_memmap(path, mode="w+", dtype=dtype, shape=(len(kept), *array.shape[1:]))
        for position, z in enumerate(kept):
            stored[position] = array[z]
        stored.flush()
    return case


def checked_label(files: CaseFiles, grid: Grid, classes: int) -> Volume:
    """A case's label, on its image's grid.

    Raises:
        BadInputError: it can't be read, lies elsewhere, or holds an index beyond `classes`.
        NotFoundError: its file is gone.
    """
    label = read_label(files.label)
    check_grid(files.name, grid, label.grid)
    if (highest := int(label.array.max())) >= classes:
        msg = f"{files.name}: the label holds {highest}, but only 0 to {classes - 1} are classes"
        raise BadInputError(msg)
    return label


def check_grid(name: str, image: Grid, label: Grid) -> None:
    """Make sure that the label of a case lies on its image.

    Raises:
        BadInputError: shapes differ, or corners lie more than 1 mm apart.
    """
    if not same_geometry(image, label, tolerance_mm=1.0):
        msg = f"{name}: label {label.shape} and image {image.shape} do not lie on one grid"
        raise BadInputError(msg)


def kept_slices(label: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Which slices of a label `(Z, Y, X)` are worth keeping, ascending."""
    labelled = np.flatnonzero(label.reshape(len(label), -1).any(axis=1))
    keep = np.zeros(len(label), bool)
    keep[::FAR_SLICE_STEP] = True
    for z in labelled:
        keep[max(0, z - _MARGIN_SLICES) : z + _MARGIN_SLICES + 1] = True
    return np.flatnonzero(keep)
