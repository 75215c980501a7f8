"""Stomach-less bowel of a phantom: loops and colon with what they hold."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lib.anatomy.shapes import Triple, rotation
from lib.anatomy.spec import Body

_COLON: tuple[Triple, ...] = (
    (-88, 10, -190), (-92, 16, -150), (-90, 8, -118), (-78, -18, -104), (-52, -52, -98), (-15, -66, -92),
    (22, -66, -80), (58, -52, -58), (82, -10, -22), (90, 18, -30), (94, 30, -80), (92, 26, -130), (84, 16, -180),
    (60, 10, -215), (20, 25, -235),
)  # fmt: skip


@dataclass(frozen=True)
class Loop:
    """A sausage of bowel in reference mm: wall outside, contents inside, perhaps gas in front."""

    center: Triple
    radii: Triple
    turn: NDArray[np.float64]
    contents: float
    gas: float
    stool: float


class Bowel:
    """All loops of one patient."""

    def __init__(self, rng: np.random.Generator, body: Body) -> None:
        loops = []
        for _ in range(int(rng.integers(80, 130))):
            angle, reach = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(0, 1))
            across = 92 * reach * np.cos(angle)
            top = -48 if across < 5 else -15  # jejunum reaches up on the left
            center = (across, -20 + 52 * reach * np.sin(angle), top - 215 * rng.beta(1, 1.15))
            width = rng.uniform(8, 15)
            radii = (width * rng.uniform(1.3, 3.0), width, width * rng.uniform(0.8, 1.2))
            wet = rng.uniform(5, 40) + (body.oral_contrast if rng.random() < 0.6 else 0)
            gas = rng.uniform(0.3, 0.8) if rng.random() < 0.12 else 0.0
            loops.append(Loop(center, radii, rotation(rng), wet, gas, 12.0))
        path = np.array(_COLON, float)
        path += rng.normal(0, 7, path.shape) + np.array([0, 0, rng.uniform(-20, 25)])
        path[4:9, 2] += rng.uniform(0, 35)  # the transverse colon hangs at any height
        width = rng.uniform(15, 25)
        for start, end in pairwise(path):
            pieces = max(1, round(float(np.linalg.norm(end - start)) / (1.1 * width)))
            filling = rng.choice(["gas", "stool", "mixed", "empty"], p=[0.3, 0.35, 0.2, 0.15])
            for part in range(pieces):
                center = start + (end - start) * (part + rng.uniform(0.3, 0.7)) / pieces
                size = width * rng.uniform(0.75, 1.15) * (0.55 if filling == "empty" else 1)
                gas = {"gas": 0.97, "mixed": rng.uniform(0.3, 0.7)}.get(str(filling), 0.0)
                wet = rng.uniform(-60, 50) if filling != "empty" else 40.0
                loops.append(
                    Loop(tuple(center), (size, size, size * 1.1), rotation(rng), wet, gas, 70.0 if gas < 0.9 else 10.0)
                )
        self.loops = tuple(loops)
