"""Painting a phantom's trunk on a canvas, from the skin inwards; the liver comes last as it must not be hidden."""

from itertools import pairwise

import numpy as np

from lib.anatomy.body import Anatomy, Nodes
from lib.anatomy.canvas import Canvas
from lib.anatomy.shapes import capsule, ellipse, ellipsoid, smooth_max
from lib.anatomy.spec import Tissue

_HALF_VERTEBRA, _VERTEBRA = 14.0, 34.0  # mm: half a body's height; a body and a disc


def paint_trunk(canvas: Canvas, nodes: Nodes, anatomy: Anatomy, tissue: Tissue) -> None:
    """Everything but liver, gall bladder and the vessels at the liver."""
    _wall(canvas, nodes, anatomy, tissue)
    _chest(canvas, nodes, anatomy, tissue)
    _belly(canvas, nodes, anatomy, tissue)
    _muscles(canvas, nodes, anatomy, tissue)
    _vessels(canvas, nodes, anatomy, tissue)
    _spine(canvas, nodes, anatomy, tissue)
    _pelvis(canvas, nodes, anatomy, tissue)
    _ribs(canvas, nodes, anatomy, tissue)


def _wall(canvas: Canvas, nodes: Nodes, anatomy: Anatomy, tissue: Tissue) -> None:
    trunk = nodes.trunk
    if trunk[0].stop <= trunk[0].start:
        return
    x, y, z = (axis[trunk] for axis in nodes.bent)
    skin, muscle = nodes.skin[trunk], nodes.muscle[trunk]
    if anatomy.body.arms:
        for side in (-1, 1):
            arm = ellipse(x, y, (side * (anatomy.body.half_width + 48.0), 22.0), (40.0, 44.0))
            canvas.paint(trunk, arm, 20.0)
            canvas.paint(trunk, arm + 2, tissue.fat)
            canvas.paint(trunk, arm + 11, tissue.muscle)
            bone = ellipse(x, y, (side * (anatomy.body.half_width + 48.0), 22.0), (11.0, 11.0))
            canvas.paint(trunk, bone, tissue.compacta * 1.6)
            canvas.paint(trunk, bone + 4, 20.0)
    grain = anatomy.grain.at(x, y, z, (5.0, 2.5, 6.0))
    canvas.paint(trunk, skin, 15.0)
    fat = tissue.fat + 7 * grain + 5 * anatomy.coarse_grain.at(x, y, z, 3.0)
    canvas.paint(trunk, skin + np.float32(2.0), fat)
    # the flank's three muscles are parted by thin sheets of fat
    layers = np.abs((muscle / np.float32(anatomy.body.muscle) * 3) % 1 - np.float32(0.5))
    low = nodes.reference[2][trunk] < -20
    sheets = np.where(low & (np.abs(x) > 0.4 * anatomy.body.half_width), 70, 25) * np.clip(layers * 8 - 3, 0, 1)
    streaks = np.clip(grain - 1, 0, None) * 28
    midline = np.exp(-((x / np.float32(7)) ** 2)) * (y < 0) * 60
    canvas.paint(trunk, muscle, tissue.muscle + 4 * grain - sheets - streaks - midline)
    twigs = np.clip(anatomy.coarse_grain.at(y, z, x, 1.6) - np.float32(1.7), 0, 0.6) * (tissue.portal_vein + 80)
    inside = tissue.fat + 8 * grain + 10 * np.clip(anatomy.coarse_grain.at(x, y, z, 2.2), 0, 3) + twigs
    canvas.paint(trunk, nodes.cavity[trunk], inside)


