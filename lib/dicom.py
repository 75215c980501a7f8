"""A folder of DICOM CT slices as one volume.

Slices are ordered by their position in the patient, never by file name, and decoded with pydicom (JPEG 2000 through
pylibjpeg). Geometry follows DICOM PS3.3 C.7.6.2 (Image Plane): LPS there, RAS+ here.
"""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage

from lib.errors import BadInputError

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_NEEDED = ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "Rows", "Columns", "PixelData")
_PREAMBLE = 128  # bytes before the letters DICM


def read_series(folder: str | Path) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """Read the one CT series in a folder.

    Args:
        folder: holds the slices of a single series, one file per slice; files that are not DICOM, hidden files and
            DICOM objects that are not CT images are ignored.

    Returns:
        int16 HU `(X, Y, Z)` (X from column to column, Y from row to row, Z along the slice normal) and the RAS+
        affine, sheared where the gantry was tilted.

    Raises:
        BadInputError: no CT slices, several series, slices missing, doubled or unevenly spaced, differing sizes,
            orientations or pixel spacings, a damaged file, or pixels that can't be decoded.
    """
    folder = Path(folder)
    slices = _ct_slices(folder)
    first = slices[0]
    row, column = np.array(first.ImageOrientationPatient, dtype=np.float64).reshape(2, 3)
    normal = np.cross(row, column)
    _check_alike(slices, folder)
    slices.sort(key=lambda item: float(np.dot(normal, item.ImagePositionPatient)))
    positions = np.array([item.ImagePositionPatient for item in slices], dtype=np.float64)
    step = _slice_step(positions, normal, first, folder)

    affine = np.eye(4)
    row_spacing, column_spacing = (float(value) for value in first.PixelSpacing)
    affine[:3, 0] = row * column_spacing
    affine[:3, 1] = column * row_spacing
    affine[:3, 2] = step
    affine[:3, 3] = positions[0]
    array = np.empty((first.Columns, first.Rows, len(slices)), np.int16, order="F")
    while slices:  # from the last on; with each slice go its pixels, which pydicom keeps both packed and unpacked
        item = slices.pop()
        array[:, :, len(slices)] = _hounsfield(item, folder).T
    return array, _LPS_TO_RAS @ affine


def _ct_slices(folder: Path) -> list[FileDataset]:
    """The slices of the one series, each with the attributes that its geometry needs."""
    series: dict[str, list[FileDataset]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.name.startswith(".") or not _is_dicom(path):
            continue
        try:
            dataset = pydicom.dcmread(path)
            modality, kind = dataset.get("Modality"), dataset.get("SOPClassUID")
        except (InvalidDicomError, EOFError, OSError, ValueError, NotImplementedError) as error:
            msg = f"{path}: damaged DICOM file ({' '.join(str(error).split()) or 'truncated'}); copy it again"
            raise BadInputError(msg) from error
        if kind == EnhancedCTImageStorage:
            msg = f"{path}: several slices in one file (Enhanced CT); export the series with one file per slice"
            raise BadInputError(msg)
        is_picture = kind != CTImageStorage and "ImagePositionPatient" not in dataset  # such as a dose report
        if modality != "CT" or is_picture:
            continue
        missing = [name for name in _NEEDED if dataset.get(name) in (None, "")]
        if missing:
            msg = (
                f"{path}: lacks {', '.join(missing)}; the file is damaged or not a CT slice: copy it again or remove it"
            )
            raise BadInputError(msg)
        series[str(dataset.get("SeriesInstanceUID"))].append(dataset)
    if not series:
        msg = f"{folder}: no CT slices found; give a folder with the DICOM files of one CT series"
        raise BadInputError(msg)
    if len(series) > 1:
        counts = ", ".join(f"{len(found)} slices" for found in series.values())
        msg = f"{folder}: {len(series)} CT series found ({counts}); give a folder with one"
        raise BadInputError(msg)
    return next(iter(series.values()))


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(_PREAMBLE)
        return file.read(4) == b"DICM"


def _check_alike(slices: list[FileDataset], folder: Path) -> None:
    """Refuse a series whose slices do not stack."""
    first = slices[0]
    for other in slices[1:]:
        if not np.allclose(other.ImageOrientationPatient, first.ImageOrientationPatient, atol=1e-3):
            msg = f"{folder}: the slices have different orientations; give a folder with one axial series"
            raise BadInputError(msg)
        if (other.Rows, other.Columns) != (first.Rows, first.Columns):
            msg = f"{folder}: slices of {first.Rows}x{first.Columns} and {other.Rows}x{other.Columns} are mixed"
            raise BadInputError(msg)
        if not np.allclose(other.PixelSpacing, first.PixelSpacing, rtol=1e-3):
            spacings = " and ".join("x".join(f"{value:g}" for value in item.PixelSpacing) for item in (first, other))
            msg = f"{folder}: slices with pixels of {spacings} mm are mixed"
            raise BadInputError(msg)


def _slice_step(
    positions: NDArray[np.float64], normal: NDArray[np.float64], first: FileDataset, folder: Path
) -> NDArray[np.float64]:
    """From one slice to the next in mm (LPS); the slice thickness along the normal where there is only one."""
    if len(positions) == 1:
        return normal * float(first.get("SliceThickness") or 1.0)
    distances = np.diff(positions @ normal)
    typical = float(np.median(distances))
    if distances.min() < 0.01:
        msg = f"{folder}: several slices lie at one position; the series holds doubled slices or several phases"
        raise BadInputError(msg)
    worst = int(np.argmax(abs(distances - typical)))
    if abs(distances[worst] - typical) > max(0.05 * typical, 0.05):
        msg = (
            f"{folder}: the gap after slice {worst + 1} is {distances[worst]:.2f} mm but {typical:.2f} mm elsewhere; "
            "slices are missing or unevenly spaced"
        )
        raise BadInputError(msg)
    # From first to last: right for a tilted gantry as well, where slices shift against each other.
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    off = np.linalg.norm(positions - (positions[0] + np.arange(len(positions))[:, None] * step), axis=1)
    if off.max() > max(0.5 * typical, 1.0):
        msg = f"{folder}: slice {int(off.argmax()) + 1} lies {off.max():.1f} mm beside the line of the others"
        raise BadInputError(msg)
    return step


def _hounsfield(dataset: FileDataset, folder: Path) -> NDArray[np.int16]:
    """One slice as `(Y, X)`."""
    path = folder / Path(str(dataset.filename)).name
    try:
        stored = dataset.pixel_array
    except (AttributeError, NotImplementedError, RuntimeError, ValueError) as error:
        syntax = dataset.file_meta.get("TransferSyntaxUID")
        msg = (
            f"{path}: the pixels can't be decoded ({getattr(syntax, 'name', 'no transfer syntax')}: "
            f"{' '.join(str(error).split())[:200]}); copy the file again, or convert the series to uncompressed"
        )
        raise BadInputError(msg) from error
    if stored.ndim != 2:
        msg = f"{path}: a slice has shape {stored.shape}; expected one gray value per pixel"
        raise BadInputError(msg)
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    hu = stored * float(1 if slope is None else slope) + float(intercept or 0)
    return np.clip(np.rint(hu), -32768, 32767).astype(np.int16)
