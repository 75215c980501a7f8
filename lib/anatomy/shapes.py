"""Implicit shapes in millimeters: negative inside, zero on the border, positive outside, near to true distances.

All functions take coordinate arrays `x, y, z` of one shape (or broadcastable) and give float32 arrays of that shape.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Field = NDArray  # float32
Triple = tuple[float, float, float]


def ellipsoid(x: Field, y: Field, z: Field, center: Triple, radii: Triple, turn: NDArray | None = None) -> Field:
    """Approximate distance to an ellipsoid; `turn` is a (3, 3) rotation whose rows are the ellipsoid's axes."""
    x, y, z = x - np.float32(center[0]), y - np.float32(center[1]), z - np.float32(center[2])
    if turn is not None:
        t = turn.astype(np.float32)
        x, y, z = (t[row, 0] * x + t[row, 1] * y + t[row, 2] * z for row in range(3))
    # with p = (x/a, y/b, z/c): |p| (|p| - 1) / |(x/a2, y/b2, z/c2)|, in place as this is the busiest function
    outer = np.zeros(np.broadcast_shapes(x.shape, y.shape, z.shape), np.float32)
    slope = np.zeros_like(outer)
    for axis, radius in zip((x, y, z), radii, strict=True):
        square = axis * np.float32(1 / radius)
        square *= square
        outer += square
        square *= np.float32(1 / radius**2)
        slope += square
    np.sqrt(outer, out=outer)
    np.sqrt(slope, out=slope)
    tiny = 1e-4  # makes the center, where both are 0, the smallest radius deep
    slope += np.float32(tiny / min(radii))
    result = outer - np.float32(1)
    outer += np.float32(tiny)
    result *= outer
    result /= slope
    return result


def ellipse(x: Field, y: Field, center: tuple[float | Field, float | Field], radii: tuple[float, float]) -> Field:
    """Approximate distance to an elliptic tube along z; the center may be a field, so that the tube can bend."""
    x, y = (x - center[0]) / np.float32(radii[0]), (y - center[1]) / np.float32(radii[1])
    outer = np.sqrt(x * x + y * y)
    x, y = x / np.float32(radii[0]), y / np.float32(radii[1])
    tiny = np.float32(1e-4)
    slope = np.sqrt(x * x + y * y) + tiny / np.float32(min(radii))
    return ((outer + tiny) * (outer - 1) / slope).astype(np.float32, copy=False)


def capsule(x: Field, y: Field, z: Field, start: Triple, end: Triple, radius: tuple[float, float]) -> Field:
    """Distance to a rod with round ends whose radius changes from `radius[0]` to `radius[1]`."""
    a, b = np.asarray(start, np.float32), np.asarray(end, np.float32)
    way = b - a
    length2 = np.float32(max(float(way @ way), 1e-6))
    x, y, z = x - a[0], y - a[1], z - a[2]
    along = np.clip((x * way[0] + y * way[1] + z * way[2]) / length2, 0, 1)
    x, y, z = x - along * way[0], y - along * way[1], z - along * way[2]
    return np.sqrt(x * x + y * y + z * z) - (np.float32(radius[0]) + along * np.float32(radius[1] - radius[0]))


def smooth_max(first: Field, second: Field, blend: float) -> Field:
    """Intersection of two shapes with a corner rounded over `blend` mm."""
    corner = np.maximum(np.float32(blend) - np.abs(first - second), 0)
    return np.maximum(first, second) + corner * corner * np.float32(0.25 / blend)


def smooth_min(first: Field, second: Field, blend: float) -> Field:
    """Union of two shapes with a seam filled over `blend` mm."""
    corner = np.maximum(np.float32(blend) - np.abs(first - second), 0)
    return np.minimum(first, second) - corner * corner * np.float32(0.25 / blend)


def triple(point: NDArray[np.floating]) -> Triple:
    """`(3,)` as plain numbers."""
    return float(point[0]), float(point[1]), float(point[2])


