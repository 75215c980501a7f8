"""Synthetic CT of the trunk with ground truth for liver and tumors, of any size, from a seed.

`draw_spec` holds all randomness, `render` none: the same seed and arguments give the same bytes (on another kind of
processor, whose sines round otherwise, perhaps a few voxels that differ by 1 HU). Images are int16
HU, labels uint8 (0 background, 1 liver, 2 tumor). Vessels inside the liver are liver; gall bladder and inferior vena
cava are not.

Example:
    >>> phantom = make_phantom(7, shape=(64, 64, 24), tumors=2)
    >>> phantom.image.array.dtype, phantom.label.array.dtype
    (dtype('int16'), dtype('uint8'))
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from numpy.typing import NDArray

from lib.anatomy.body import Nodes, anatomy_of
from lib.anatomy.canvas import Canvas
from lib.anatomy.draw import draw_spec
from lib.anatomy.liver_paint import paint_liver
from lib.anatomy.scanner import Noise, average, circle, frame_of, paint_table, sample_positions, samples_per_slice
from lib.anatomy.spec import Body, Lesion, LiverShape, PhantomSpec, Scan, Tissue
from lib.anatomy.trunk import paint_trunk
from lib.volume import AIR_HU, Volume

__all__ = [
    "Body", "Lesion", "LiverShape", "Phantom", "PhantomSpec", "Scan", "Tissue", "draw_spec", "make_phantom", "render",
]  # fmt: skip

_SLAB_PIXELS = 3_000_000  # of thin samples painted at once: bounds the memory whatever the volume's size
_NODE_DISTANCE = 1.7  # mm


@dataclass(frozen=True)
class Phantom:
    """A synthetic CT with its truth; both volumes have one geometry."""

    spec: PhantomSpec
    image: Volume
    label: Volume


def make_phantom(seed: int, **options: Any) -> Phantom:
    """Draw and render one phantom; `options` are those of `draw_spec`."""
    return render(draw_spec(seed, **options))


def render(spec: PhantomSpec, progress: Callable[[float], None] | None = None) -> Phantom:
    """Compute the CT and its label from a spec; deterministic.

    Args:
        spec: from `draw_spec`, or changed by `dataclasses.replace`.
        progress: called with the share done after each slab.

    Returns:
        The phantom; arrays are `(X, Y, Z)` in the order that `spec.scan.orientation` names.
    """
    scan = spec.scan
    image, label = _empty(scan, np.int16), _empty(scan, np.uint8)
    hu_view, label_view = image.axial(), label.axial()
    anatomy = anatomy_of(spec.seed, spec.body, spec.liver)
    frame = frame_of(scan, _NODE_DISTANCE)
    noise = Noise(spec.seed, scan)
    outside = circle(scan) if scan.circular else None
    samples = samples_per_slice(scan)
    columns, rows, slices = scan.shape
    at_once = max(1, _SLAB_PIXELS // (columns * rows * samples))
    for first in range(0, slices, at_once):
        last = min(slices, first + at_once)
        canvas = Canvas(frame, sample_positions(scan, first, last), scan.sharpness)
        paint_table(canvas, scan, spec.body.half_depth)
        nodes = Nodes(anatomy, frame, canvas)
        paint_trunk(canvas, nodes, anatomy, spec.tissue)
        paint_liver(canvas, nodes, anatomy, spec.tissue, spec.lesions)
        hu = average(canvas.hu, samples)
        noise.add(hu, first)
        np.clip(hu, AIR_HU, 3071, out=hu)
        if outside is not None:
            hu[:, outside] = AIR_HU
        np.rint(hu, out=hu)
        hu_view[first:last] = hu
        liver, tumor = average(canvas.liver, samples) >= 0.5, average(canvas.tumor, samples) >= 0.5
        label_view[first:last] = np.where(tumor, 2, liver)
        if outside is not None:
            label_view[first:last, outside] = 0  # nothing was measured there
        if progress is not None:
            progress(last / slices)
    return Phantom(spec, image, label)


def _empty(scan: Scan, dtype: type) -> Volume:
    """Zeros in the file's orientation, laid out so that its axial slices are contiguous where they can be."""
    affine: NDArray[np.float64] = scan.affine()
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(scan.orientation))
    shape = [0, 0, 0]
    for axis, (target, _) in enumerate(turn):
        shape[int(target)] = scan.shape[axis]
    return Volume(np.zeros(shape, dtype, order="F"), affine @ inv_ornt_aff(turn, scan.shape))
