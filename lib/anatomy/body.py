"""The trunk of a phantom: where its coordinates lie, and painting it from the skin to the liver's tumors."""

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from lib.anatomy.bowel import Bowel
from lib.anatomy.canvas import Box, Canvas, Frame
from lib.anatomy.liver import Liver
from lib.anatomy.shapes import Field, Grain, Triple, Waves, ellipse, ellipsoid, smooth_max, smooth_min
from lib.anatomy.spec import Body, LiverShape

REFERENCE_WIDTH, REFERENCE_DEPTH = 130.0, 95.0  # half axes in mm of the average patient's trunk cavity
_REACH = 12.0  # mm that the smooth deformation may move a point


@lru_cache(maxsize=4)
def anatomy_of(seed: int, body: Body, liver: LiverShape) -> "Anatomy":
    """The shapes of a patient, kept for a while: a phantom needs them when it is drawn and when it is rendered."""
    return Anatomy(seed, body, liver)


class Anatomy:
    """The shapes of one patient, the same for every scan of them.

    Coordinates come in three kinds: patient mm; *bent* mm, after the smooth deformation that makes no two patients
    alike; and *reference* mm, bent coordinates scaled to the average patient, in which organs are described.
    """

    def __init__(self, seed: int, body: Body, liver: LiverShape) -> None:
        self.seed = seed
        rng = np.random.default_rng([seed, 1])
        self.body = body
        self.scale = np.array(
            [
                (body.half_width - body.fat - body.muscle) / REFERENCE_WIDTH,
                (body.half_depth - body.fat - body.muscle) / REFERENCE_DEPTH,
                body.height,
            ]
        )
        self.bends = [
            (Waves.draw(rng, 5, (110.0, 260.0), 3.2), Waves.draw(rng, 5, (35.0, 80.0), 0.9)) for _ in range(3)
        ]
        self.liver = Liver(rng, liver, body)
        self.bowel = Bowel(rng, body)
        self._dome = liver.dome
        self._wall = Waves.draw(rng, 5, (60.0, 160.0), 1.3)
        self.spine_phase = float(rng.uniform(0, 34))
        self.rib_phase = float(rng.uniform(0, 29))
        self.dome_shift = rng.uniform(-6, 6, 4)
        self.kidney_shift = rng.uniform(-9, 9, (2, 3))
        self.heart_shift = rng.uniform(-8, 8, 3)
        self.spleen_shift = rng.uniform(-9, 9, 3)
        self.stomach_shift = rng.uniform(-12, 12, 3)
        self.stomach_size = rng.uniform(0.7, 1.45)
        self.perfusion = Waves.draw(rng, 5, (70.0, 220.0), 1.0)
        self.grain = Grain(rng)
        self.coarse_grain = Grain(rng, 3.5)

    # --- distances, from bent or reference coordinates ---

    def skin(self, x: Field, y: Field, z: Field) -> Field:
        """Distance to the skin from bent coordinates."""
        b = self.body
        n = np.float32(b.squareness)
        swell = 1 + np.float32(0.05) * np.cos((z - 40) / np.float32(95)).astype(np.float32)
        u, v = np.abs(x) / (np.float32(b.half_width) * swell), np.abs(y) / np.float32(b.half_depth)
        u, v = np.maximum(u, 1e-4), np.maximum(v, 1e-4)
        un, vn = u ** (n - 1), v ** (n - 1)
        value = (un * u + vn * v) ** (1 / n)
        slope = np.sqrt((un / np.float32(b.half_width)) ** 2 + (vn / np.float32(b.half_depth)) ** 2)
        slope *= value ** (1 - n)
        return (value - 1) / np.maximum(slope, np.float32(1 / (3 * b.half_width)))

    def muscle_depth(self, x: Field, y: Field, skin: Field) -> Field:
        """Distance to the outer face of the wall's muscle: fat is thinner in front of it than at its sides."""
        b = self.body
        return skin + np.float32(b.fat) * (1 + np.float32(0.22) * np.clip(y / np.float32(b.half_depth), -1, 1))

    def cavity(self, x: Field, y: Field, z: Field, muscle: Field) -> Field:
        """Distance to the inner face of the wall, from reference coordinates and `muscle_depth`."""
        b = self.body
        back = ellipse(x, y, (0.0, 93.0), (62.0, 35.0))
        # thinner in front and behind the ribs than in the flank
        flank = (
            np.float32(0.72)
            + np.float32(0.4) * np.clip(np.abs(x) / 110, 0, 1)
            - np.float32(0.12) * np.clip(z / 50, 0, 1)
        )
        return smooth_max(muscle + np.float32(b.muscle) * flank + self._wall.at(x, y, z), -back, 12)

    def dome(self, x: Field, y: Field, z: Field) -> Field:
        """Distance to the diaphragm's upper face, from reference coordinates."""
        s = self.dome_shift
        z = z - np.float32(self.body.inspiration)
        up = np.maximum(z + np.float32(25), 0)
        top = self._dome
        right = ellipsoid(x, y, up, (-62.0, -8.0 + 0.6 * s[0], 0.0), (72.0, 96.0, 106.0 + top))
        left = ellipsoid(x, y, up, (62.0, -4.0 + 0.6 * s[1], 0.0), (72.0, 95.0, 92.0 + 0.5 * top + s[2]))
        middle = ellipsoid(x, y, up, (0.0, -30.0, 0.0), (74.0, 78.0, 80.0 + 0.6 * top + s[3]))
        # below the costophrenic angle the diaphragm lies on the wall
        angle = (z + np.float32(44) - np.float32(0.36) * (80 - y)) * np.float32(0.94)
        return smooth_min(smooth_min(smooth_min(right, left, 18), middle, 22), angle, 20)

    def spine(self, z: Field) -> Field:
        """Y of the vertebral bodies' middle at reference heights: lordosis below, kyphosis above."""
        return (
            np.float32(42)
            - np.float32(9) * np.exp(-(((z + 110) / np.float32(70)) ** 2))
            + np.float32(0.10) * np.clip(z - 50, 0, 200)
        )

    def liver_at(self, points: np.ndarray) -> Field:
        """Distance to the liver at (N, 3) points in bent mm."""
        x, y, z = (points[:, axis].astype(np.float32) for axis in range(3))
        muscle = self.muscle_depth(x, y, self.skin(x, y, z))
        u, v, w = (axis / np.float32(s) for axis, s in zip((x, y, z), self.scale, strict=True))
        w = w - np.float32(self.body.inspiration)
        cavity, dome = self.cavity(u, v, w, muscle), self.dome(u, v, w + np.float32(self.body.inspiration))
        return self.liver.distance(u, v, w, cavity, dome)