def rotation(rng: np.random.Generator) -> NDArray[np.float64]:
    """A uniformly random rotation matrix (3, 3)."""
    q, r = np.linalg.qr(rng.standard_normal((3, 3)))
    q *= np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else -q


@dataclass(frozen=True)
class Waves:
    """A smooth random field: a sum of plane waves `amplitude * sin(vector . p + phase)`.

    Args:
        vectors: (N, 3) radians per mm.
        phases: (N,) radians.
        amplitudes: (N,) in the unit of the field.
    """

    vectors: NDArray[np.float64]
    phases: NDArray[np.float64]
    amplitudes: NDArray[np.float64]

    @classmethod
    def draw(cls, rng: np.random.Generator, count: int, lengths: tuple[float, float], deviation: float) -> "Waves":
        """`count` waves of lengths (mm) in a range whose sum has the standard deviation `deviation`."""
        directions = rng.standard_normal((count, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        vectors = directions * (2 * np.pi / np.exp(rng.uniform(np.log(lengths[0]), np.log(lengths[1]), count)))[:, None]
        weights = rng.uniform(0.6, 1.4, count)
        weights *= deviation * np.sqrt(2 / (weights**2).sum())
        return cls(vectors, rng.uniform(0, 2 * np.pi, count), weights)

    def at(self, x: Field, y: Field, z: Field) -> Field:
        """The field at points in mm."""
        total = np.zeros(np.broadcast_shapes(x.shape, y.shape, z.shape), np.float32)
        for vector, phase, amplitude in zip(self.vectors, self.phases, self.amplitudes, strict=True):
            v = vector.astype(np.float32)
            total += np.float32(amplitude) * np.sin(x * v[0] + y * v[1] + (z * v[2] + np.float32(phase)))
        return total

    def on_grid(self, axes: Sequence[NDArray], matrix: NDArray, origin: NDArray) -> Field:
        """The field on a regular grid: position = `matrix @ (i, j, k) + origin`; result is (K, J, I).

        The phase is linear in the indices, so it is two additions per point instead of a dot product.
        """
        i, j, k = axes
        total = np.zeros((len(k), len(j), len(i)), np.float32)
        for vector, phase, amplitude in zip(self.vectors, self.phases, self.amplitudes, strict=True):
            step = vector @ matrix
            plane = (step[0] * i)[None, :] + (step[1] * j)[:, None]
            ahead = step[2] * k + (phase + vector @ origin)
            # sin(a + b) = sin a cos b + cos a sin b: sines of a plane and of a line only, not of the whole grid
            sine, cosine = np.sin(plane).astype(np.float32), np.cos(plane).astype(np.float32)
            a = (amplitude * np.cos(ahead)).astype(np.float32)[:, None, None]
            b = (amplitude * np.sin(ahead)).astype(np.float32)[:, None, None]
            total += a * sine
            total += b * cosine
        return total


class Grain:
    """Random texture with mean 0 and standard deviation 1 that repeats every 64 cells."""

    _SIZE = 64

    def __init__(self, rng: np.random.Generator, smoothness: float = 1.5) -> None:
        tile = gaussian_filter(rng.standard_normal((self._SIZE,) * 3, dtype=np.float32), smoothness, mode="wrap")
        self._tile = np.ascontiguousarray((tile - tile.mean()) / tile.std()).ravel()

    def at(self, x: Field, y: Field, z: Field, cell: Triple | float) -> Field:
        """The texture at points in mm with cells of `cell` mm (per axis if three are given)."""
        sizes = (cell,) * 3 if isinstance(cell, float | int) else cell
        index = np.zeros(np.broadcast_shapes(x.shape, y.shape, z.shape), np.int32)
        for axis, size in zip((z, y, x), sizes[::-1], strict=True):
            index *= self._SIZE
            index += np.floor(axis * np.float32(1 / size)).astype(np.int32) & (self._SIZE - 1)
        return self._tile[index]
