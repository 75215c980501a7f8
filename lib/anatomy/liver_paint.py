"""Painting a phantom's liver, what lies at it and its tumors, with their ground truth."""

from collections.abc import Sequence

import numpy as np

from lib.anatomy.body import Anatomy, Nodes
from lib.anatomy.canvas import Box, Canvas
from lib.anatomy.liver import Liver, Segment
from lib.anatomy.resection_paint import paint_resection
from lib.anatomy.shapes import Field, Waves, capsule, ellipse, ellipsoid, smooth_max
from lib.anatomy.spec import Lesion, Tissue

_FAR = 6.0  # mm; farther from a vessel its exact distance does not matter


def paint_liver(canvas: Canvas, nodes: Nodes, anatomy: Anatomy, tissue: Tissue, lesions: Sequence[Lesion]) -> None:
    """The liver with its vessels and tumors, then gall bladder and inferior vena cava beside it."""
    box = nodes.box(Liver.LOW, Liver.HIGH, moves=True)
    surface = None
    if box is not None:
        x, y, z = nodes.organ(box)
        surface = anatomy.liver.distance(x, y, z, nodes.cavity[box], nodes.dome[box])
        mottle = np.float32(tissue.mottling) * (
            np.float32(0.7) * anatomy.coarse_grain.at(x, y, z, 2.4) + np.float32(0.6) * anatomy.grain.at(x, y, z, 2.0)
        )
        parenchyma = (
            np.float32(tissue.parenchyma) + mottle + np.float32(tissue.mottling) * anatomy.perfusion.at(x, y, z)
        )
        canvas.paint(box, surface, parenchyma, covers="liver")
        for segments, value in (
            (anatomy.liver.hepatic_veins, tissue.hepatic_vein),
            (anatomy.liver.portal_veins, tissue.portal_vein),
        ):
            vessels = np.maximum(_vessel_field(segments, nodes, box), surface + np.float32(2.5))
            canvas.paint(box, vessels, value, softness=max(2.2, canvas.softness))
        for number, lesion in enumerate(lesions):
            _paint_lesion(canvas, nodes, anatomy, tissue, lesion, number, box, surface)
    _beside(canvas, nodes, anatomy, tissue)
    if anatomy.liver.shape.resection is not None:
        paint_resection(canvas, nodes, anatomy, tissue, anatomy.liver.shape.resection)


def _vessel_field(segments: Sequence[Segment], nodes: Nodes, box: Box) -> Field:
    """Distance to the nearest of many vessel pieces on the nodes of `box`; `_FAR` where none is near."""
    field = np.full([part.stop - part.start for part in box], _FAR, np.float32)
    for piece in segments:
        reach = max(piece.radius) + _FAR
        low, high = np.minimum(piece.start, piece.end) - reach, np.maximum(piece.start, piece.end) + reach
        part = _overlap(nodes.box(low, high, moves=True), box)
        if part is None:
            continue
        view = field[_inside(part, box)]
        np.minimum(view, capsule(*nodes.organ(part), piece.start, piece.end, piece.radius), out=view)
    return field


