"""One synthetic tumor: what is drawn about it, and what it does to the HU around its center.

A lesion is an ellipsoid, turned anyhow, whose border is dented by smooth noise. Nothing is filtered: coverage follows
from the distance to the border, noise from fields made once, so a lesion costs little more than its own box.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

_NODES_PER_GRAIN = 2  # linear interpolation between them differs from the smooth field by a few percent of its SD
_SAMPLE_MM = 1.5  # thicker slices average several samples, as a scanner does
_BORDER_GRAINS = ((0.55, 1.0), (0.22, 0.35))  # of the radius, and of the irregularity: wide dents and small ones
_DEEPEST_DENT = 3.0  # standard deviations that the box leaves room for
_SPECK_GRAIN_MM = 1.2
_SPECK_LEVEL = 1.4  # standard deviations above which noise is a speck: some 8 % of the lesion


@dataclass(frozen=True)
class SyntheticLesion:
    """What is drawn about one lesion.

    Args:
        center: voxel index along `(Z, Y, X)`.
        radii: half axes in mm before the lesion is turned and dented.
        difference: HU of the lesion against the liver, negative for hypodense ones; the mean over the lesion without
            rim and calcification.
        core: by how much of `difference` the center differs more than the mean does.
        irregularity: standard deviation of the border as a share of the mean radius.
        softness: width in mm in which the border goes from liver to lesion.
        texture_hu: standard deviation in HU of the texture inside.
        texture_grain: length in mm over which the texture correlates.
        rim_hu: HU that a ring inside the border gets on top, 0 without.
        rim_width: its width in mm.
        calcification_hu: HU that calcified specks get on top, 0 without.
        seed: what direction, dents and texture are made from.
    """

    center: tuple[int, int, int]
    radii: tuple[float, float, float]
    difference: float
    core: float
    irregularity: float
    softness: float
    texture_hu: float
    texture_grain: float
    rim_hu: float
    rim_width: float
    calcification_hu: float
    seed: int

    @property
    def radius(self) -> float:
        """Radius in mm of the sphere of the same volume."""
        return float(np.prod(self.radii) ** (1 / 3))


class SmoothNoise:
    """Large fields of smooth noise, made once, of which any part can be had at any scale.

    The fields close on themselves, so a part may begin anywhere.

    Args:
        seed: what the fields are made from.
        fields: how many.
        size: nodes along each axis.
    """

    def __init__(self, seed: int = 0, fields: int = 3, size: int = 96) -> None:
        rng = np.random.default_rng(seed)
        self._fields = []
        for _ in range(fields):
            white = rng.standard_normal((size, size, size), dtype=np.float32)
            smooth = gaussian_filter(white, _NODES_PER_GRAIN, mode="wrap")
            self._fields.append((smooth - smooth.mean()) / smooth.std())

    def part(
        self,
        rng: np.random.Generator,
        positions: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]],
        grain: float,
    ) -> NDArray[np.float32]:
        """A random part of a random field.

        Args:
            rng: chooses the field and the part.
            positions: mm along Z, Y and X, each ascending.
            grain: standard deviation in mm of the Gaussian that the noise looks smoothed with.

        Returns:
            `(Z, Y, X)` float32; mean 0 and standard deviation 1 over many parts.
        """
        field = self._fields[int(rng.integers(len(self._fields)))]
        field = field.transpose(rng.permutation(3))
        nodes, weights = [], []
        for axis, offset in zip(positions, rng.uniform(0, len(field), 3), strict=True):
            at = (axis - axis[0]) * (_NODES_PER_GRAIN / grain) + offset
            first = int(at[0])
            lower = at.astype(int) - first
            count = int(lower[-1]) + 2
            weight = np.zeros((len(at), count), np.float32)
            rows = np.arange(len(at))
            weight[rows, lower + 1] = at - first - lower
            weight[rows, lower] = 1 - weight[rows, lower + 1]
            nodes.append(np.arange(first, first + count) % len(field))
            weights.append(weight)
        block = np.tensordot(weights[0], field[np.ix_(*nodes)], 1)
        return np.matmul(np.matmul(weights[1], block), weights[2].T)


def lesion_box(
    lesion: SyntheticLesion, shape: tuple[int, ...], spacing: tuple[float, float, float]
) -> tuple[slice, slice, slice]:
    """The part of an array `(Z, Y, X)` of `shape` that a lesion may reach; `spacing` in mm."""
    _, reach = _quadric(lesion)
    reach = reach * (1 + _DEEPEST_DENT * lesion.irregularity) + 0.5 * _softness(lesion, spacing)
    z, y, x = (
        slice(max(0, center - extent), min(size, center + extent + 1))
        for center, extent, size in zip(
            lesion.center, np.ceil(reach / np.array(spacing)).astype(int).tolist(), shape, strict=True
        )
    )
    return z, y, x


def render_lesion(
    lesion: SyntheticLesion,
    box: tuple[slice, slice, slice],
    spacing: tuple[float, float, float],
    noise: SmoothNoise,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compute a lesion in its box; deterministic.

    Args:
        lesion: as drawn.
        box: from `lesion_box`.
        spacing: voxel size in mm along `(Z, Y, X)`.
        noise: where dents and texture come from.

    Returns:
        Two `(Z, Y, X)` float32 arrays of the box's shape: which share of each voxel is lesion, 0 to 1, and the HU that
        the lesion adds to it.
    """
    rng = np.random.default_rng([lesion.seed, 1])
    samples = int(np.ceil(spacing[0] / _SAMPLE_MM))
    z, y, x = (
        ((np.arange(part.start, part.stop) - center) * step).astype(np.float32)
        for part, center, step in zip(box, lesion.center, spacing, strict=True)
    )
    if samples > 1:
        within = ((np.arange(samples) + 0.5) / samples - 0.5) * spacing[0]
        z = (z[:, None] + within.astype(np.float32)).ravel()
    positions = (z, y, x)

    matrix, _ = _quadric(lesion)
    a = matrix.astype(np.float32)
    level = (a[1, 1] * y * y)[:, None] + 2 * a[1, 2] * y[:, None] * x + a[2, 2] * x * x
    level = level + ((a[0, 0] * z * z)[:, None] + 2 * a[0, 1] * z[:, None] * y)[:, :, None]
    level += (2 * a[0, 2] * z[:, None] * x)[:, None, :]
    np.maximum(level, 0, out=level)  # rounding
    np.sqrt(level, out=level)  # 0 in the center, 1 on the ellipsoid
    depth = 1 - level
    for grain, share in _BORDER_GRAINS:
        depth += share * lesion.irregularity * noise.part(rng, positions, grain * lesion.radius)
    depth *= lesion.radius  # about the distance in mm to the border, positive inside

    softness = _softness(lesion, spacing)
    coverage = _ramp(depth, softness)
    hu = lesion.texture_hu * noise.part(rng, positions, lesion.texture_grain)
    if lesion.core:
        hu += lesion.core * lesion.difference * (1 - np.minimum(level, 1))
    # A lesion sees a small part of the noise, whose mean is not 0.
    hu += lesion.difference - float(np.vdot(coverage, hu)) / max(float(coverage.sum()), 1e-6)
    if lesion.rim_hu:
        hu += lesion.rim_hu * (1 - _ramp(depth - lesion.rim_width, softness))
    if lesion.calcification_hu:
        specks = noise.part(rng, positions, _SPECK_GRAIN_MM) - _SPECK_LEVEL
        hu += lesion.calcification_hu * np.clip(2 * specks, 0, 1) * _ramp(depth - softness, softness)
    hu *= coverage
    return _average(coverage, samples), _average(hu, samples)


def _quadric(lesion: SyntheticLesion) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The matrix A of the turned ellipsoid `p A p = 1` for p in mm along `(Z, Y, X)`, and its reach along each axis."""
    axes, _ = np.linalg.qr(np.random.default_rng([lesion.seed, 0]).standard_normal((3, 3)))
    squares = np.square(lesion.radii)
    return (axes / squares) @ axes.T, np.sqrt(np.diag((axes * squares) @ axes.T))


def _softness(lesion: SyntheticLesion, spacing: tuple[float, float, float]) -> float:
    """Width of the border in mm: not less than a pixel, so that no border has steps that no scanner makes."""
    return max(lesion.softness, spacing[1], spacing[2])


def _ramp(depth: NDArray[np.float32], width: float) -> NDArray[np.float32]:
    """A smooth step from 0 to 1 that is 1/2 at depth 0 and done within `width`."""
    t = np.clip(depth * np.float32(1 / width) + np.float32(0.5), 0, 1)
    return t * t * (3 - 2 * t)


def _average(array: NDArray[np.float32], samples: int) -> NDArray[np.float32]:
    """The mean of each `samples` neighbors along the first axis."""
    if samples == 1:
        return array
    return array.reshape(-1, samples, *array.shape[1:]).mean(axis=1)
