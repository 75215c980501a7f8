"""Read CT images and labels, write labels: NIfTI, NRRD, DICOM folders and Slicer's `.seg.nrrd`.

Images are read once, on their stored integers, and refused with a reason when they are not a CT. Files are written
aside and renamed, so that nobody ever reads half a label.
"""

import zlib
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
from isal import igzip
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from lib.dicom import read_series
from lib.errors import BadInputError, NotFoundError
from lib.files import atomic_write
from lib.labels import Label
from lib.volume import AIR_HU, Volume

IMAGE_SUFFIXES = (".nii.gz", ".nii", ".nrrd")
LABEL_SUFFIXES = (".seg.nrrd", *IMAGE_SUFFIXES)
MAX_IN_PLANE, MAX_SLICES, MAX_VOXELS = 2048, 4096, 1_200_000_000
_UNREADABLE = (OSError, EOFError, ValueError, zlib.error, ImageFileError, HeaderDataError, nrrd.NRRDError, KeyError)
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


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


def read_image(path: str | Path) -> Volume:
    """Read a CT.

    Args:
        path: `.nii`, `.nii.gz`, `.nrrd`, or a folder with one DICOM series.

    Returns:
        int16 HU; padding below -1024 (scanners write -2000 or -3024 outside their field of view) becomes air.

    Raises:
        NotFoundError: there is no such file.
        BadInputError: not readable, not 3D, absurdly large, NaN or infinite, or not CT-like.
    """
    path = Path(path)
    if path.is_dir():
        array, affine = read_series(path)
    else:
        array, affine = _read_array(path)
    hu = _as_hounsfield(array, path)
    try:
        return Volume(hu, affine)
    except BadInputError as error:
        raise BadInputError(f"{path.name}: {error}") from error


def read_label(path: str | Path) -> Volume:
    """Read a label volume: whole numbers 0..255 as uint8, not yet mapped by name.

    Raises:
        NotFoundError: there is no such file.
        BadInputError: not readable, not 3D, or the values are not whole numbers in 0..255.
    """
    path = Path(path)
    array, affine = _read_array(path)
    if array.dtype != np.uint8:
        low, high = array.min(), array.max()
        if not (np.isfinite(low) and np.isfinite(high)) or low < 0 or high > 255:
            msg = f"{path.name}: label values run from {low} to {high}; expected whole numbers from 0 to 255"
            raise BadInputError(msg)
        whole = array.astype(np.uint8)
        if not np.array_equal(whole, array):
            msg = f"{path.name}: label values are not whole numbers; save the label without interpolation"
            raise BadInputError(msg)
        array = whole
    return Volume(array, affine)


def write_image(path: str | Path, volume: Volume) -> None:
    """Write int16 HU as `.nii`, `.nii.gz` or `.nrrd`, whole or not at all."""
    suffix = suffix_of(path, IMAGE_SUFFIXES)
    with atomic_write(path) as temporary:
        _write(temporary, volume, suffix, {}, compress=suffix == ".nrrd")


def write_label(
    path: str | Path, volume: Volume, labels: Mapping[str, Label] | None = None, *, compress: bool = False
) -> None:
    """Write a label volume, whole or not at all.

    Args:
        path: ends in `.nii`, `.nii.gz`, `.nrrd` or `.seg.nrrd`.
        volume: uint8 class indices.
        labels: names and colors; needed for `.seg.nrrd`.
        compress: gzip the voxels of NRRD files (raw by default: several times faster for interactive clients).

    Raises:
        BadInputError: unknown suffix, or `.seg.nrrd` without `labels`.
        StorageError: the disk refused.
    """
    suffix = suffix_of(path)
    if suffix == ".seg.nrrd" and not labels:
        msg = "a .seg.nrrd needs the label names"
        raise BadInputError(msg)
    volume = Volume(volume.array.astype(np.uint8, copy=False), volume.affine)
    with atomic_write(path) as temporary:
        header = _segments(volume.array, labels) if suffix == ".seg.nrrd" and labels else {}
        _write(temporary, volume, suffix, header, compress=compress)


