"""How far apart two surfaces are, in mm: average, root mean square and maximum symmetric surface distance.

A mask's surface is the mask without its erosion by the 18-neighborhood, so that it is thick enough to have no holes
across edges; outside of the array is background, and a mask that touches the border has a surface there. Distances run
from every surface voxel of one mask to the nearest surface voxel of the other, both ways.
Source: Heimann et al., IEEE Transactions on Medical Imaging 28:1251-1265, 2009, doi:10.1109/TMI.2009.2013851.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from lib.box import common_box
from lib.errors import BadInputError


@dataclass(frozen=True)
class SurfaceDistances:
    """Symmetric surface distances in mm."""

    assd: float
    rmsd: float
    msd: float


def surface(mask: NDArray) -> NDArray[np.bool_]:
    """Voxels of a 3D mask that have background among their 18 face and edge neighbors.

    Args:
        mask: three axes in any order; every value but 0 is foreground.

    Returns:
        bool array of the same shape.
    """
    mask = mask != 0
    # The 18-neighborhood is the union of the three 3x3 squares in the coordinate planes, and a square is a line times
    # a line: six shifted lines do the work of eighteen neighbors.
    along_x, along_y = _erode(mask, 0), _erode(mask, 1)
    core = _erode(along_x, 1)
    core &= _erode(along_x, 2)
    core &= _erode(along_y, 2)
    return mask & ~core


def surface_distances(reference: NDArray, prediction: NDArray, spacing: Sequence[float]) -> SurfaceDistances | None:
    """Symmetric distances between the surfaces of two masks.

    Args:
        reference: 3D mask; every value but 0 is foreground.
        prediction: mask of the same shape.
        spacing: voxel size in mm along the three axes of the masks.

    Returns:
        Distances in mm; None when a mask is empty, as there is no distance to nothing.

    Raises:
        BadInputError: the masks differ in shape or are not 3D, or a spacing is not positive.
    """
    if reference.shape != prediction.shape or reference.ndim != 3:
        msg = f"the masks must be 3D and of one shape, not {reference.shape} and {prediction.shape}"
        raise BadInputError(msg)
    if len(spacing) != 3 or not all(np.isfinite(step) and step > 0 for step in spacing):
        msg = f"the spacing must be three positive numbers in mm, not {tuple(spacing)}"
        raise BadInputError(msg)
    box = common_box(reference, prediction)
    reference, prediction = reference[box] != 0, prediction[box] != 0
    if not reference.any() or not prediction.any():
        return None

    of_reference, of_prediction = surface(reference), surface(prediction)
    sizes = np.count_nonzero(of_reference) + np.count_nonzero(of_prediction)
    # Voxels on both surfaces are 0 mm apart: they count, but need no search.
    there = _nearest(of_reference & ~of_prediction, of_prediction, spacing)
    back = _nearest(of_prediction & ~of_reference, of_reference, spacing)
    return SurfaceDistances(
        assd=float((there.sum() + back.sum()) / sizes),
        rmsd=float(np.sqrt(((there**2).sum() + (back**2).sum()) / sizes)),
        msd=float(max(there.max(initial=0.0), back.max(initial=0.0))),
    )


def _erode(mask: NDArray[np.bool_], axis: int) -> NDArray[np.bool_]:
    """Erosion by a line of three voxels along `axis`; outside is background."""
    moved = np.moveaxis(mask, axis, 0)
    result = np.zeros_like(mask)
    inner = np.moveaxis(result, axis, 0)
    np.logical_and(moved[:-2], moved[1:-1], out=inner[1:-1])
    inner[1:-1] &= moved[2:]
    return result


def _nearest(points: NDArray[np.bool_], targets: NDArray[np.bool_], spacing: Sequence[float]) -> NDArray[np.float64]:
    """Distance in mm from each voxel of `points` to the nearest of `targets`."""
    if not points.any():
        return np.zeros(0)
    scale = np.asarray(spacing, dtype=np.float64)
    # Voxel grids are evenly spread already: balancing the tree costs more than it saves.
    tree = cKDTree(np.argwhere(targets) * scale, balanced_tree=False, compact_nodes=False)
    distances, _ = tree.query(np.argwhere(points) * scale)
    return np.asarray(distances, dtype=np.float64)
