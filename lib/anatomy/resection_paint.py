"""Painting what is left at the face of a liver from which a part was taken out: fluid and metal clips."""

import numpy as np
from numpy.typing import NDArray

from lib.anatomy.body import Anatomy, Nodes
from lib.anatomy.canvas import Canvas
from lib.anatomy.liver import Liver
from lib.anatomy.shapes import Triple, capsule, ellipsoid, triple
from lib.anatomy.spec import Resection, Tissue

_CLIP_HU = 1800.0
_CLIP_LENGTH, _CLIP_RADIUS = 7.0, 1.2  # mm
_SEROMA_HU = 9.0
_REACH = 45.0  # mm around the middle of the face in which clips lie


def paint_resection(canvas: Canvas, nodes: Nodes, anatomy: Anatomy, tissue: Tissue, resection: Resection) -> None:
    """A fluid collection in a thin capsule outside of the liver, then clips on the cut face."""
    if resection.seroma > 0:
        _seroma(canvas, nodes, anatomy, tissue, resection)
    rng = np.random.default_rng([anatomy.seed, 6])
    for place in _clip_places(rng, anatomy, resection):
        way = rng.normal(0, 1, 3)
        way *= 0.5 * _CLIP_LENGTH / np.linalg.norm(way)
        box = nodes.around(triple(place), _CLIP_LENGTH + 4, moves=True)
        if box is not None:
            clip = capsule(*nodes.organ(box), triple(place - way), triple(place + way), (_CLIP_RADIUS, _CLIP_RADIUS))
            canvas.paint(box, clip, _CLIP_HU)


def _seroma(canvas: Canvas, nodes: Nodes, anatomy: Anatomy, tissue: Tissue, resection: Resection) -> None:
    radius, normal = resection.seroma, np.array(resection.normal)
    center = triple(np.array(resection.middle) + 0.7 * radius * normal)
    radii: Triple = (radius, 1.2 * radius, 1.1 * radius)
    box = nodes.around(center, 1.3 * radius + 4, moves=True)
    if box is None:
        return
    x, y, z = nodes.organ(box)
    outside = -anatomy.liver.distance(x, y, z, nodes.cavity[box], nodes.dome[box])
    fluid = np.maximum(ellipsoid(x, y, z, center, radii), np.maximum(outside, nodes.cavity[box] + 3))
    fluid = np.maximum(fluid, nodes.dome[box] + 4)
    canvas.paint(box, fluid, tissue.muscle + 15.0)
    canvas.paint(box, fluid + np.float32(1.8), _SEROMA_HU + 3 * anatomy.coarse_grain.at(x, y, z, 3.0))


def _clip_places(rng: np.random.Generator, anatomy: Anatomy, resection: Resection) -> NDArray[np.float64]:
    """`(N, 3)` reference mm on the cut face."""
    normal, middle = np.array(resection.normal), np.array(resection.middle)
    points = rng.uniform(-_REACH, _REACH, (400, 3))
    points += middle - (points @ normal)[:, None] * normal
    low, high = np.array(Liver.LOW), np.array(Liver.HIGH)
    points = points[((points > low) & (points < high)).all(axis=1)]
    patient = (points + np.array([0, 0, anatomy.body.inspiration])) * anatomy.scale
    on_face = np.abs(anatomy.liver_at(patient)) < 3.5  # elsewhere the plane runs outside of what was the liver
    return points[on_face][: resection.clips]
