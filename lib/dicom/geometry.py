"""From loose slices to a stack: order, affine, and why some do not make a volume.

Geometry follows DICOM PS3.3 C.7.6.2 (Image Plane). All positions are in mm, LPS; heights are along the slices' common
normal, which for axial slices is their z.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from lib.dicom.slices import Slice
from lib.errors import BadInputError

SamePixels = Callable[[Slice, Slice], bool]
_SAME_HEIGHT_MM = 0.01
_SAME_PLACE_MM = 0.1


def stack(slices: Sequence[Slice], name: str, same_pixels: SamePixels | None = None) -> list[Slice]:
    """The slices in the order of their heights, each once.

    Args:
        slices: of one series, in any order; those of one SOP instance and frame may come again.
        name: of the series, for messages.
        same_pixels: tells whether two slices at one position are copies of each other.

    Raises:
        BadInputError: they do not stack, or different slices lie at one position.
    """
    slices = _each_once(slices, name)
    _check_alike(slices, name)
    normal = slices[0].normal  # the same for all, so that a rounded digit in one header can't change their order
    slices.sort(key=lambda item: float(normal @ item.position))
    places: list[list[Slice]] = []
    for item in slices:
        if places and float(normal @ (item.position - places[-1][0].position)) < _SAME_HEIGHT_MM:
            places[-1].append(item)
        else:
            places.append([item])
    doubled = [place for place in places if len(place) > 1]
    for place in doubled:
        _check_copies(place, name, len(doubled), len(places), same_pixels)
    return [place[0] for place in places]


def affine_of(slices: Sequence[Slice], name: str) -> NDArray[np.float64]:
    """Voxel index `(X, Y, Z)` to mm in LPS; sheared where the gantry was tilted.

    Args:
        slices: as `stack` gives them.
        name: of the series, for messages.

    Raises:
        BadInputError: slices are missing, unevenly spaced, or lie beside the others.
    """
    first = slices[0]
    down, across = first.pixel_spacing
    affine = np.eye(4)
    affine[:3, 0] = first.orientation[0] * across
    affine[:3, 1] = first.orientation[1] * down
    affine[:3, 2] = _step(slices, name)
    affine[:3, 3] = first.position
    return affine


def _each_once(slices: Sequence[Slice], name: str) -> list[Slice]:
    found: dict[object, Slice] = {}
    for item in slices:
        key = (item.sop_instance_uid, item.frame_number) if item.sop_instance_uid else id(item)
        other = found.setdefault(key, item)
        if np.linalg.norm(other.position - item.position) > _SAME_PLACE_MM:
            msg = (
                f"{name}: slices at different positions have the same SOP Instance UID, so that a segmentation could "
                "not say which it means; export the series again"
            )
            raise BadInputError(msg)
    return list(found.values())


def _check_alike(slices: Sequence[Slice], name: str) -> None:
    """Refuse a series whose slices do not stack."""
    _check_orientations(slices, name)
    first = slices[0]
    for other in slices[1:]:
        if other.size != first.size:
            sizes = " and ".join("x".join(map(str, item.size)) for item in (first, other))
            msg = f"{name}: slices of {sizes} are mixed"
            raise BadInputError(msg)
        if not np.allclose(other.pixel_spacing, first.pixel_spacing, rtol=1e-3):
            spacings = " and ".join("x".join(f"{mm:g}" for mm in item.pixel_spacing) for item in (first, other))
            msg = f"{name}: slices with pixels of {spacings} mm are mixed"
            raise BadInputError(msg)
    stacks = Counter(item.stack for item in slices)
    if len(stacks) > 1:
        counts = ", ".join(f"{count} slices" for count in stacks.values())
        msg = f"{name}: {len(stacks)} stacks in one series ({counts}); export each as a series of its own"
        raise BadInputError(msg)


def _check_orientations(slices: Sequence[Slice], name: str) -> None:
    groups: list[list[Slice]] = []
    for item in slices:
        for group in groups:
            if np.allclose(item.orientation, group[0].orientation, atol=1e-3):
                group.append(item)
                break
        else:
            groups.append([item])
    if len(groups) > 1:
        groups.sort(key=len, reverse=True)
        first = groups[0][0]
        counts = ", ".join(f"{len(group)} {_plane(group[0], first)}" for group in groups)
        msg = f"{name}: the slices have different orientations ({counts}); give a folder with one axial series"
        raise BadInputError(msg)


def _plane(item: Slice, first: Slice) -> str:
    """The anatomical plane next to a slice; its angle to the first one where they share it."""
    names = ("sagittal", "coronal", "axial")
    plane, other = (names[int(np.argmax(abs(each.normal)))] for each in (item, first))
    if item is first or plane != other:
        return plane
    turn = np.trace(_frame(item) @ _frame(first).T)
    return f"{plane} turned by {np.degrees(np.arccos(np.clip((turn - 1) / 2, -1, 1))):.1f} degrees"


def _frame(item: Slice) -> NDArray[np.float64]:
    return np.vstack([item.orientation, item.normal])


def _check_copies(place: list[Slice], name: str, doubled: int, count: int, same_pixels: SamePixels | None) -> None:
    """Refuse slices at one height that are not copies of each other."""
    first = place[0]
    for other in place[1:]:
        aside = float(np.linalg.norm(other.position - first.position))
        if aside > _SAME_PLACE_MM:
            msg = (
                f"{name}: two slices at {first.height:.1f} mm lie {aside:.1f} mm beside each other; give a folder with "
                "one series"
            )
            raise BadInputError(msg)
        if same_pixels is None or not same_pixels(first, other):
            different = "several slices" if same_pixels is None else "slices with different pixels"
            msg = (
                f"{name}: {doubled} of {count} positions hold {different}: several phases or reconstructions in one "
                "series; export each as a series of its own"
            )
            raise BadInputError(msg)


def _step(slices: Sequence[Slice], name: str) -> NDArray[np.float64]:
    """From one slice to the next in mm; the slice thickness along the normal where there is only one."""
    first = slices[0]
    if len(slices) == 1:
        return first.normal * (first.thickness or 1.0)
    positions = np.array([item.position for item in slices])
    gaps = np.diff(positions @ first.normal)
    typical = float(np.median(gaps))
    _check_gaps(slices, gaps, typical, name)
    # From first to last: right for a tilted gantry as well, where slices shift against each other.
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    off = np.linalg.norm(positions - (positions[0] + np.arange(len(positions))[:, None] * step), axis=1)
    if off.max() > max(0.5 * typical, 1.0):
        msg = f"{name}: slice {int(off.argmax()) + 1} lies {off.max():.1f} mm beside the line of the others"
        raise BadInputError(msg)
    return step


def _check_gaps(slices: Sequence[Slice], gaps: NDArray[np.float64], typical: float, name: str) -> None:
    tolerance = max(0.05 * typical, 0.05)
    wrong = np.flatnonzero(abs(gaps - typical) > tolerance)
    if not len(wrong):
        return
    worst = int(wrong[np.argmax(abs(gaps[wrong] - typical))])
    missing = np.rint(gaps[wrong] / typical) - 1
    off = abs(gaps[wrong] - (missing + 1) * typical)
    # Many wide gaps are a change of spacing rather than lost slices.
    if missing.min() >= 1 and off.max() <= 2 * tolerance and len(wrong) <= len(gaps) / 3:
        count, place = int(missing.sum()), int(wrong[0])
        are = "slice is" if count == 1 else "slices are"
        start = "" if len(wrong) == 1 else f" in {len(wrong)} places, first"
        where = _place(slices, place)
        msg = f"{name}: {count} {are} missing{start} between {where}; fetch or copy the whole series again"
        raise BadInputError(msg)
    msg = (
        f"{name}: the slices are unevenly spaced: {gaps[worst]:.2f} mm between {_place(slices, worst)} but "
        f"{typical:.2f} mm elsewhere; fetch the whole series again, or resample it to even spacing"
    )
    raise BadInputError(msg)


def _place(slices: Sequence[Slice], index: int) -> str:
    below, above = slices[index], slices[index + 1]
    heights = f"{below.height:.1f} and {above.height:.1f} mm"
    if below.instance_number is None or above.instance_number is None:
        return heights
    kind = "instance numbers" if below.frame_number is None else "frames"
    return f"{heights} ({kind} {below.instance_number} and {above.instance_number})"
