"""What a label volume holds, in numbers that a report shows: volumes in ml and the number of lesions."""

from collections.abc import Mapping

import cc3d
import numpy as np
from numpy.typing import NDArray

from lib.box import bounding_box
from lib.errors import BadInputError
from lib.labels import DEFAULT_LABELS, LIVER, TUMOR, find_index, indices
from lib.transforms.components import FACES, label_components


def summarize(
    label: NDArray[np.uint8], voxel_ml: float, names: Mapping[str, int] | None = None
) -> dict[str, float | int | dict[str, float]]:
    """Volumes of the classes and the number of lesions.

    Args:
        label: class indices, three axes in any order and direction.
        voxel_ml: volume of a voxel in ml, see `Volume.voxel_ml`.
        names: class name to index; our own classes when left out. Which of them are liver and tumor is known by name.

    Returns:
        - `volumes_ml`: class name to its volume; "liver" is the parenchyma without tumors.
        - `liver_with_tumor_ml`: liver and tumor together, the "liver" of the LiTS challenge.
        - `lesion_count`: tumor components connected through faces, counted as LiTS does.
        - `tumor_burden`: tumor over liver with tumor, 0 to 1; 0 when there is neither.

    Raises:
        BadInputError: `label` has not three axes or is not uint8, or `voxel_ml` is not a positive number.
    """
    if label.ndim != 3 or label.dtype != np.uint8:
        msg = f"a summary needs a uint8 label with three axes, not {label.dtype} of shape {label.shape}"
        raise BadInputError(msg)
    if not 0 < voxel_ml < float("inf"):
        msg = f"the volume of a voxel must be a positive number of ml, not {voxel_ml}"
        raise BadInputError(msg)
    names = indices(DEFAULT_LABELS) if names is None else names
    box = bounding_box(label)
    part = label[box] if box else label[:0]
    counts = {name: int(np.count_nonzero(part == index)) for name, index in names.items()}
    known = {find_index(name, DEFAULT_LABELS): name for name in names}
    liver, tumor = (counts.get(known.get(each.index, ""), 0) for each in (LIVER, TUMOR))
    lesions = 0
    if tumor:
        is_tumor = part == names[known[TUMOR.index]]
        lesions = label_components(is_tumor[bounding_box(is_tumor)], FACES)[1]  # LiTS joins lesions through faces only
    return {
        "volumes_ml": {name: count * voxel_ml for name, count in counts.items()},
        "liver_with_tumor_ml": (liver + tumor) * voxel_ml,
        "lesion_count": lesions,
        "tumor_burden": tumor / (liver + tumor) if liver + tumor else 0.0,
    }


def centers(label: NDArray[np.uint8], names: Mapping[str, int]) -> dict[str, tuple[int, int, int]]:
    """The voxel nearest to the center of mass of each class that is there, along the label's axes.

    Args:
        label: class indices, three axes in any order and direction.
        names: class name to index.

    Example:
        >>> centers(np.array([[[0, 1, 1, 1, 2]]], np.uint8), {"liver": 1, "tumor": 2, "vessel": 3})
        {'liver': (0, 0, 2), 'tumor': (0, 0, 4)}
    """
    if label.flags.fnc:  # F and not C: counted in the order of memory, which is several times faster
        return {name: (x, y, z) for name, (z, y, x) in centers(label.T, names).items()}
    box = bounding_box(label)
    if box is None:
        return {}
    statistics = cc3d.statistics(label[box])
    counts, found = statistics["voxel_counts"], statistics["centroids"] + [side.start for side in box]
    there = {name: found[index] for name, index in names.items() if index < len(counts) and counts[index]}
    return {name: (round(float(x)), round(float(y)), round(float(z))) for name, (x, y, z) in there.items()}
