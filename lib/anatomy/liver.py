"""The liver of a phantom: its shape, its vessels and its tumors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lib.anatomy.shapes import Field, Triple, Waves, ellipsoid, smooth_max, smooth_min
from lib.anatomy.spec import Body, LiverShape, Resection

_GAP = 1.2  # mm of peritoneum and fat between liver and wall, on average: mostly the liver touches the wall
_DIAPHRAGM = 2.0  # mm


@dataclass(frozen=True)
class Segment:
    """A piece of a vessel, in mm of a patient of average size."""

    start: Triple
    end: Triple
    radius: tuple[float, float]


class Liver:
    """Shape and vessels in the reference patient (half width of the cavity 130 mm, half depth 95 mm)."""

    LOW: Triple = (-140.0, -110.0, -190.0)
    HIGH: Triple = (140.0, 100.0, 125.0)

    def __init__(self, rng: np.random.Generator, shape: LiverShape, body: Body) -> None:
        self.shape = shape
        self._gap = _GAP + body.ascites
        self._bladder = body.gallbladder
        self._space = Waves.draw(rng, 8, (40.0, 120.0), 1.4)
        self._surface = Waves.draw(rng, 10, (35.0, 110.0), max(shape.roughness, 1e-3))
        self._nodules = Waves.draw(rng, 10, (12.0, 26.0), max(shape.nodularity, 1e-3))
        turn = np.radians(rng.uniform(-25, 25, 2))
        self.gallbladder_center: Triple = (
            shape.medial - 12 + rng.uniform(-8, 8), -28 + rng.uniform(-14, 10), -50 + rng.uniform(-12, 10),
        )  # fmt: skip
        size = max(self._bladder, 0.3)
        self.gallbladder_radii: Triple = (13 * size, 19 * size, 27 * size)
        c, s = np.cos(turn), np.sin(turn)
        self.gallbladder_turn = np.array([[c[0], -s[0], 0], [s[0], c[0], 0], [0, 0, 1]]) @ np.array(
            [[1, 0, 0], [0, c[1], -s[1]], [0, s[1], c[1]]]
        )
        self.hepatic_veins = tuple(_branch(rng, _HEPATIC_VEINS, depth=3))
        self.portal_veins = tuple(_branch(rng, _PORTAL_VEINS, depth=3))

    def distance(self, x: Field, y: Field, z: Field, cavity: Field, dome: Field) -> Field:
        """Distance to the liver's surface; `cavity` and `dome` are those to the trunk's wall and the diaphragm."""
        s = self.shape
        medial = s.medial + np.float32(0.35) * np.maximum(z, -70)
        low = s.tip + s.undersurface * (x + np.float32(115)) - np.float32(0.2) * (y + np.float32(20))
        right = smooth_max((x - medial) * np.float32(0.95), (low - z) * np.float32(0.82), 25)
        angle = np.radians(s.left_angle)
        face = np.float32(np.cos(angle)) * (x + np.float32(20)) + np.float32(np.sin(angle)) * (y - np.float32(8))
        face -= np.float32(s.left_depth) + np.float32(0.18) * z
        left_low = s.left_low + np.float32(0.15) * x
        left = smooth_max(smooth_max(face, x - np.float32(s.left_end), 25), left_low - z, 20)
        c = s.caudate
        caudate = ellipsoid(x, y, z, (-17.0, 8.0, 22.0), (16 * c, 15 * c, 28 * c))
        liver = smooth_min(smooth_min(right, left, 16), caudate, 8)
        liver += self._surface.at(x, y, z)
        if s.nodularity > 0:
            liver += self._nodules.at(x, y, z)
        gap = np.maximum(np.float32(self._gap) + self._space.at(x, y, z), np.float32(0.2))
        liver = smooth_max(smooth_max(liver, cavity + gap, 6), dome + np.float32(_DIAPHRAGM), 5)
        for hollow, blend in self._hollows(x, y, z):
            liver = smooth_max(liver, -hollow, blend)
        if s.resection is not None:
            liver = smooth_max(liver, self.cut(s.resection, x, y, z), 3)
        return liver

    def cut(self, resection: Resection, x: Field, y: Field, z: Field) -> Field:
        """Distance to the face of a resection, negative on the side that is left."""
        (a, b, c), (u, v, w) = resection.middle, resection.normal
        plane = np.float32(u) * (x - np.float32(a)) + np.float32(v) * (y - np.float32(b))
        plane += np.float32(w) * (z - np.float32(c))
        return plane + 2 * self._space.at(x, y, z)

    def gallbladder(self, x: Field, y: Field, z: Field) -> Field:
        """Distance to the gall bladder."""
        return ellipsoid(x, y, z, self.gallbladder_center, self.gallbladder_radii, self.gallbladder_turn)

    def _hollows(self, x: Field, y: Field, z: Field) -> Iterator[tuple[Field, float]]:
        """What presses into the visceral face, with the roundness of the impression's border."""
        s = self.shape
        if self._bladder > 0:
            yield self.gallbladder(x, y, z) - np.float32(0.3), 3
        # right kidney with its fat, which is open to the spine
        yield ellipsoid(x, y, z, (-56.0, 49.0, -55.0), (33.0, 32.0, 58.0)), 10
        yield ellipsoid(x, y, z, (-36.0, 58.0, -40.0), (30.0, 32.0, 58.0)), 10
        yield ellipsoid(x, y, z, (-14.0, 6.0, -12.0), (17.0, 9.0, 15.0)), 6  # hilum
        yield ellipsoid(x, y, z, (-20.0, 26.0, 0.0), (12.0, 12.0, 400.0)), 4  # inferior vena cava
        yield ellipsoid(x, y, z, (9.0, 12.0, 0.0), (17.0, 18.0, 900.0)), 9  # aorta and esophagus
        yield ellipsoid(x, y, z, (0.0, 42.0, 0.0), (30.0, 26.0, 900.0)), 6  # spine and crura
        tilted = x + np.float32(0.25) * y
        if s.fissure > 0:  # of the round ligament: open to the front and below
            width = s.fissure / 2
            yield ellipsoid(tilted, y, z, (2.0, -48.0, s.left_low + 8), (width, 34.0, 34.0)), 3
            # of the venous ligament, between caudate and left lobe
            yield ellipsoid(x, y + np.float32(0.5) * x, z, (-2.0, 7.0, 22.0), (20.0, width * 0.7, 24.0)), 3


