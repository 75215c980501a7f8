"""The CT series that a DICOM SEG belongs to: which image each slice is, and where it lies; no pixels.

The voxel order is that of `lib.dicom`: X from column to column, Y from row to row, Z along the slice normal.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from lib.errors import BadInputError
from lib.volume import LPS_TO_RAS, Grid, Volume, checked_shape, corner_distance

# What reading damaged or incomplete DICOM makes pydicom, numpy and Python raise.
UNREADABLE: Any = (
    AttributeError, KeyError, IndexError, TypeError, ValueError, OverflowError, NotImplementedError, RuntimeError,
    OSError, EOFError, struct.error,
)  # fmt: skip


@dataclass(frozen=True)
class SourceSlice:
    """One slice of the series.

    Args:
        sop_class_uid: of the image that holds it.
        sop_instance_uid: of the image that holds it.
        position: center of its first pixel in mm, LPS as in DICOM.
        frame_number: from 1 in a multi-frame image; None where the image is this slice.
    """

    sop_class_uid: str
    sop_instance_uid: str
    position: tuple[float, float, float]
    frame_number: int | None = None


@dataclass(frozen=True, eq=False)
class SourceSeries:
    """A CT series without its pixels.

    Args:
        header: of any of its images, for patient, study, series and frame of reference.
        grid: shape `(columns, rows, slices)` and RAS+ affine.
        slices: one for each Z of the grid.

    Raises:
        BadInputError: the counts differ, or the grid is larger than any CT.
    """

    header: Dataset = field(repr=False)  # holds the patient's name
    grid: Grid
    slices: tuple[SourceSlice, ...]

    def __post_init__(self) -> None:
        checked_shape(self.grid.shape, "the image series")
        if len(self.slices) != self.grid.shape[2]:
            msg = f"the image series has {len(self.slices)} slices, but its grid has {self.grid.shape[2]}"
            raise BadInputError(msg)

    @property
    def series_uid(self) -> str:
        """SeriesInstanceUID."""
        return str(self.header.get("SeriesInstanceUID") or "")

    @property
    def frame_of_reference_uid(self) -> str:
        """FrameOfReferenceUID; empty where the series has none."""
        return str(self.header.get("FrameOfReferenceUID") or "")

    @property
    def orientation(self) -> NDArray[np.float64]:
        """Directions of rows and columns, `(2, 3)`, LPS."""
        columns = (LPS_TO_RAS @ self.grid.affine)[:3, :2].T
        return columns / np.linalg.norm(columns, axis=1, keepdims=True)

    @property
    def pixel_spacing(self) -> tuple[float, float]:
        """Distance of rows and of columns in mm, the order of DICOM's PixelSpacing."""
        across_columns, across_rows = np.linalg.norm(self.grid.affine[:3, :2], axis=0)
        return float(across_rows), float(across_columns)

    @property
    def slice_distance(self) -> float:
        """From one slice to the next in mm, along their normal."""
        return float(abs(np.cross(*self.orientation) @ (LPS_TO_RAS @ self.grid.affine)[:3, 2]))


def source_of(datasets: Sequence[Dataset]) -> SourceSeries:
    """Describe a series by its headers.

    Args:
        datasets: one single-frame image for each slice in any order, or one multi-frame image; pixels aren't looked
            at. That the slices stack is for `lib.dicom` to check.

    Raises:
        BadInputError: nothing, or no geometry, in the headers.
    """
    try:
        found = _frames_of(datasets[0]) if "NumberOfFrames" in datasets[0] else [_slice_of(one) for one in datasets]
        row, column = np.array(found[0][1], np.float64).reshape(2, 3)
        normal = np.cross(row, column)
        found.sort(key=lambda item: float(normal @ item[0].position))
        slices = tuple(item[0] for item in found)
        row_spacing, column_spacing = (float(value) for value in found[0][2])
        step = normal * float(found[0][3] or 1.0)
        if len(slices) > 1:
            step = np.subtract(slices[-1].position, slices[0].position) / (len(slices) - 1)
        affine = np.eye(4)
        affine[:3] = np.column_stack([row * column_spacing, column * row_spacing, step, slices[0].position])
        shape = (int(datasets[0].Columns), int(datasets[0].Rows), len(slices))
    except UNREADABLE as error:
        msg = f"the headers of the image series don't tell its geometry ({type(error).__name__}); copy the series again"
        raise BadInputError(msg) from error
    return SourceSeries(datasets[0], Grid(shape, LPS_TO_RAS @ affine), slices)


def onto_grid(volume: Volume, grid: Grid, tolerance_mm: float = 0.5) -> Volume:
    """The same voxels in another order of axes, exactly; nothing is interpolated.

    Args:
        volume: any voxel order, such as that of a NIfTI file.
        grid: the order that is wanted.
        tolerance_mm: how far the corners of the two may lie from each other.

    Returns:
        With the shape and the affine of `grid`; a view where only axes are turned.

    Raises:
        BadInputError: the two are not one grid.
    """
    # Column i of `moves` says along which axis of `grid`, and which way, one goes with axis i of the volume.
    moves = np.linalg.solve(grid.affine[:3, :3], volume.affine[:3, :3])
    axes = [int(np.abs(moves[axis]).argmax()) for axis in range(3)]
    if sorted(axes) == [0, 1, 2]:
        flips = [moves[axis, source] < 0 for axis, source in enumerate(axes)]
        turned = volume.array.transpose(axes)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
        lengths = np.array(turned.shape) - 1
        affine = volume.affine[:, [*axes, 3]].copy()
        for axis in np.flatnonzero(flips):
            affine[:3, 3] += affine[:3, axis] * lengths[axis]
            affine[:3, axis] *= -1
        result = Volume(turned, affine)
        distance = corner_distance(result, grid) if result.shape == grid.shape else np.inf
        if distance <= tolerance_mm:
            return Volume(turned, grid.affine)
        if np.isfinite(distance):
            msg = (
                f"the label lies {distance:.2f} mm beside its image series ({tolerance_mm:g} mm are allowed); "
                "resample it to the image"
            )
            raise BadInputError(msg)
    msg = (
        f"a label of {volume.shape} voxels does not have the grid of its image series, {grid.shape}; resample it to "
        "the image"
    )
    raise BadInputError(msg)


def _slice_of(dataset: Dataset) -> tuple[SourceSlice, Any, Any, Any]:
    """The slice with its orientation, pixel spacing and thickness."""
    x, y, z = (float(value) for value in dataset.ImagePositionPatient)
    found = SourceSlice(str(dataset.SOPClassUID), str(dataset.SOPInstanceUID), (x, y, z))
    return found, dataset.ImageOrientationPatient, dataset.PixelSpacing, dataset.get("SliceThickness")


def _frames_of(dataset: Dataset) -> list[tuple[SourceSlice, Any, Any, Any]]:
    shared = dataset.SharedFunctionalGroupsSequence[0]
    found = []
    for number, own in enumerate(dataset.PerFrameFunctionalGroupsSequence, start=1):
        groups = [own.get(name) or shared[name].value for name in ("PlaneOrientationSequence", "PixelMeasuresSequence")]
        orientation, measures = (group[0] for group in groups)
        x, y, z = (float(value) for value in own.PlanePositionSequence[0].ImagePositionPatient)
        one = SourceSlice(str(dataset.SOPClassUID), str(dataset.SOPInstanceUID), (x, y, z), number)
        found.append((one, orientation.ImageOrientationPatient, measures.PixelSpacing, measures.get("SliceThickness")))
    return found