class Nodes:
    """Coordinates and the trunk's main distances on all nodes of a canvas."""

    def __init__(self, anatomy: Anatomy, frame: Frame, canvas: Canvas) -> None:
        columns, rows = frame.node_axes()
        axes = (columns, rows, canvas.slices)
        i, j, k = (axis.astype(np.float32) for axis in axes)
        bent: list[Field] = []
        for axis in range(3):
            m = frame.matrix[axis].astype(np.float32)
            line = (m[2] * k + np.float32(frame.origin[axis]))[:, None, None] + (m[1] * j)[None, :, None]
            position = line + (m[0] * i)[None, None, :]
            for waves in anatomy.bends[axis]:
                position += waves.on_grid(axes, frame.matrix, frame.origin)
            bent.append(position)
        self.bent = (bent[0], bent[1], bent[2])
        x, y, z = (p / np.float32(s) for p, s in zip(bent, anatomy.scale, strict=True))
        self.reference = (x, y, z)
        self._canvas, self._scale = canvas, anatomy.scale
        self.trunk = self._trunk(anatomy.body)
        self.skin = anatomy.skin(*self.bent)
        self.muscle = anatomy.muscle_depth(self.bent[0], self.bent[1], self.skin)
        self.cavity = anatomy.cavity(*self.reference, self.muscle)
        self.dome = anatomy.dome(*self.reference)
        self._shift = anatomy.body.inspiration

    def _trunk(self, body: Body) -> Box:
        half_width = body.half_width * 1.05 + 3 + (90 if body.arms else 0)
        half_depth = max(body.half_depth + 3, 70 if body.arms else 0)
        box = self._canvas.box((-half_width, -half_depth, -1e4), (half_width, half_depth, 1e4), _REACH)
        return box or (slice(0, 0),) * 3

    def at(self, box: Box) -> tuple[Field, Field, Field]:
        """Reference coordinates in a box of nodes."""
        x, y, z = (axis[box] for axis in self.reference)
        return x, y, z

    def organ(self, box: Box) -> tuple[Field, Field, Field]:
        """Reference coordinates that breathe with the diaphragm."""
        x, y, z = self.at(box)
        return x, y, z - np.float32(self._shift)

    def box(self, low: ArrayLike, high: ArrayLike, *, moves: bool = False) -> Box | None:
        """Nodes that may hold a shape between two corners in reference mm."""
        shift = np.array([0, 0, self._shift if moves else 0.0])
        return self._canvas.box(
            (np.asarray(low) + shift) * self._scale, (np.asarray(high) + shift) * self._scale, _REACH
        )

    def around(self, center: Triple, reach: Triple | float, *, moves: bool = False) -> Box | None:
        """Nodes within `reach` mm of a reference point."""
        c, r = np.array(center), np.broadcast_to(reach, 3)
        return self.box(c - r, c + r, moves=moves)