_HEPATIC_VEINS: tuple[tuple[tuple[Triple, ...], float, float], ...] = (
    (((-22, 22, 60), (-45, 26, 56), (-78, 22, 36), (-100, 8, 4), (-105, 0, -30)), 5.0, 2.2),
    (((-22, 18, 62), (-30, 0, 54), (-44, -25, 34), (-56, -42, 4), (-62, -48, -22)), 4.8, 2.0),
    (((-16, 16, 62), (-2, 2, 54), (16, -24, 38), (30, -44, 22)), 4.4, 1.8),
    (((-24, 28, 5), (-48, 32, 0), (-70, 34, -20)), 2.4, 1.4),
)
_PORTAL_VEINS: tuple[tuple[tuple[Triple, ...], float, float], ...] = (
    (((4, 10, -38), (-8, 8, -20), (-20, 6, -6)), 6.5, 6.0),
    (((-20, 6, -6), (-42, 8, 0)), 5.6, 5.0),
    (((-42, 8, 0), (-58, -8, 10), (-74, -28, 24), (-84, -36, 44)), 4.4, 1.8),
    (((-58, -8, 10), (-74, -30, -6), (-84, -48, -34)), 3.2, 1.4),
    (((-42, 8, 0), (-66, 24, 2), (-88, 34, 14), (-100, 34, 34)), 4.2, 1.6),
    (((-66, 24, 2), (-82, 26, -26), (-96, 20, -56), (-102, 8, -80)), 3.6, 1.5),
    (((-20, 6, -6), (-12, -4, 8), (4, -18, 12), (10, -36, 8)), 4.6, 3.6),
    (((6, -24, 12), (28, -30, 18), (52, -42, 18)), 3.2, 1.5),
    (((10, -36, 8), (22, -52, 0), (36, -62, -4)), 2.8, 1.3),
    (((10, -36, 8), (-6, -52, 0), (-24, -60, -10)), 2.8, 1.3),
)


def _branch(rng: np.random.Generator, trunks: Sequence[tuple[tuple[Triple, ...], float, float]], depth: int) -> list:
    """Bend the trunks at random and let twigs grow from them."""
    segments: list[Segment] = []
    for path, first, last in trunks:
        points = np.array(path, np.float64)
        points[1:] += rng.normal(0, 3.5, points[1:].shape)
        radii = np.linspace(first, last, len(points)) * rng.uniform(0.95, 1.45)
        for k in range(len(points) - 1):
            segments.append(Segment(tuple(points[k]), tuple(points[k + 1]), (radii[k], radii[k + 1])))
            if k > 0 or len(points) > 3:
                for _ in range(2):
                    start = points[k] + (points[k + 1] - points[k]) * rng.uniform(0.2, 1)
                    _grow(rng, segments, start, points[k + 1] - points[k], 0.62 * radii[k + 1], depth)
    return segments


def _grow(
    rng: np.random.Generator, segments: list[Segment], start: np.ndarray, way: np.ndarray, radius: float, depth: int
) -> None:
    if depth == 0 or radius < 0.6:
        return
    way = way / np.linalg.norm(way)
    side = np.cross(way, rng.standard_normal(3))
    way = way + side / np.linalg.norm(side) * rng.uniform(0.6, 1.3)
    end = start + way / np.linalg.norm(way) * rng.uniform(10, 16) * (0.7 + 0.2 * radius)
    segments.append(Segment(tuple(start), tuple(end), (radius, 0.85 * radius)))
    for _ in range(2):
        _grow(rng, segments, end, end - start, radius * rng.uniform(0.6, 0.85), depth - 1)