def _chest(canvas: Canvas, nodes: Nodes, anatomy: Anatomy, tissue: Tissue) -> None:
    body = anatomy.body
    box = nodes.box((-150, -130, -80), (150, 120, 330))
    if box is None:
        return
    x, y, z = nodes.at(box)
    cavity, dome = nodes.cavity[box], nodes.dome[box]
    apex = ellipsoid(x, y, z, (0.0, 8.0, 80.0), (150.0, 112.0, 190.0))
    mediastinum = ellipse(x, y, (4.0, 4.0), (34.0, 74.0))
    lung = smooth_max(smooth_max(cavity + np.float32(2.0), -dome, 3), apex, 5)
    lung = smooth_max(lung, -mediastinum, 14)
    grain = anatomy.grain.at(x, y, z, 2.6)
    vessels = np.clip(grain - np.float32(1.5), 0, 2) * 420
    air = -865 + 25 * anatomy.coarse_grain.at(x, y, z, 5.0) + vessels + np.float32(0.5) * (y + 20)
    canvas.paint(box, lung, air)
    if body.effusion > 0:
        fluid = np.maximum(lung, np.maximum(np.float32(95 - body.effusion) - y, x))
        canvas.paint(box, fluid, 8.0)
    s = anatomy.heart_shift
    center = (24.0 + s[0], -26.0 + s[1], 108.0 + s[2] + body.inspiration)
    outside_dome = np.float32(1.5) - dome
    for radii, value in (
        ((66.0, 56.0, 60.0), tissue.fat + 10),
        ((60.0, 49.0, 54.0), 0.5 * (tissue.muscle + tissue.aorta)),
    ):
        heart = smooth_max(ellipsoid(x, y, z, center, radii), outside_dome, 6)
        canvas.paint(box, smooth_max(heart, cavity + 3, 6), value)
    for dx, dy, dz, radius in ((24, 2, -4, 24.0), (-22, -6, 4, 26.0), (4, 22, 18, 24.0), (-2, -24, 8, 22.0)):
        chamber = ellipsoid(
            x, y, z, (center[0] + dx, center[1] + dy, center[2] + dz), (radius, 0.85 * radius, 1.25 * radius)
        )
        canvas.paint(box, smooth_max(chamber, outside_dome + 8, 4), tissue.aorta, softness=4.0)
    # the diaphragm, and all under it still fat
    canvas.paint(box, np.maximum(dome, cavity), tissue.muscle)
    canvas.paint(box, np.maximum(dome + np.float32(2.0), cavity), tissue.fat + 8 * grain)
    for x0, y0, low, radius in ((-8.0, -14.0, 150.0, 15.0), (14.0, -20.0, 150.0, 13.0), (-30.0, -2.0, 120.0, 9.0)):
        trunk = np.maximum(ellipse(x, y, (x0, y0), (radius, radius)), np.maximum(low - z, z - 240))
        canvas.paint(box, trunk, tissue.aorta)  # ascending aorta, pulmonary trunk, superior vena cava
    windpipe = np.maximum(ellipse(x, y, (0.0, 18.0), (9.0, 8.0)), 160 - z)
    canvas.paint(box, windpipe - 2, tissue.muscle)
    canvas.paint(box, windpipe, -1000.0)


def _belly(canvas: Canvas, nodes: Nodes, anatomy: Anatomy, tissue: Tissue) -> None:
    body = anatomy.body
    if body.ascites > 0:
        fluid = np.maximum(
            np.maximum(nodes.cavity[nodes.trunk] + 1, nodes.dome[nodes.trunk] + 3), nodes.organ(nodes.trunk)[2] - 95
        )
        x, y, z = nodes.at(nodes.trunk)
        middle = 42 + 9 * anatomy.coarse_grain.at(x, y, z, 4.0) - np.abs(x)  # bowel floats in the middle
        canvas.paint(nodes.trunk, np.maximum(fluid, middle), 6.0)
    _bowel(canvas, nodes, anatomy, tissue)
    _pancreas(canvas, nodes, anatomy, tissue)
    for side, shift in zip((-1, 1), anatomy.kidney_shift, strict=True):
        _kidney(canvas, nodes, anatomy, tissue, side, shift)
    _spleen(canvas, nodes, anatomy, tissue)
    _stomach(canvas, nodes, anatomy, tissue)


