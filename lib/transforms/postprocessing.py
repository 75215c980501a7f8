"""What anatomy knows and a slice-wise network doesn't: one liver, without holes, with its tumors in it.

The four steps, in this order, each of which can be switched off:

1. **Largest liver.** Pieces are the components of liver and tumor together (26 neighbors), so that a tumor that cuts
   the liver in two or lies at its border doesn't break it up. The piece with the most voxels, of those that hold any
   liver, is the liver; liver voxels of the other pieces become background. Their tumor voxels are left to step 3.
2. **Holes filled.** Background that the pieces with liver enclose in 3D becomes liver. A hole must be closed through
   voxel faces on all sides: a vessel that leaves the liver, the gallbladder's bed or the fissure is open in some
   slice, though it looks closed in others, and is kept. A volume of one slice is filled in 2D.
3. **Tumors in the liver's hull.** A tumor (26 neighbors) stays whole where enough of its surface faces the liver:
   at least a tenth of its surface voxels touch a liver voxel or have one within `hull_margin_mm`, measured between
   voxel centers. Otherwise it becomes background. A tumor inside the liver, one under the capsule and one that grows
   out of it over a broad base pass. So does any tumor that is thinner than ten times the margin and touches the liver.
   A false find in spleen, stomach or spine has no such surface, nor has a whole kidney that merely leans on the liver.
   Convex hulls would be simpler, but the liver's hull holds half of the stomach and part of the spine and kidney.
4. **Specks dropped.** A tumor below `min_tumor_mm3` becomes what most of its face neighbors are, liver or background.

A tumor that turns into background may have been the bridge between two pieces, so the steps are repeated as long as
one beside the liver does; this makes the result final: processing it again changes nothing. No step adds tumor.

A label without any liver voxel says nothing about where the liver is: only step 4 is done. A label of nothing but
liver, and an empty one, come back as they are.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scipy.spatial import cKDTree

from lib.box import bounding_box
from lib.errors import BadInputError
from lib.labels import LIVER, TUMOR
from lib.transforms.components import FACES, FACES_EDGES_CORNERS, label_components

_BACKGROUND, _LIVER, _TUMOR = 0, LIVER.index, TUMOR.index
_OUTSIDE = 255  # beyond the volume: neither liver nor background
# A sphere that just touches a flat liver shows it 5 mm / diameter of its surface at the default margin: lesions up to
# 50 mm pass even then, larger ones need a base.
_LEAST_FACING_SHARE = 0.1


class PostprocessingSettings(BaseModel):
    """Which steps are done and their limits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    largest_liver: bool = Field(default=True, description="keep the largest liver component only")
    fill_holes: bool = Field(default=True, description="turn background enclosed by liver and tumor into liver")
    tumor_in_hull: bool = Field(default=True, description="drop tumors that don't belong to the liver")
    hull_margin_mm: float = Field(
        default=5.0, ge=0, le=50, description="how far from the liver a tumor's surface may lie, mm"
    )
    drop_specks: bool = Field(default=True, description="drop tumors below min_tumor_mm3")
    min_tumor_mm3: float = Field(default=30.0, ge=0, le=1e6, description="smallest tumor that is kept, mm3")

    def changed(self, changes: Mapping[str, Any]) -> "PostprocessingSettings":
        """These settings with what one request wants otherwise.

        Raises:
            BadInputError: an unknown key or a wrong value, named in the message.

        Example:
            >>> PostprocessingSettings().changed({"fill_holes": False}).fill_holes
            False
        """
        try:
            return PostprocessingSettings.model_validate({**self.model_dump(), **changes})
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            msg = (
                f"post-processing can't take {key} = {first['input']!r}: {first['msg']}; the keys are "
                f"{', '.join(PostprocessingSettings.model_fields)}"
            )
            raise BadInputError(msg) from error


def postprocess(
    label: NDArray[np.uint8], spacing: Sequence[float], settings: PostprocessingSettings | None = None
) -> NDArray[np.uint8]:
    """Make a predicted label plausible; see the module's text for the steps.

    Args:
        label: axial `(Z, Y, X)` uint8: 0 background, 1 liver, 2 tumor. Not changed.
        spacing: voxel size in mm along `(Z, Y, X)`, see `Volume.axial_spacing`.
        settings: the steps; all of them when left out.

    Returns:
        A new `(Z, Y, X)` uint8 array.

    Raises:
        BadInputError: `label` is not such an array or holds other values, or `spacing` is not three positive lengths.
    """
    settings = settings or PostprocessingSettings()
    _check(label, spacing)
    result = np.zeros(label.shape, np.uint8)
    box = bounding_box(label, margin=1)
    if box:
        result[box] = label[box]
        _check_classes(result[box])
    while box:
        # A rim that is neither class lets every voxel look at its neighbors without asking whether they exist.
        padded = np.pad(result[box], 1, constant_values=_OUTSIDE)
        inner = padded[1:-1, 1:-1, 1:-1]
        again = _pass(padded, inner, spacing, settings)
        result[box] = inner
        box = _smaller(box, inner) if again else None  # as false finds go
    return result


