"""A folder of DICOM CT slices as one volume.

Slices are ordered by their position in the patient, never by file name, and decoded with pydicom (JPEG 2000 through
pylibjpeg). Geometry follows DICOM PS3.3 C.7.6.2 (Image Plane): LPS there, RAS+ here.
"""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from lib.errors import BadInputError

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_series(folder: str | Path) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """Read the one CT series in a folder.

    Args:
        folder: holds the slices of a single series, one file per slice; other files are ignored.

    Returns:
        int16 HU `(X, Y, Z)` (X along rows' direction of growth, Z along the slice normal) and the RAS+ affine.

    Raises:
        BadInputError: no CT slices, several series, slices missing, doubled or unevenly spaced, differing sizes or
            orientations, or pixels that can't be decoded.
    """
    folder = Path(folder)
    slices = _ct_slices(folder)
    first = slices[0]
    row, column = np.array(first.ImageOrientationPatient, dtype=np.float64).reshape(2, 3)
    normal = np.cross(row, column)
    for other in slices[1:]:
        if not np.allclose(other.ImageOrientationPatient, first.ImageOrientationPatient, atol=1e-3):
            msg = f"{folder}: the slices have different orientations; give a folder with one axial series"
            raise BadInputError(msg)
        if (other.Rows, other.Columns) != (first.Rows, first.Columns):
            msg = f"{folder}: slices of {first.Rows}x{first.Columns} and {other.Rows}x{other.Columns} are mixed"
            raise BadInputError(msg)
    slices.sort(key=lambda item: float(np.dot(normal, item.ImagePositionPatient)))
    positions = np.array([item.ImagePositionPatient for item in slices], dtype=np.float64)
    step = _slice_step(positions, normal, first, folder)

    affine = np.eye(4)
    row_spacing, column_spacing = (float(value) for value in first.PixelSpacing)
    affine[:3, 0] = row * column_spacing
    affine[:3, 1] = column * row_spacing
    affine[:3, 2] = step
    affine[:3, 3] = positions[0]
    array = np.empty((first.Columns, first.Rows, len(slices)), np.int16)
    for index, item in enumerate(slices):
        array[:, :, index] = _hounsfield(item, folder).T
    return array, _LPS_TO_RAS @ affine


def _ct_slices(folder: Path) -> list[Dataset]:
    series: dict[str, list[Dataset]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.name.startswith("."):
            continue
        try:
            dataset = pydicom.dcmread(path)
        except (InvalidDicomError, EOFError):
            continue
        if dataset.get("Modality") == "CT" and "ImagePositionPatient" in dataset and "PixelData" in dataset:
            series[str(dataset.get("SeriesInstanceUID"))].append(dataset)
    if not series:
        msg = f"{folder}: no CT slices found; give a folder with the DICOM files of one CT series"
        raise BadInputError(msg)
    if len(series) > 1:
        counts = ", ".join(f"{len(found)} slices" for found in series.values())
        msg = f"{folder}: {len(series)} CT series found ({counts}); give a folder with one"
        raise BadInputError(msg)
    return next(iter(series.values()))


def _slice_step(
    positions: NDArray[np.float64], normal: NDArray[np.float64], first: Dataset, folder: Path
) -> NDArray[np.float64]:
    if len(positions) == 1:
        return normal * float(first.get("SliceThickness") or 1.0)
    distances = np.diff(positions @ normal)
    typical = float(np.median(distances))
    if typical <= 0 or distances.min() < 0.01:
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
    return (positions[-1] - positions[0]) / (len(positions) - 1)


def _hounsfield(dataset: Dataset, folder: Path) -> NDArray[np.int16]:
    try:
        stored = dataset.pixel_array
    except (AttributeError, NotImplementedError, RuntimeError, ValueError) as error:
        name = Path(str(dataset.filename)).name
        msg = f"{folder / name}: the pixels can't be decoded ({error})"
        raise BadInputError(msg) from error
    if stored.ndim != 2:
        msg = f"{folder}: a slice has shape {stored.shape}; expected one gray value per pixel"
        raise BadInputError(msg)
    slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
    return np.clip(np.rint(stored * slope + intercept), -32768, 32767).astype(np.int16)