def _bowel(canvas: Canvas, nodes: Nodes, anatomy: Anatomy, tissue: Tissue) -> None:
    for loop in anatomy.bowel.loops:
        reach = max(loop.radii) + 3
        box = nodes.around(loop.center, reach, moves=True)
        if box is None:
            continue
        x, y, z = nodes.organ(box)
        inside = np.maximum(nodes.cavity[box] + 3, nodes.dome[box] + 5)
        tube = np.maximum(ellipsoid(x, y, z, loop.center, loop.radii, loop.turn), inside)
        canvas.paint(box, tube, tissue.bowel_wall)
        grain = anatomy.grain.at(x, y, z, 3.0)
        contents = loop.contents + loop.stool * grain
        if loop.stool > 30:
            contents = contents - 500 * np.clip(grain - 1, 0, 1.5)
        canvas.paint(box, tube + 2, contents)
        if loop.gas > 0:
            level = loop.center[1] - loop.radii[1] + 2 * loop.radii[1] * loop.gas
            canvas.paint(box, np.maximum(tube + 2, y - np.float32(level)), -980.0)


def _pancreas(canvas: Canvas, nodes: Nodes, anatomy: Anatomy, tissue: Tissue) -> None:
    path = ((-38, 2, -52), (-28, -4, -38), (-8, -8, -28), (18, -10, -20), (46, 6, -8), (76, 26, 2))
    box = nodes.box((-60, -30, -75), (100, 50, 25), moves=True)
    if box is None:
        return
    x, y, z = nodes.organ(box)
    duodenum = ellipsoid(x, y, z, (-50.0, 6.0, -58.0), (13.0, 14.0, 30.0))
    canvas.paint(box, duodenum, tissue.bowel_wall)
    canvas.paint(box, duodenum + np.float32(3), 25 + 15 * anatomy.grain.at(x, y, z, 3.0))
    lobules = 2.5 * anatomy.grain.at(x, y, z, 2.5)
    for k, (start, end) in enumerate(pairwise(path)):
        thick = (13.0, 11.0, 9.0, 9.0, 9.0, 7.0)
        field = capsule(x, y, z, start, end, (thick[k], thick[k + 1])) + lobules
        canvas.paint(box, field, tissue.pancreas - 2 * lobules, softness=3.0)


def _kidney(canvas: Canvas, nodes: Nodes, anatomy: Anatomy, tissue: Tissue, side: int, shift: np.ndarray) -> None:
    center = (side * 60.0 + shift[0] * 0.6, 46.0 + shift[1] * 0.5, (-58.0 if side < 0 else -42.0) + shift[2])
    box = nodes.around(center, (45.0, 45.0, 70.0), moves=True)
    if box is None:
        return
    x, y, z = nodes.organ(box)
    tilt = np.float32(side * 0.22) * (z - np.float32(center[2]))
    x = x + tilt  # lower poles lie farther from the spine
    inside = nodes.cavity[box] + 5
    kidney = smooth_max(ellipsoid(x, y, z, center, (26.0, 24.0, 53.0)), inside, 8)
    hilum = ellipsoid(x, y, z, (center[0] - side * 22.0, center[1] - 8, center[2]), (17.0, 9.0, 22.0))
    outer = smooth_max(kidney, -hilum, 4)
    canvas.paint(box, outer, tissue.cortex)
    pyramids = 3.5 * anatomy.coarse_grain.at(x, y, z, 2.5)
    canvas.paint(box, smooth_max(kidney + np.float32(8.0) + pyramids, -hilum, 4), tissue.medulla, softness=3.0)
    sinus = ellipsoid(x, y, z, (center[0] - side * 9.0, center[1] - 3, center[2]), (9.0, 7.0, 22.0))
    canvas.paint(box, sinus + 0.6 * pyramids, tissue.fat + 30, softness=3.0)


