"""Read CT images and labels, write labels: NIfTI, NRRD, DICOM folders and Slicer's `.seg.nrrd`.

Images are read once, on their stored integers, and refused with a reason when they are not a CT. Sizes are checked
by the header alone, and no more than the header announces is ever unpacked. Files are written aside and renamed, so
that nobody ever reads half a label.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np
from isal import igzip
from isal.igzip_lib import IsalError
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from lib.dicom import read_series
from lib.errors import BadInputError, NotFoundError
from lib.files import atomic_write
from lib.labels import Label
from lib.limits import DEFAULT_LIMITS, Limits
from lib.nifti_file import read_nifti, read_nifti_grid
from lib.nrrd_file import REQUIRED, Nrrd, NrrdError, is_packed_nrrd, read_nrrd, read_nrrd_grid, write_nrrd
from lib.segments import Segment, segment_fields
from lib.volume import AIR_HU, Grid, Volume

IMAGE_SUFFIXES = (".nii.gz", ".nii", ".nrrd")
LABEL_SUFFIXES = (".seg.nrrd", *IMAGE_SUFFIXES)
# What truncated and otherwise damaged files make their readers raise.
_DAMAGED: Any = (EOFError, zlib.error, IsalError, WrapStructError)
_UNREADABLE: Any = (
    *_DAMAGED, OSError, ValueError, KeyError, IndexError, OverflowError, ImageFileError, HeaderDataError,
    nrrd.NRRDError,
)  # fmt: skip


def suffix_of(path: str | Path, suffixes: tuple[str, ...] = LABEL_SUFFIXES) -> str:
    """The known image suffix of a file name, `.seg.nrrd` and `.nii.gz` before their last part.

    Raises:
        BadInputError: the name ends in none of `suffixes`.
    """
    name = Path(path).name.lower()
    for suffix in suffixes:
        if name.endswith(suffix):
            return suffix
    msg = f"{Path(path).name}: unknown kind of file; use one of {', '.join(suffixes)}"
    raise BadInputError(msg)


def stem_of(path: str | Path) -> str:
    """File name without its image suffix: `case_1.nii.gz` gives `case_1`; folders keep their whole name."""
    name = Path(path).name
    return next((name[: -len(suffix)] for suffix in LABEL_SUFFIXES if name.lower().endswith(suffix)), name)


def read_image(path: str | Path, limits: Limits = DEFAULT_LIMITS) -> Volume:
    """Read a CT.

    Args:
        path: `.nii`, `.nii.gz`, `.nrrd`, or a folder with one DICOM series.
        limits: what is taken.

    Returns:
        int16 HU; padding below -1024 (scanners write -2000 or -3024 outside their field of view) becomes air.

    Raises:
        NotFoundError: there is no such file.
        BadInputError: not readable, not 3D, absurdly large, NaN or infinite, or not CT-like.
    """
    path = Path(path)
    if path.is_dir():
        array, affine = read_series(path, limits)
    else:
        array, affine, _ = _read(path, IMAGE_SUFFIXES, limits)
    return as_image(array, affine, path)


def as_image(array: NDArray, affine: NDArray[np.float64], path: str | Path) -> Volume:
    """A CT of voxels that were read already, see `read_image`.

    Args:
        array: `(X, Y, Z)`, numbers of any type; may be changed.
        affine: RAS+ mm.
        path: where they come from, for messages.

    Raises:
        BadInputError: NaN or infinite, not CT-like, or no affine.
    """
    path = Path(path)
    return _volume(_as_hounsfield(array, path), affine, path)


def read_grid(path: str | Path, limits: Limits = DEFAULT_LIMITS) -> Grid:
    """Shape and affine of an image or label by its header alone; milliseconds where `read_image` takes seconds.

    Args:
        path: `.nii`, `.nii.gz`, `.nrrd` or `.seg.nrrd`.
        limits: what is taken.

    Raises:
        NotFoundError: there is no such file.
        BadInputError: the header can't be read or announces no 3D volume of gray values that we take.
    """
    path = Path(path)
    with _explained(path, LABEL_SUFFIXES) as suffix:
        if suffix.endswith(".nrrd"):
            grid = read_nrrd_grid(path, may_be_layered=suffix == ".seg.nrrd", limits=limits)
        else:
            grid = read_nifti_grid(path, limits, compressed=suffix == ".nii.gz")
    # Through `Volume`'s checks of the affine, on voxels that take no memory.
    return _volume(np.broadcast_to(np.uint8(0), grid.shape), grid.affine, path).grid


def is_packed(path: str | Path) -> bool:
    """Whether the voxels of an image or label file are compressed, by its name or header.

    Raises:
        NotFoundError: there is no such file.
        BadInputError: the header can't be read.
    """
    path = Path(path)
    with _explained(path, LABEL_SUFFIXES) as suffix:
        return suffix == ".nii.gz" or (suffix.endswith(".nrrd") and is_packed_nrrd(path))


def read_label(path: str | Path, limits: Limits = DEFAULT_LIMITS) -> Volume:
    """Read a label volume: whole numbers 0..255 as uint8, not yet mapped by name.

    Args:
        path: `.nii`, `.nii.gz`, `.nrrd` or `.seg.nrrd`. Segments that lie in several layers get the values 1, 2, ...
            in their order; where they overlap the later one counts.
        limits: what is taken.

    Raises:
        NotFoundError: there is no such file.
        BadInputError: not readable, not 3D, or the values are not whole numbers in 0..255.
    """
    path = Path(path)
    stored = _read(path, LABEL_SUFFIXES, limits)
    if stored.array.ndim == 4:
        merged = np.zeros(stored.array.shape[1:], np.uint8, order="F")
        for value, segment in enumerate(stored.segments, start=1):
            merged[stored.array[segment.layer] == segment.value] = value
        return _volume(merged, stored.affine, path)
    return _volume(_as_classes(stored.array, path), stored.affine, path)


class SegmentMasks(Sequence[tuple[str, Volume]]):
    """Pairs of segment name and mask (uint8, 0 or 1); each mask is made when it is asked for, and not kept."""

    def __init__(self, layers: NDArray, affine: NDArray[np.float64], segments: Sequence[Segment]) -> None:
        self._layers, self._affine, self._segments = layers, affine, segments

    def __len__(self) -> int:
        return len(self._segments)

    def __getitem__(self, index: Any) -> Any:  # of a sequence: one pair, or several
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        segment = self._segments[index]
        return segment.name, Volume((self._layers[segment.layer] == segment.value).view(np.uint8), self._affine)


def read_segments(path: str | Path, limits: Limits = DEFAULT_LIMITS) -> SegmentMasks:
    """Read a `.seg.nrrd` as segments, whose masks may overlap.

    Args:
        path: ends in `.seg.nrrd`.
        limits: what is taken.

    Returns:
        In the file's order; empty when the file names no segments.

    Raises:
        NotFoundError: there is no such file.
        BadInputError: not readable, or not 3D.
    """
    path = Path(path)
    array, affine, segments = _read(path, LABEL_SUFFIXES, limits)
    layers = array if array.ndim == 4 else array[np.newaxis]
    _volume(layers[0], affine, path)  # its errors name the file
    return SegmentMasks(layers, affine, segments)


def write_image(path: str | Path, volume: Volume) -> None:
    """Write int16 HU as `.nii`, `.nii.gz` or `.nrrd`, whole or not at all.

    Raises:
        BadInputError: unknown suffix.
        StorageError: the disk refused.
    """
    suffix = suffix_of(path, IMAGE_SUFFIXES)
    with atomic_write(path) as temporary:
        _write(temporary, volume, suffix, {}, compress=suffix == ".nrrd")


def write_label(
    path: str | Path,
    volume: Volume,
    labels: Mapping[str, Label] | None = None,
    *,
    compress: bool = True,
    durable: bool = True,
) -> None:
    """Write a label volume, whole or not at all.

    Args:
        path: ends in `.nii`, `.nii.gz`, `.nrrd` or `.seg.nrrd`.
        volume: uint8 class indices.
        labels: names and colors; needed for `.seg.nrrd`.
        compress: gzip the voxels of NRRD files, which takes less time than writing them as they are: labels are mostly
            background.
        durable: see `lib.files.atomic_write`.

    Raises:
        BadInputError: unknown suffix, or `.seg.nrrd` without `labels`.
        StorageError: the disk refused.
    """
    suffix = suffix_of(path)
    if suffix == ".seg.nrrd" and not labels:
        msg = f"{Path(path).name}: a .seg.nrrd needs the label names"
        raise BadInputError(msg)
    volume = Volume(volume.array.astype(np.uint8, copy=False), volume.affine)
    fields = segment_fields(volume.shape, labels) if suffix == ".seg.nrrd" and labels else {}
    with atomic_write(path, durable=durable) as temporary:
        _write(temporary, volume, suffix, fields, compress=compress)


def write_planes(path: str | Path, volume: Volume, labels: Mapping[str, Label]) -> None:
    """Write one binary layer per class as a four-dimensional `.seg.nrrd` (the one-hot planes, background left out).

    Args:
        path: ends in `.seg.nrrd`.
        volume: uint8 class indices; the result has the axes `(class, X, Y, Z)`, classes in index order.
        labels: names, indices and colors.

    Raises:
        BadInputError: another suffix.
        StorageError: the disk refused.
    """
    suffix_of(path, (".seg.nrrd",))
    planes = np.empty((len(labels), *volume.shape), np.uint8, order="F")
    for plane, index in zip(planes, sorted(label.index for label in labels.values()), strict=True):
        np.equal(volume.array, index, out=plane, casting="unsafe")
    with atomic_write(path) as temporary:
        fields = segment_fields(volume.shape, labels, layered=True)
        write_nrrd(temporary, planes, volume.affine, fields, compress=True)


def _read(path: Path, suffixes: tuple[str, ...], limits: Limits) -> Nrrd:
    with _explained(path, suffixes) as suffix:
        if suffix.endswith(".nrrd"):
            return read_nrrd(path, may_be_layered=suffix == ".seg.nrrd", limits=limits)
        return Nrrd(*read_nifti(path, limits, compressed=suffix == ".nii.gz"), [])


@contextmanager
def _explained(path: Path, suffixes: tuple[str, ...]) -> Iterator[str]:
    """Gives the suffix; what readers raise on damaged files becomes an error for people."""
    if not path.is_file():
        msg = f"{path.name}: there is no such file"
        raise NotFoundError(msg)
    suffix = suffix_of(path, suffixes)
    if path.stat().st_size == 0:
        msg = f"{path.name}: the file is empty"
        raise BadInputError(msg)
    try:
        yield suffix
    except BadInputError:
        raise
    except _UNREADABLE as error:
        reason = _reason(error, suffix)
        msg = f"{path.name}: not a readable {suffix} file ({reason}); copy or export it again"
        raise BadInputError(msg) from error


def _reason(error: Exception, suffix: str) -> str:
    text = " ".join(str(error).split())[:200]
    if isinstance(error, _DAMAGED) or "Expected" in text or "Size of the data" in text:  # nibabel's and pynrrd's words
        return "truncated or damaged"
    if isinstance(error, KeyError) and error.args[:1] in {(field,) for field in REQUIRED}:
        return f"its header lacks {error.args[0]}"
    if suffix.endswith(".nrrd") and not isinstance(
        error, NrrdError
    ):  # pynrrd quotes the header, which may name a patient
        return "its header can't be understood"
    return text


def _as_hounsfield(array: NDArray, path: Path) -> NDArray[np.int16]:
    """HU as int16; works in `array` where it can, since a long CT takes half a gigabyte."""
    low, high = float(array.min()), float(array.max())  # NaN if there is any
    if not (np.isfinite(low) and np.isfinite(high)):
        count = int(array.size - np.isfinite(array).sum())
        msg = f"{path.name}: {count} voxels are NaN or infinite; a CT holds Hounsfield units"
        raise BadInputError(msg)
    if low >= 0 or high - low < 20 or (low > -2 and high < 2):
        msg = (
            f"{path.name}: values run from {low:g} to {high:g}, which is not a CT in Hounsfield units (air -1000, "
            "water 0); save it without rescaling"
        )
        raise BadInputError(msg)
    array = array.astype(np.result_type(array.dtype, np.int16), copy=False)  # int8 can't hold -1024
    if low < AIR_HU or high > 32767:
        np.clip(array, AIR_HU, 32767, out=array)
    if array.dtype.kind == "f":
        np.rint(array, out=array)
    return array.astype(np.int16, copy=False)


def _as_classes(array: NDArray, path: Path) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high)) or low < 0 or high > 255:
        msg = f"{path.name}: label values run from {low:g} to {high:g}; expected whole numbers from 0 to 255"
        raise BadInputError(msg)
    whole = array.astype(np.uint8)
    if not np.array_equal(whole, array):
        msg = f"{path.name}: label values are not whole numbers; save the label without interpolation"
        raise BadInputError(msg)
    return whole


def _volume(array: NDArray, affine: NDArray[np.float64], path: Path) -> Volume:
    try:
        return Volume(array, affine)
    except BadInputError as error:
        msg = f"{path.name}: {error}"
        raise BadInputError(msg) from error


def _write(temporary: Path, volume: Volume, suffix: str, fields: Mapping[str, Any], *, compress: bool) -> None:
    if suffix.endswith(".nrrd"):
        write_nrrd(temporary, volume.array, volume.affine, fields, compress=compress)
        return
    image = nib.Nifti1Image(volume.array, volume.affine)
    image.set_sform(volume.affine, code=1)
    try:
        # Readers that prefer the quaternion then find the same geometry.
        image.set_qform(volume.affine, code=1, strip_shears=False)
    except HeaderDataError:
        image.set_qform(None, code=0)  # sheared: no quaternion holds it, and only the sform is right
    image.header.set_xyzt_units("mm")
    content = image.to_bytes()
    # Without a time, so that equal volumes are equal files.
    temporary.write_bytes(igzip.compress(content, compresslevel=1, mtime=0) if suffix == ".nii.gz" else content)