def _paint_lesion(
    canvas: Canvas,
    nodes: Nodes,
    anatomy: Anatomy,
    tissue: Tissue,
    lesion: Lesion,
    number: int,
    liver_box: Box,
    surface: Field,
) -> None:
    largest = max(lesion.radii)
    reach = largest * 1.6 + 4
    center = np.array(lesion.center)
    box = _overlap(nodes.box((center - reach) / anatomy.scale, (center + reach) / anatomy.scale), liver_box)
    if box is None:
        return
    rng = np.random.default_rng([anatomy.seed, 2, number])
    x, y, z = (axis[box] for axis in nodes.bent)
    size = float(np.mean(lesion.radii))
    border = Waves.draw(rng, 9, (0.9 * size + 3, 2.6 * size + 6), lesion.irregularity * size)
    distance = ellipsoid(x, y, z, lesion.center, lesion.radii) + border.at(x, y, z)
    inside = surface[_inside(box, liver_box)]
    allowed = 0.25 * size if lesion.bulges else 0.0
    distance = smooth_max(distance, inside - np.float32(allowed), 2)
    if lesion.bulges:  # out of the liver, but not out of the belly
        distance = np.maximum(
            distance, np.maximum(nodes.cavity[box] + np.float32(0.3), nodes.dome[box] + np.float32(1.5))
        )
    texture = Waves.draw(rng, 12, (0.35 * size + 2.5, 1.2 * size + 5), lesion.heterogeneity).at(x, y, z)
    value = np.float32(tissue.parenchyma + lesion.difference) + texture
    canvas.paint(box, distance, value, softness=max(lesion.softness, canvas.softness))
    if lesion.rim:
        inner = distance + np.float32(lesion.rim_width)
        ring = np.abs(distance + np.float32(lesion.rim_width / 2)) - np.float32(lesion.rim_width / 2)
        canvas.paint(box, ring, value + np.float32(lesion.rim), softness=max(1.5, canvas.softness))
        canvas.paint(box, inner, value, softness=max(2.0, canvas.softness))
    if lesion.core:
        depth = np.float32(0.38 * size) + np.float32(0.6) * border.at(y, z, x)
        canvas.paint(box, distance + depth, value + np.float32(lesion.core), softness=max(3.0, 0.15 * size))
    if lesion.calcification:
        specks = anatomy.grain.at(x, y, z, max(1.2, 0.08 * size))
        canvas.paint(box, np.maximum(distance + 1, 4 * (np.float32(1.9) - specks)), lesion.calcification)
    # the truth has a sharp border where the transition is half way, and nothing else changes HU
    canvas.paint(box, distance, 0.0, opacity=0.0, covers="tumor")


def _beside(canvas: Canvas, nodes: Nodes, anatomy: Anatomy, tissue: Tissue) -> None:
    liver = anatomy.liver
    if anatomy.body.gallbladder > 0:
        box = nodes.around(liver.gallbladder_center, max(liver.gallbladder_radii) + 4, moves=True)
        if box is not None:
            x, y, z = nodes.organ(box)
            bladder = np.maximum(liver.gallbladder(x, y, z), nodes.cavity[box] + 4)
            canvas.paint(box, bladder, tissue.bowel_wall, covers="other")
            canvas.paint(box, bladder + np.float32(1.5), tissue.bile)
    box = nodes.box((-50, -20, -400), (20, 70, 160))
    if box is not None:
        x, y, z = nodes.at(box)
        height = z - np.float32(anatomy.body.inspiration)
        below = np.clip((-height) / 60, 0, 1)
        front = anatomy.spine(z) - np.float32(26)
        center = (-20 - 0 * z, below * front + (1 - below) * np.float32(22))
        vein = np.maximum(ellipse(x, y, center, (12.0, 9.5)), np.maximum(height - 95, -175 - z))
        vein = np.where(height > 40, vein - (height - 40) * np.float32(0.04), vein)
        canvas.paint(box, vein, tissue.vena_cava, covers="other")
    box = nodes.box((-30, -10, -60), (20, 30, 5), moves=True)
    if box is not None:  # the portal vein before it enters the liver
        for piece in liver.portal_veins[:2]:
            trunk = capsule(*nodes.organ(box), piece.start, piece.end, piece.radius)
            canvas.paint(box, trunk, tissue.portal_vein)


def _overlap(first: Box | None, second: Box) -> Box | None:
    if first is None:
        return None
    z, y, x = (slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(first, second, strict=True))
    if z.stop <= z.start or y.stop - y.start < 2 or x.stop - x.start < 2:
        return None
    return z, y, x


def _inside(part: Box, whole: Box) -> Box:
    z, y, x = (slice(p.start - w.start, p.stop - w.start) for p, w in zip(part, whole, strict=True))
    return z, y, x
