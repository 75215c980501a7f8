"""A CT or label volume: voxels and where they lie in the patient.

Arrays are `(X, Y, Z)` in the file's own voxel order; `affine` maps voxel indices to patient millimeters in RAS+
(nibabel's and MONAI's convention). The network and the metrics see *axial* arrays `(Z, Y, X)`: slices from feet to
head, rows from anterior to posterior, columns from the patient's right to left (LPS), whatever the file's order.
"""

import math
from dataclasses import dataclass

import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from numpy.typing import NDArray

from lib.errors import BadInputError
from lib.limits import DEFAULT_LIMITS, MEGABYTE, Limits

AIR_HU = -1024
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # of DICOM's and NRRD's patient coordinates to NIfTI's
MAX_IN_PLANE, MAX_SLICES = 2048, 4096
_MOST_AXES = 16  # as in NRRD
_FARTHEST_MM, _SMALLEST_VOXEL_MM3, _FLATTEST = 1e6, 1e-9, 1e-6
_AXIAL = axcodes2ornt(("L", "P", "S"))


@dataclass(frozen=True, eq=False)
class Grid:
    """Where voxels lie, without the voxels.

    Args:
        shape: voxels along `(X, Y, Z)`.
        affine: `(4, 4)` float64, voxel index to RAS+ mm.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in ml, right for sheared affines too."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels with geometry.

    Args:
        array: `(X, Y, Z)`; int16 HU for images, uint8 class indices for labels.
        affine: `(4, 4)` float64, voxel index to RAS+ mm.

    Raises:
        BadInputError: the array is not 3D, has no voxels, or the affine is not an invertible finite 4x4 matrix.
    """

    array: NDArray
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.array.ndim != 3 or 0 in self.array.shape:
            msg = f"a volume needs three axes with at least one voxel each, not shape {self.array.shape}"
            raise BadInputError(msg)
        affine = np.asarray(self.affine, dtype=np.float64)
        if not _places(affine):
            msg = f"the affine must be an invertible, finite 4x4 matrix, not {affine.tolist()}"
            raise BadInputError(msg)
        object.__setattr__(self, "affine", affine)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along `(X, Y, Z)`."""
        x, y, z = self.array.shape
        return x, y, z

    @property
    def grid(self) -> Grid:
        """Shape and affine."""
        return Grid(self.shape, self.affine)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size along `(X, Y, Z)` in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in ml, right for sheared affines too."""
        return self.grid.voxel_ml

    def axial(self) -> NDArray:
        """The voxels as `(Z, Y, X)` axial slices (LPS); a view, not a copy."""
        return apply_orientation(self.array, _to_axial(self.affine)).transpose(2, 1, 0)

    @property
    def axial_spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along the axes `(Z, Y, X)` of `axial()`."""
        source = np.argsort(_to_axial(self.affine)[:, 0])  # which file axis became the axial X, Y, Z
        x, y, z = (self.spacing[int(axis)] for axis in source)
        return z, y, x

    def with_axial(self, array: NDArray) -> "Volume":
        """A volume of this geometry from voxels given as `(Z, Y, X)`: the inverse of `axial()`.

        Raises:
            BadInputError: `array` has not the shape of `axial()`.
        """
        expected = self.axial().shape
        if array.shape != expected:
            msg = f"axial voxels of shape {array.shape} do not fit this volume's {expected}"
            raise BadInputError(msg)
        back = ornt_transform(_AXIAL, io_orientation(self.affine))
        return Volume(np.asfortranarray(apply_orientation(array.transpose(2, 1, 0), back)), self.affine)


def _places(affine: NDArray[np.float64]) -> bool:
    """Whether each voxel has a place of its own within a kilometer, and each axis a direction."""
    if affine.shape != (4, 4) or not (np.abs(affine) <= _FARTHEST_MM).all():  # so for NaN
        return False
    axes = affine[:3, :3]
    volume, edges = abs(np.linalg.det(axes)), np.linalg.norm(axes, axis=0)
    return bool(volume >= max(_SMALLEST_VOXEL_MM3, _FLATTEST * edges.prod()))


def same_geometry(first: Volume | Grid, second: Volume | Grid, tolerance_mm: float = 0.01) -> bool:
    """Whether two volumes have one shape and put every corner voxel within `tolerance_mm` of each other."""
    return first.shape == second.shape and corner_distance(first, second) <= tolerance_mm


def corner_distance(first: Volume | Grid, second: Volume | Grid) -> float:
    """The largest distance in mm between the positions that two affines give to the corners of `first`'s grid."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in first.shape], [1])).reshape(4, -1)
    difference = (first.affine - second.affine)[:3] @ corners
    return float(np.linalg.norm(difference, axis=0).max())


def checked_shape(
    shape: tuple[int, ...], name: str, layers: int = 1, limits: Limits = DEFAULT_LIMITS
) -> tuple[int, int, int]:
    """The shape `(X, Y, Z)` that a header announces, before memory is taken for it.

    Args:
        shape: of the stored array; trailing axes of length one are dropped, a 2D image is one slice.
        name: of the file, for the message.
        layers: how many such volumes the file holds.
        limits: what is taken.

    Raises:
        BadInputError: another count of axes, an empty one, or larger than any CT.
    """
    if len(shape) > _MOST_AXES:
        msg = f"{name}: has {len(shape)} axes; expected one 3D volume"
        raise BadInputError(msg)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) == 2:
        shape = (*shape, 1)
    if len(shape) != 3:
        msg = f"{name}: has {len(shape)} axes {shape}; expected one 3D volume"
        raise BadInputError(msg)
    if min(shape) < 1 or layers < 1:
        msg = f"{name}: has no slices (shape {shape})"
        raise BadInputError(msg)
    first, second, third = sorted(shape)
    voxels = first * second * third * layers
    if first > MAX_IN_PLANE or second > MAX_IN_PLANE or third > MAX_SLICES or voxels > limits.voxels:
        msg = (
            f"{name}: shape {shape} is larger than any CT we take (in plane {MAX_IN_PLANE}, {MAX_SLICES} slices, "
            f"{limits.voxels:,} voxels)"
        )
        raise BadInputError(msg)
    x, y, z = shape
    return x, y, z


def checked_size(shape: tuple[int, ...], dtype: np.dtype, name: str, limits: Limits = DEFAULT_LIMITS) -> int:
    """Bytes of the voxels that a header announces, before memory is taken for them.

    Args:
        shape: checked, with layers if there are any.
        dtype: as they are stored.
        name: of the file, for the message.
        limits: what is taken.

    Raises:
        BadInputError: no gray values, or too much for the memory.
    """
    if dtype.fields or dtype.kind not in "iuf":
        msg = f"{name}: holds {dtype} voxels (RGB or complex); expected one gray value per voxel"
        raise BadInputError(msg)
    size = math.prod(shape) * dtype.itemsize
    if size > limits.unpacked_bytes:
        msg = (
            f"{name}: its voxels take {size / MEGABYTE:,.0f} MB, and {limits.unpacked_bytes / MEGABYTE:,.0f} MB are "
            "taken (limits.unpacked_mb); save it with smaller numbers, a CT as int16 and a label as uint8"
        )
        raise BadInputError(msg)
    return size


def _to_axial(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    return ornt_transform(io_orientation(affine), _AXIAL)
