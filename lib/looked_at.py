"""Labels of which only some axial slices were looked at: the rest is `NOT_LOOKED_AT`, neither class nor background.

Slices are counted as `Volume.axial` has them, 0 nearest the feet, whatever the order of the file's axes.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.errors import BadInputError
from lib.labels import NOT_LOOKED_AT
from lib.volume import Volume


def slices_in(ranges: Any, count: int) -> NDArray[np.bool_]:
    """Which of `count` axial slices a client names as looked at.

    Args:
        ranges: `[[41, 48], [90, 95]]`, both ends included, 0 nearest the feet.
        count: axial slices of the image.

    Raises:
        BadInputError: not such a list, or a slice that the image doesn't have.
    """
    looked_at = np.zeros(count, np.bool_)
    if not isinstance(ranges, list) or not all(_is_range(one) for one in ranges):
        text = repr(ranges)
        shown = text if len(text) <= 100 else f"{text[:100]}..."
        msg = f"looked_at must be ranges of axial slices such as [[41, 48], [90, 95]], the lower end first, not {shown}"
        raise BadInputError(msg)
    for first, last in ranges:
        if first < 0 or last >= count:
            msg = (
                f"looked_at names the axial slices {first} to {last}, but the image has those from 0, nearest the "
                f"feet, to {count - 1}"
            )
            raise BadInputError(msg)
        looked_at[first : last + 1] = True
    return looked_at


def limited_to(label: Volume, slices: NDArray[np.bool_]) -> Volume:
    """A label in which the axial slices that were not looked at say so.

    Where the label says already what was not looked at, `slices` were looked at as well: what somebody else has
    judged before stays judged.

    Args:
        label: uint8 class indices, perhaps with `NOT_LOOKED_AT`; not changed.
        slices: bool `(Z,)`, one for each axial slice.

    Returns:
        The label where in `slices` what was `NOT_LOOKED_AT` is background, and, if it was nowhere, all other slices
        are `NOT_LOOKED_AT`.
    """
    axial = label.axial().copy()
    if is_partial(label.array):
        seen = axial[slices]
        seen[seen == NOT_LOOKED_AT] = 0
        axial[slices] = seen
    else:
        axial[~slices] = NOT_LOOKED_AT
    return label.with_axial(axial)


def check_outside(label: Volume, slices: NDArray[np.bool_], before: Iterable[NDArray[np.uint8]]) -> None:
    """Make sure that nobody's work lies in axial slices that were not looked at, where it would be lost.

    What was there before, such as an automatic segmentation that nobody corrected there, is no work.

    Args:
        label: uint8 class indices.
        slices: bool `(Z,)`, the axial slices that were looked at.
        before: label volumes of the same shape and axes, from which the label may have been made.

    Raises:
        BadInputError: a voxel outside of `slices` holds a class that none of `before` holds there.
    """
    views = [Volume(array, label.affine).axial() for array in before]
    painted = [
        z
        for z, each in enumerate(label.axial())
        if not slices[z] and ((each != 0) & np.all([each != view[z] for view in views], axis=0)).any()
    ]
    if painted:
        where = f"slice {painted[0]}" if len(painted) == 1 else f"slices {_as_ranges(painted)}"
        msg = (
            f"something was painted in the axial {where} (0 is nearest the feet), outside the slices that were looked "
            "at, and would be lost; mark them as looked at, too, or erase it there"
        )
        raise BadInputError(msg)


def is_partial(array: NDArray[np.uint8]) -> bool:
    """Whether a label volume of any shape, uint8, holds voxels that nobody looked at."""
    return bool(array.max(initial=0) == NOT_LOOKED_AT)  # the largest value there is, and found without another array


def slices_looked_at(label: Volume) -> tuple[int, int] | None:
    """How many axial slices hold a voxel that was looked at, of how many; None where everything was looked at."""
    if not is_partial(label.array):
        return None
    axial = label.axial()
    return sum(bool((each != NOT_LOOKED_AT).any()) for each in axial), len(axial)


def check_looked_at(label: Volume, *, named: bool) -> None:
    """Make sure that somebody looked at something, and that 255 is meant so.

    Args:
        label: uint8 class indices, perhaps with `NOT_LOOKED_AT`.
        named: whether who sent it has named its values.

    Raises:
        BadInputError: all of it is `NOT_LOOKED_AT`; or its values have no names and it is a mask of 0 and 255, which
            would say that there is nothing just where something was painted.
    """
    if not is_partial(label.array):
        return
    judged = label.array != NOT_LOOKED_AT
    if not judged.any():
        msg = "no slice of the label was looked at, so it says nothing; mark the slices that you judged"
        raise BadInputError(msg)
    if named or label.array[judged].any():
        return
    if any(each.any() and not each.all() for each in Volume(judged, label.affine).axial()):
        msg = (
            "the label holds 0 and 255 within one slice and no class; 255 means that nobody looked there, so send "
            "label_info with a name for the value if it is a class"
        )
        raise BadInputError(msg)


def both_judged(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Two label volumes of one shape that are background wherever either was not looked at; copies only if needed.

    Raises:
        BadInputError: the shapes differ.
    """
    if first.shape != second.shape:
        msg = f"label volumes of {first.shape} and {second.shape} voxels can't be compared"
        raise BadInputError(msg)
    ignored = (first == NOT_LOOKED_AT) | (second == NOT_LOOKED_AT)
    if not ignored.any():
        return first, second
    return np.where(ignored, np.uint8(0), first), np.where(ignored, np.uint8(0), second)


def _is_range(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and len(value) == 2
        and all(isinstance(end, int) and not isinstance(end, bool) for end in value)
        and value[0] <= value[1]
    )


def _as_ranges(numbers: Sequence[int]) -> str:
    """`[3, 5, 6, 7]` as `3, 5 to 7`."""
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