def write_planes(path: str | Path, volume: Volume, labels: Mapping[str, Label]) -> None:
    """Write one binary layer per class as a four-dimensional `.seg.nrrd` (the one-hot planes, background left out).

    Args:
        path: ends in `.seg.nrrd`.
        volume: uint8 class indices; the result has the axes `(class, X, Y, Z)`.
        labels: names, indices and colors, in index order.
    """
    suffix_of(path, (".seg.nrrd",))
    ordered = sorted(labels.items(), key=lambda item: item[1].index)
    planes = np.stack([volume.array == label.index for _, label in ordered]).astype(np.uint8)
    header = _segments(volume.array, labels)
    for position in range(len(ordered)):
        header |= {f"Segment{position}_LabelValue": "1", f"Segment{position}_Layer": str(position)}
    header |= {
        "kinds": ["list", "domain", "domain", "domain"],
        "space directions": np.vstack([np.full((1, 3), np.nan), _lps(volume)[:3, :3].T]),
    }
    with atomic_write(path) as temporary:
        _write_nrrd(temporary, planes, volume, header, compress=True)


def _read_array(path: Path) -> tuple[NDArray, NDArray[np.float64]]:
    if not path.is_file():
        msg = f"{path.name}: there is no such file"
        raise NotFoundError(msg)
    if path.stat().st_size == 0:
        msg = f"{path.name}: the file is empty"
        raise BadInputError(msg)
    suffix = suffix_of(path)
    try:
        return _read_nrrd(path) if suffix.endswith("nrrd") else _read_nifti(path)
    except BadInputError:
        raise
    except _UNREADABLE as error:
        reason = "truncated" if isinstance(error, EOFError | zlib.error) else " ".join(str(error).split())
        msg = f"{path.name}: not a readable {suffix} file ({reason})"
        raise BadInputError(msg) from error


def _read_nifti(path: Path) -> tuple[NDArray, NDArray[np.float64]]:
    image = nib.load(path)
    if not isinstance(image, nib.Nifti1Image):  # Nifti2Image derives from it
        msg = f"{path.name}: holds {type(image).__name__}, not a NIfTI volume"
        raise BadInputError(msg)
    shape = _checked_shape(image.shape, path)
    if image.get_data_dtype().fields or image.get_data_dtype().kind not in "iuf":
        msg = f"{path.name}: holds {image.get_data_dtype()} pixels (RGB or complex); expected one gray value per voxel"
        raise BadInputError(msg)
    slope, intercept = image.header.get_slope_inter()
    slope, intercept = slope or 1.0, intercept or 0.0
    raw = np.asanyarray(image.dataobj.get_unscaled()).reshape(shape)
    if slope == 1.0 and intercept == 0.0:
        return raw, image.affine
    if raw.dtype.kind in "iu" and float(slope).is_integer() and float(intercept).is_integer():
        return raw.astype(np.int32) * int(slope) + int(intercept), image.affine
    return raw.astype(np.float32) * np.float32(slope) + np.float32(intercept), image.affine


def _read_nrrd(path: Path) -> tuple[NDArray, NDArray[np.float64]]:
    with path.open("rb") as file:
        header = nrrd.read_header(file)
        if "data file" in header or "datafile" in header:
            # A detached header could name any file of the server.
            msg = f"{path.name}: keeps its voxels in another file; save it as one attached .nrrd"
            raise BadInputError(msg)
        shape = _checked_shape(tuple(int(size) for size in header["sizes"]), path)
        array = np.asarray(nrrd.read_data(header, file, index_order="F")).reshape(shape)
    directions = header.get("space directions")
    affine = np.eye(4)
    if directions is not None:
        vectors = np.asarray(directions, dtype=np.float64)
        affine[:3, :3] = vectors[np.isfinite(vectors).all(axis=1)].T
    affine[:3, 3] = np.asarray(header.get("space origin", (0, 0, 0)), dtype=np.float64)
    space = str(header.get("space", "left-posterior-superior")).lower()
    if space in {"left-posterior-superior", "lps"}:
        return array, _LPS_TO_RAS @ affine
    if space in {"right-anterior-superior", "ras"}:
        return array, affine
    msg = f"{path.name}: NRRD space {space!r} is not supported; use left-posterior-superior or right-anterior-superior"
    raise BadInputError(msg)