def _spleen(canvas: Canvas, nodes: Nodes, anatomy: Anatomy, tissue: Tissue) -> None:
    size = anatomy.body.spleen
    s = anatomy.spleen_shift
    center = (96.0 + s[0] * 0.4, 36.0 + s[1] * 0.6, 14.0 + s[2])
    box = nodes.around(center, (60.0 * size, 65.0 * size, 75.0 * size), moves=True)
    if box is None:
        return
    x, y, z = nodes.organ(box)
    spleen = ellipsoid(x, y, z, center, (40.0 * size, 46.0 * size, 54.0 * size))
    hollow = ellipsoid(x, y, z, (center[0] - 36, center[1] - 22, center[2]), (38.0, 36.0, 60.0))
    spleen = smooth_max(spleen, -hollow, 10) + 1.5 * anatomy.coarse_grain.at(x, y, z, 3.5)
    spleen = smooth_max(spleen, nodes.cavity[box] + np.float32(3.5), 10)
    spleen = smooth_max(spleen, nodes.dome[box] + np.float32(4), 8)
    canvas.paint(box, spleen, tissue.spleen + 2 * anatomy.coarse_grain.at(x, y, z, 2.0))


def _stomach(canvas: Canvas, nodes: Nodes, anatomy: Anatomy, tissue: Tissue) -> None:
    body = anatomy.body
    s, size = anatomy.stomach_shift, anatomy.stomach_size
    box = nodes.box((-60, -100, -90), (130, 80, 110), moves=True)
    if box is None:
        return
    x, y, z = nodes.organ(box)
    fundus = (62.0 + s[0], -4.0 + s[1], 26.0 + s[2])
    low = (26.0 + s[0], -50.0, -32.0 + s[2])
    tube = smooth_max(
        np.minimum(
            ellipsoid(x, y, z, fundus, (40 * size, 40 * size, 44 * size)),
            capsule(x, y, z, fundus, low, (30 * size, 19 * size)),
        ),
        np.maximum(nodes.cavity[box], nodes.dome[box]) + np.float32(6),
        10,
    )
    tube = np.minimum(tube, capsule(x, y, z, low, (-26.0, -34.0, -34.0), (17 * size, 11.0)))
    tube += 1.2 * anatomy.coarse_grain.at(x, y, z, 2.0)
    canvas.paint(box, tube, tissue.bowel_wall)
    grain = anatomy.grain.at(x, y, z, 3.5)
    canvas.paint(box, tube + np.float32(4.0), 22 + body.oral_contrast + (8 + 0.1 * body.oral_contrast) * grain)
    if body.stomach_air > 0:
        level = fundus[1] - 45 + 80 * body.stomach_air * size - 0.02 * x
        canvas.paint(box, np.maximum(tube + np.float32(4.0), y - level), -990.0)


def _muscles(canvas: Canvas, nodes: Nodes, anatomy: Anatomy, tissue: Tissue) -> None:
    grain_box = nodes.box((-110, 20, -400), (110, 140, 400))
    if grain_box is None:
        return
    x, y, z = nodes.at(grain_box)
    within = nodes.muscle[grain_box] + 1
    fibers = np.clip(anatomy.grain.at(x, y, z, (3.0, 3.0, 9.0)) - np.float32(0.9), 0, 2) * np.float32(45)
    for side in (-1, 1):
        back = np.maximum(ellipse(x, y, (side * 33.0, 84.0), (29.0, 21.0)), within)
        canvas.paint(grain_box, back, tissue.muscle - fibers)
        wide = np.float32(1) + np.clip((-z - 40) / 120, -0.6, 0.5)
        psoas = ellipse(x, y, (side * (30.0 + np.clip(-z - 60, 0, 120) * 0.12), 46.0), (15.0, 17.0)) + 10 * (1.2 - wide)
        psoas = np.maximum(psoas, z + 25)
        canvas.paint(grain_box, psoas, tissue.muscle)
        quadratus = np.maximum(ellipse(x, y, (side * 64.0, 66.0), (20.0, 8.0)), np.maximum(z + 40, -170 - z))
        canvas.paint(grain_box, quadratus, tissue.muscle)
        crus = np.maximum(
            ellipse(x, y, (side * 17.0, 20.0), (6.0, 20.0)), np.maximum(z - 60, -70 - z)
        )  # fmt: skip
        canvas.paint(grain_box, crus, tissue.muscle)