def _smaller(box: tuple[slice, slice, slice], inner: NDArray[np.uint8]) -> tuple[slice, slice, slice] | None:
    """The box around what is left in a box, with the margin that it has already; None where nothing is."""
    left = bounding_box(inner, margin=1)
    if left is None:
        return None
    first, second, third = (
        slice(side.start + part.start, side.start + part.stop) for side, part in zip(box, left, strict=True)
    )
    return first, second, third


def _check(label: NDArray[Any], spacing: Sequence[float]) -> None:
    if label.ndim != 3 or label.dtype != np.uint8 or 0 in label.shape:
        msg = f"post-processing needs a uint8 (Z, Y, X) label with voxels, not {label.dtype} of shape {label.shape}"
        raise BadInputError(msg)
    if len(spacing) != 3 or not all(0 < length < float("inf") for length in spacing):
        msg = f"spacing must be three positive lengths in mm along (Z, Y, X), not {tuple(spacing)}"
        raise BadInputError(msg)


def _check_classes(label: NDArray[np.uint8]) -> None:
    if label.max() > max(_LIVER, _TUMOR):
        msg = (
            f"post-processing knows background 0, liver {_LIVER} and tumor {_TUMOR}, but the label holds {label.max()}"
        )
        raise BadInputError(msg)


def _pass(
    padded: NDArray[np.uint8], inner: NDArray[np.uint8], spacing: Sequence[float], settings: PostprocessingSettings
) -> bool:
    """Do the steps once in `padded`, of which `inner` is the part inside the rim; whether they must be repeated."""
    has_liver = bool((inner == _LIVER).any())
    if has_liver and (settings.largest_liver or settings.fill_holes):
        _clean_liver(inner, settings)
    judge_hull = has_liver and settings.tumor_in_hull
    if not (judge_hull or settings.drop_specks):
        return False
    return _clean_tumors(padded, spacing, settings, judge_hull)


def _clean_liver(label: NDArray[np.uint8], settings: PostprocessingSettings) -> None:
    """Steps 1 and 2, in place."""
    foreground = label > _BACKGROUND
    pieces, count = label_components(foreground, FACES_EDGES_CORNERS)
    keep = foreground
    if count > 1:
        owner = pieces[foreground]  # counting only the foreground is several times faster than the whole box
        holds_liver = np.zeros(count + 1, bool)
        holds_liver[owner[label[foreground] == _LIVER]] = True
        if settings.largest_liver:
            sizes = np.bincount(owner, minlength=count + 1)
            keep = pieces == np.argmax(np.where(holds_liver, sizes, 0))
            label[(label == _LIVER) & ~keep] = _BACKGROUND
        else:
            keep = holds_liver[pieces]
    if settings.fill_holes:
        _fill_holes(label, keep)


def _fill_holes(label: NDArray[np.uint8], keep: NDArray[np.bool_]) -> None:
    """Turn background that `keep` encloses into liver, in place."""
    box = bounding_box(keep)
    if box is None:
        return
    rim = 0 if len(label) == 1 else 1  # in a single slice every voxel would lie at the volume's border
    background, count = label_components(~np.pad(keep[box], ((rim, rim), (1, 1), (1, 1))), FACES)
    if count == 1:
        return
    inner, outside = background[rim : len(background) - rim, 1:-1, 1:-1], background[0, 0, 0]
    part = label[box]
    part[(inner > 0) & (inner != outside) & (part == _BACKGROUND)] = _LIVER