def _checked_shape(shape: tuple[int, ...], path: Path) -> tuple[int, int, int]:
    """Refuse by the header alone, before memory is taken."""
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) == 2:
        shape = (*shape, 1)
    if len(shape) != 3:
        msg = f"{path.name}: has {len(shape)} axes {shape}; expected one 3D volume"
        raise BadInputError(msg)
    if min(shape) < 1:
        msg = f"{path.name}: has no slices (shape {shape})"
        raise BadInputError(msg)
    first, second, third = sorted(shape)
    if first > MAX_IN_PLANE or second > MAX_IN_PLANE or third > MAX_SLICES or first * second * third > MAX_VOXELS:
        msg = (
            f"{path.name}: shape {shape} is larger than any CT we take (in plane {MAX_IN_PLANE}, {MAX_SLICES} slices, "
            f"{MAX_VOXELS:,} voxels)"
        )
        raise BadInputError(msg)
    x, y, z = shape
    return x, y, z


def _as_hounsfield(array: NDArray, path: Path) -> NDArray[np.int16]:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        count = int(array.size - np.isfinite(array).sum())
        msg = f"{path.name}: {count} voxels are NaN or infinite; a CT holds Hounsfield units"
        raise BadInputError(msg)
    low, high = float(array.min()), float(array.max())
    if low >= 0 or high - low < 20 or (low > -2 and high < 2):
        msg = (
            f"{path.name}: values run from {low:g} to {high:g}, which is not a CT in Hounsfield units (air -1000, "
            "water 0); save it without rescaling"
        )
        raise BadInputError(msg)
    if array.dtype.kind == "f":
        array = np.rint(array)
    return np.clip(array, AIR_HU, 32767).astype(np.int16)


def _lps(volume: Volume) -> NDArray[np.float64]:
    return _LPS_TO_RAS @ volume.affine


def _segments(array: NDArray, labels: Mapping[str, Label]) -> dict[str, str]:
    """Slicer's segment fields (one shared layer)."""
    header = {"Segmentation_MasterRepresentation": "Binary labelmap", "Segmentation_ContainedRepresentationNames": ""}
    extent = " ".join(f"0 {size - 1}" for size in array.shape)
    for position, (name, label) in enumerate(sorted(labels.items(), key=lambda item: item[1].index)):
        key = f"Segment{position}"
        header |= {
            f"{key}_ID": name,
            f"{key}_Name": name,
            f"{key}_LabelValue": str(label.index),
            f"{key}_Layer": "0",
            f"{key}_Extent": extent,
            f"{key}_Color": " ".join(f"{channel / 255:.6f}" for channel in label.color),
        }
    return header


def _write(temporary: Path, volume: Volume, suffix: str, header: dict, *, compress: bool) -> None:
    if suffix in {".seg.nrrd", ".nrrd"}:
        _write_nrrd(temporary, volume.array, volume, header, compress=compress)
        return
    image = nib.Nifti1Image(volume.array, volume.affine)
    image.set_sform(volume.affine, code=1)
    image.set_qform(None, code=0)  # a quaternion can't hold every affine; readers then use the sform
    image.header.set_xyzt_units("mm")
    content = image.to_bytes()
    temporary.write_bytes(igzip.compress(content, compresslevel=1) if suffix == ".nii.gz" else content)


def _write_nrrd(temporary: Path, array: NDArray, volume: Volume, header: dict, *, compress: bool) -> None:
    lps = _lps(volume)
    fields = {
        "space": "left-posterior-superior",
        "kinds": ["domain", "domain", "domain"],
        "space directions": lps[:3, :3].T,
        "space origin": lps[:3, 3],
        "encoding": "gzip" if compress else "raw",
    } | header
    nrrd.write(str(temporary), array, fields, index_order="F", compression_level=1)
