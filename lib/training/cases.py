"""Labelled cases as files: which side they are on, whether image and label fit, which slices are worth training on."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.errors import BadInputError
from lib.labels import NOT_LOOKED_AT
from lib.store.patients import patient_of
from lib.training.split import Side, divide
from lib.volume import Grid, Volume, same_geometry
from lib.volume_io import read_label, stem_of

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


def find_cases(datalist: Iterable[Mapping[str, Any]]) -> list[CaseFiles]:
    """MONAI Label's `[{"image": path, "label": path}, ...]`, by name; `side`, `patient` and `voxels` are optional."""
    cases = [
        CaseFiles(
            Path(entry["image"]), Path(entry["label"]), *(entry.get(key) for key in ("side", "patient", "voxels"))
        )
        for entry in datalist
    ]
    return sorted(cases, key=lambda case: case.name)


def patients_of(cases: Iterable[CaseFiles], pattern: str) -> dict[str, str]:
    """The patient of each case, by its name; see `lib.store.patients.patient_of` for the pattern."""
    return {case.name: case.patient or patient_of(case.name, pattern) for case in cases}


def split_cases(cases: Sequence[CaseFiles], validation_fraction: float) -> tuple[list[CaseFiles], list[CaseFiles]]:
    """Cases to train on and cases to validate with.

    Args:
        cases: those without a side get their patient's by a hash, see `lib.training.split.divide`; without a known
            patient, each is a patient of its own.
        validation_fraction: the share of validation among these.
    """
    patients = {case.name: case.patient or case.name for case in cases}
    decided = {patients[case.name]: case.side for case in cases if case.side is not None}
    by_patient = divide(patients.values(), validation_fraction, decided=decided)
    sides = {case.name: case.side or by_patient[patients[case.name]] for case in cases}
    training = [case for case in cases if sides[case.name] == "training"]
    return training, [case for case in cases if sides[case.name] == "validation"]


def checked_label(files: CaseFiles, grid: Grid, classes: int) -> Volume:
    """A case's label, on its image's grid.

    Raises:
        BadInputError: it can't be read, lies elsewhere, or holds an index beyond `classes`.
        NotFoundError: its file is gone.
    """
    label = read_label(files.label)
    check_grid(files.name, grid, label.grid)
    unknown = (label.array >= classes) & (label.array != NOT_LOOKED_AT)
    if unknown.any():
        msg = f"{files.name}: the label holds {label.array[unknown].max()}, but only 0 to {classes - 1} are classes"
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
    """Which slices of a label `(Z, Y, X)` are worth keeping, ascending.

    Those with a class, a margin around them and every fourth of the others; none of which nothing was looked at.
    """
    keep, looked_at = np.zeros(len(label), bool), np.ones(len(label), bool)
    keep[::FAR_SLICE_STEP] = True
    for z, each in enumerate(label):
        if each.any():
            unseen = each == NOT_LOOKED_AT
            looked_at[z] = not unseen.all()
            if (each.astype(bool) & ~unseen).any():
                keep[max(0, z - _MARGIN_SLICES) : z + _MARGIN_SLICES + 1] = True
    return np.flatnonzero(keep & looked_at)
