"""Labelled cases decoded into plain arrays on disk, so that training reads single slices without unpacking volumes."""

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from lib.errors import BadInputError
from lib.labels import NOT_LOOKED_AT
from lib.training.cases import CaseFiles, checked_label, kept_slices
from lib.transforms.windowing import gray_levels
from lib.volume_io import read_image

_ARRAYS = ("image", "label", "presence", "gray_levels")
_FACTS = "case.json"
_BODY_HU = -500  # above it lies more than air
_BODY_MARGIN = 8  # pixels


class Slices:
    """A stack of slices in a `.npy` file, each read when asked for.

    Nothing is mapped into memory, so that a training's memory doesn't grow with its cases.

    Args:
        path: a C-contiguous array `(Z, Y, X)`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            npy.read_magic(file)
            self.shape, _, self.dtype = npy.read_array_header_1_0(file)
            self._start = file.tell()

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, which: int | np.integer | slice) -> NDArray[Any]:
        """Slice `(Y, X)`, or the stack `(n, Y, X)` of slices that follow each other."""
        first, last, step = which.indices(len(self)) if isinstance(which, slice) else (int(which), int(which) + 1, 1)
        if not 0 <= first < len(self) or step != 1:
            msg = f"no slice {which} in a stack of {len(self)}"
            raise IndexError(msg)
        pixels = int(np.prod(self.shape[1:]))
        offset = self._start + first * pixels * self.dtype.itemsize
        stack = np.fromfile(self._path, self.dtype, (last - first) * pixels, offset=offset)
        stack = stack.reshape(last - first, *self.shape[1:])
        return stack if isinstance(which, slice) else stack[0]


@dataclass(frozen=True)
class Case:
    """Slices of one case, ready for training: without the air around the patient and without most slices far from the
    liver.

    Args:
        name: of the case.
        folder: with the arrays.
        presence: bool `(slices, classes)`: which classes occur in each slice.
        gray_levels: int16 `(slices, 102)` of the whole slices, see `lib.transforms.windowing.gray_levels`.
        spacing: voxel size in mm along `(Z, Y, X)`.
        places: int64 `(slices,)`, of each slice in its volume, ascending; not all slices of a volume are kept.
    """

    name: str
    folder: Path
    presence: NDArray[np.bool_]
    gray_levels: NDArray[np.int16]
    spacing: tuple[float, float, float]
    places: NDArray[np.int64]

    @cached_property
    def image(self) -> Slices:
        """int16 HU `(slices, Y, X)`."""
        return Slices(self.folder / "image.npy")

    @cached_property
    def label(self) -> Slices:
        """uint8 class indices `(slices, Y, X)`, and `NOT_LOOKED_AT`."""
        return Slices(self.folder / "label.npy")

    def __len__(self) -> int:
        return len(self.presence)


def decode_case(files: CaseFiles, classes: int, folder: Path) -> Case:
    """Decode one case into a new folder.

    Kept are the slices with labels, a margin around them and every fourth of the others; of each, the box that holds
    all of the patient.

    Raises:
        BadInputError: image and label differ in geometry, or the label holds an index beyond `classes`.
        NotFoundError: a file is gone.
    """
    image = read_image(files.image)
    label = checked_label(files, image.grid, classes)
    hu, indices = image.axial(), label.axial()
    kept = kept_slices(indices)
    if not len(kept):
        msg = f"{files.name}: no slice of its label was looked at; remove the label or complete it"
        raise BadInputError(msg)
    rows, columns = _body_box(hu, indices, kept)
    folder.mkdir(parents=True)
    shape = (len(kept), rows.stop - rows.start, columns.stop - columns.start)
    checksums = {
        "image": _write(folder / "image.npy", np.dtype(np.int16), shape, (hu[z][rows, columns] for z in kept)),
        "label": _write(folder / "label.npy", np.dtype(np.uint8), shape, (indices[z][rows, columns] for z in kept)),
    }
    presence = np.stack([[(indices[z] == index).any() for index in range(classes)] for z in kept])
    levels = np.stack([gray_levels(hu[z]) for z in kept])
    for name, array in (("presence", presence), ("gray_levels", levels)):
        checksums[name] = _write(folder / f"{name}.npy", array.dtype, array.shape, iter(array))
    facts = {"spacing": list(image.axial_spacing), "places": kept.tolist(), "sha256": checksums}
    (folder / _FACTS).write_text(json.dumps(facts))
    return Case(files.name, folder, presence, levels, image.axial_spacing, kept.astype(np.int64))


def open_case(name: str, folder: Path) -> Case:
    """A case that `decode_case` wrote before, if it is still as it was written.

    Raises:
        BadInputError: something is missing or has changed.
    """
    try:
        facts = json.loads((folder / _FACTS).read_text())
        for array in _ARRAYS:
            with (folder / f"{array}.npy").open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != facts["sha256"][array]:
                    msg = f"{folder / array}.npy has changed"
                    raise BadInputError(msg)
        presence, levels = (np.load(folder / f"{array}.npy") for array in _ARRAYS[2:])
        z, y, x = facts["spacing"]
        places = np.array(facts["places"], np.int64)
        with suppress(PermissionError):  # somebody else's, which is only read
            os.utime(folder / _FACTS)  # what was used last is removed last
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"{folder} is no decoded case: {error}"
        raise BadInputError(msg) from error
    return Case(name, folder, presence, levels, (z, y, x), places)


def used_at(folder: Path) -> float:
    """When a decoded case was last used, seconds since the epoch; 0 if it is not whole."""
    try:
        return (folder / _FACTS).stat().st_mtime
    except OSError:
        return 0.0


def _body_box(hu: NDArray[np.int16], label: NDArray[np.uint8], kept: NDArray[np.intp]) -> tuple[slice, slice]:
    """Rows and columns outside of which the kept slices hold nothing but air, which is what patches get there."""
    rows, columns = np.zeros(hu.shape[1], bool), np.zeros(hu.shape[2], bool)
    for z in kept:
        there = (hu[z] > _BODY_HU) | ((label[z] > 0) & (label[z] != NOT_LOOKED_AT))
        rows |= there.any(axis=1)
        columns |= there.any(axis=0)
    return _span(rows), _span(columns)


def _span(there: NDArray[np.bool_]) -> slice:
    found = np.flatnonzero(there)
    if not len(found):
        return slice(0, len(there))
    return slice(max(0, int(found[0]) - _BODY_MARGIN), min(len(there), int(found[-1]) + 1 + _BODY_MARGIN))


def _write(path: Path, dtype: np.dtype, shape: tuple[int, ...], parts: Iterable[NDArray[Any]]) -> str:
    """Write an array part by part, so that there is no second one in memory.

    Returns:
        The file's SHA-256.
    """
    digest = hashlib.sha256()

    class _Hashed:
        def write(self, data: bytes) -> int:
            digest.update(data)
            return file.write(data)

    with path.open("xb") as file:
        header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(_Hashed(), header)  # type: ignore[arg-type]
        for part in parts:
            _Hashed().write(np.ascontiguousarray(part, dtype).tobytes())
    return digest.hexdigest()