def _vessels(canvas: Canvas, nodes: Nodes, anatomy: Anatomy, tissue: Tissue) -> None:
    box = nodes.box((-60, -20, -400), (90, 90, 330))
    if box is None:
        return
    x, y, z = nodes.at(box)
    front = anatomy.spine(z) - np.float32(29)
    thorax = np.clip((z - 60) / 60, 0, 1)
    center = (8.0 + 10 * thorax, front + 2 + 14 * thorax)
    aorta = np.maximum(ellipse(x, y, center, (10.5, 10.5)), -165 - z)
    for side in (-1, 1):  # iliac arteries below the bifurcation
        low = np.clip(-160 - z, 0, 140)
        artery = ellipse(x, y, (6.0 + side * low * 0.5, front + 4 + 0.1 * low), (5.5, 5.5))
        aorta = np.minimum(aorta, np.maximum(artery, z + 160))
    canvas.paint(box, aorta - 1.2, tissue.muscle + 10)
    canvas.paint(box, aorta, tissue.aorta)
    if anatomy.body.calcified:
        specks = anatomy.grain.at(x, y, z, 3.0)
        canvas.paint(box, np.maximum(np.abs(aorta) - 1.3, 4 * (1.1 - specks)), 550.0)
    esophagus = np.maximum(ellipse(x, y, (8.0, front - 10), (9.0, 7.0)), 35 - z)
    canvas.paint(box, esophagus, tissue.bowel_wall)
    canvas.paint(box, esophagus + 5, -300.0 if anatomy.stomach_size > 1 else 30.0)
    mesenteric = np.maximum(ellipse(x, y, (7.0, front - 20), (4.0, 4.0)), np.maximum(z + 30, -150 - z))
    canvas.paint(box, mesenteric, tissue.aorta)
    vein = np.maximum(ellipse(x, y, (-7.0, front - 20), (5.5, 5.5)), np.maximum(z + 38, -150 - z))
    canvas.paint(box, vein, tissue.portal_vein)
    for side in (-1, 1):
        renal = capsule(x, y, z, (side * 8.0, 16.0, -42.0), (side * 44.0, 38.0, -50.0), (4.5, 4.0))
        canvas.paint(box, renal, tissue.vena_cava)


def _spine(canvas: Canvas, nodes: Nodes, anatomy: Anatomy, tissue: Tissue) -> None:
    box = nodes.box((-60, 5, -400), (60, 150, 400))
    if box is None:
        return
    x, y, z = nodes.at(box)
    grain = anatomy.grain.at(x, y, z, 2.2)
    y = y - anatomy.spine(z)
    level = (z + np.float32(anatomy.spine_phase)) % np.float32(_VERTEBRA) - np.float32(_VERTEBRA / 2)
    waist = 1.5 * np.cos(level * np.float32(np.pi / _VERTEBRA))
    body = ellipse(x, y, (0.0, 0.0), (23.0, 17.0))
    canvas.paint(box, body + 1, 85.0)
    bone = np.maximum(body + waist, np.abs(level) - np.float32(_HALF_VERTEBRA))
    canal = ellipse(x, y, (0.0, 25.0), (10.5, 9.0))
    canvas.paint(box, canal - 6, tissue.muscle)
    arch = np.maximum(canal - 5.5, np.abs(level + 2) - 9)
    for side in (-1, 1):
        pedicle = ellipsoid(x, y, level, (side * 13.0, 18.0, 4.0), (5.0, 10.0, 8.0))
        transverse = ellipsoid(x, y, level, (side * 32.0, 24.0, 2.0), (20.0, 5.0, 6.0))
        facet = ellipsoid(x, y, level, (side * 16.0, 28.0, -10.0), (7.0, 8.0, 9.0))
        arch = np.minimum(np.minimum(arch, pedicle), np.minimum(transverse, facet))
    spinous = ellipsoid(x, y, level, (0.0, 46.0, -4.0), (4.0, 17.0, 11.0))
    bone = np.minimum(bone, np.minimum(arch, spinous))
    canvas.paint(box, bone, tissue.compacta)
    canvas.paint(box, bone + np.float32(2.2), tissue.marrow + 22 * grain)
    canvas.paint(box, canal, 5.0)
    canvas.paint(box, canal + 3, 32.0)