def _clean_tumors(
    padded: NDArray[np.uint8], spacing: Sequence[float], settings: PostprocessingSettings, judge_hull: bool
) -> bool:
    """Steps 3 and 4 in place; whether a tumor beside the liver became background, so that the liver may have split.

    Works on lists of tumor voxels, not on volumes: tumors are a small part of a volume.
    """
    box = bounding_box(padded == _TUMOR)
    if box is None:
        return False
    is_tumor = padded[box] == _TUMOR
    components, count = label_components(is_tumor, FACES_EDGES_CORNERS)
    found = np.flatnonzero(is_tumor)
    owner = components.reshape(-1)[found].astype(np.int64) - 1  # the component, 0 to count - 1, of each tumor voxel
    places = [axis + part.start for axis, part in zip(np.unravel_index(found, is_tumor.shape), box, strict=True)]
    positions = np.ravel_multi_index(places, padded.shape)
    flat_label = padded.reshape(-1)

    neighbors = np.stack([flat_label[positions + step] for step in _face_steps(padded.shape)])
    becomes_background = np.zeros(count, bool)
    becomes_liver = np.zeros(count, bool)
    if judge_hull:
        becomes_background |= ~_faces_liver(padded, neighbors, owner, places, count, spacing, settings.hull_margin_mm)
    if settings.drop_specks:
        voxel_mm3 = float(np.prod(spacing))
        is_speck = np.bincount(owner, minlength=count) * voxel_mm3 < settings.min_tumor_mm3
        votes = [
            np.bincount(owner, weights=(neighbors == value).sum(axis=0), minlength=count)
            for value in (_BACKGROUND, _LIVER)
        ]
        becomes_liver = is_speck & (votes[1] > votes[0]) & ~becomes_background
        becomes_background |= is_speck & ~becomes_liver
    flat_label[positions[becomes_liver[owner]]] = _LIVER
    dropped = positions[becomes_background[owner]]
    flat_label[dropped] = _BACKGROUND
    return any(bool((flat_label[dropped + step] == _LIVER).any()) for step in _all_steps(padded.shape))


def _faces_liver(
    padded: NDArray[np.uint8],
    neighbors: NDArray[np.uint8],
    owner: NDArray[np.int64],
    places: Sequence[NDArray[np.int64]],
    count: int,
    spacing: Sequence[float],
    margin_mm: float,
) -> NDArray[np.bool_]:
    """Whether enough of each tumor's surface faces the liver.

    Args:
        padded: `(Z, Y, X)` label with its rim.
        neighbors: `(6, V)` values of the face neighbors of the V tumor voxels.
        owner: `(V,)` component of each tumor voxel.
        places: indices of the tumor voxels along Z, Y and X, `(V,)` each.
        count: number of components.
        spacing: mm along `(Z, Y, X)`.
        margin_mm: largest distance between the centers of a tumor's surface voxel and a liver voxel.

    Returns:
        `(count,)` booleans.
    """
    touches = (neighbors == _LIVER).any(axis=0)
    on_surface = touches | (neighbors == _BACKGROUND).any(axis=0)
    facing = np.bincount(owner[touches], minlength=count)
    needed = _LEAST_FACING_SHARE * np.bincount(owner[on_surface], minlength=count)

    # Distances are only measured where touching doesn't settle it.
    doubtful = on_surface & ~touches & (facing < needed)[owner]
    if doubtful.any():
        size = np.asarray(spacing, dtype=np.float64)
        points = np.stack([axis[doubtful] for axis in places], axis=1)
        reach = np.ceil(margin_mm / size).astype(int)
        low = np.maximum(points.min(axis=0) - reach, 0)
        high = points.max(axis=0) + reach + 1
        near = padded[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
        liver = np.argwhere(_shell(near == _LIVER)) + low
        if len(liver):
            limit = margin_mm * (1 + 1e-9) + 1e-9  # "within" includes the margin itself, the query's bound doesn't
            distance, _ = cKDTree(liver * size).query(points * size, distance_upper_bound=limit)
            facing += np.bincount(owner[doubtful][np.isfinite(distance)], minlength=count)
    return facing >= needed


def _shell(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The voxels of `mask` with a face neighbor outside it: the nearest point of a body lies on its shell."""
    buried = mask.copy()
    for axis in range(mask.ndim):
        first, last = [slice(None)] * mask.ndim, [slice(None)] * mask.ndim
        first[axis], last[axis] = slice(1, None), slice(None, -1)
        buried[tuple(first)] &= mask[tuple(last)]
        buried[tuple(last)] &= mask[tuple(first)]
    return mask & ~buried


def _face_steps(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Steps to the six face neighbors in a C-ordered array of this `(Z, Y, X)` shape."""
    _, rows, columns = shape
    return (-rows * columns, rows * columns, -columns, columns, -1, 1)


def _all_steps(shape: tuple[int, ...]) -> list[int]:
    """Steps to the 26 neighbors that share a face, an edge or a corner."""
    _, rows, columns = shape
    directions = product((-1, 0, 1), repeat=3)
    return [(z * rows + y) * columns + x for z, y, x in directions if (z, y, x) != (0, 0, 0)]