def _ribs(canvas: Canvas, nodes: Nodes, anatomy: Anatomy, tissue: Tissue) -> None:
    box = nodes.box((-170, -150, -110), (170, 150, 330))
    if box is None:
        return
    x, y, z = nodes.at(box)
    depth = nodes.cavity[box] - np.float32(5.0)
    spacing = np.float32(29.0)
    slant = z - np.float32(0.62) * (y - 60) + np.float32(anatomy.rib_phase)
    height = (slant % spacing - spacing / 2) * np.float32(0.85)
    rib = np.sqrt((depth * np.float32(1.5)) ** 2 + height * height) - np.float32(6.0)
    margin = (
        np.float32(-82) + np.float32(1.15) * np.maximum(-y - 8, 0) + np.float32(0.25) * np.maximum(40 - np.abs(x), 0)
    )
    rib = np.maximum(np.maximum(rib, margin - z), 22 - np.abs(x))
    front = y < np.float32(-52)
    grain = anatomy.grain.at(x, y, z, 3.0)
    cartilage = 100 + 120 * np.clip(grain - 1, 0, 2)
    canvas.paint(box, rib, np.where(front, cartilage, np.float32(tissue.compacta * 1.25)))
    canvas.paint(box, rib + np.float32(2.0), np.where(front, cartilage, np.float32(tissue.marrow)))
    sternum = np.maximum(np.abs(depth - 3) - 6, np.maximum(np.abs(x) - 17, np.maximum(y, 34 - z)))
    canvas.paint(box, sternum, tissue.compacta)
    canvas.paint(box, sternum + 2, tissue.marrow)


def _pelvis(canvas: Canvas, nodes: Nodes, anatomy: Anatomy, tissue: Tissue) -> None:
    box = nodes.box((-160, -100, -420), (160, 140, -150))
    if box is None:
        return
    x, y, z = nodes.at(box)
    for side in (-1, 1):
        shell = ellipsoid(x, y, z, (side * 38.0, 0.0, -240.0), (82.0, 82.0, 82.0))
        wing = np.maximum(np.abs(shell) - 6, np.maximum(-y + 5 - 0.3 * (z + 200), 30 - side * x))
        wing = np.maximum(wing, np.maximum(z + 172, -290 - z))
        gluteal = np.maximum(ellipsoid(x, y, z, (side * 85.0, 62.0, -250.0), (55.0, 50.0, 75.0)), nodes.muscle[box] - 8)
        canvas.paint(box, gluteal, tissue.muscle)
        hip = ellipsoid(x, y, z, (side * 92.0, -2.0, -305.0), (26.0, 26.0, 26.0))
        bone = np.minimum(wing, hip)
        canvas.paint(box, bone, tissue.compacta)
        canvas.paint(box, bone + 3, tissue.marrow)
    sacrum = ellipsoid(x, y, z, (0.0, 70.0, -235.0), (50.0, 22.0, 55.0))
    canvas.paint(box, sacrum, tissue.compacta)
    canvas.paint(box, sacrum + 3, tissue.marrow)
    bladder = ellipsoid(x, y, z, (0.0, -15.0, -300.0), (42.0, 36.0, 34.0))
    canvas.paint(box, bladder, tissue.muscle)
    canvas.paint(box, bladder + 4, 6.0)
