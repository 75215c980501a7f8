"""What a CT looks like, without any model: so that different images can be chosen before there is one."""

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn

_MOST_SLICES = 24
_CENTRAL = 0.75  # of rows and columns: the patient, little air and table
_SIDE = 96  # about as many pixels across, means of blocks
_LOW, _HIGH, _BINS = -200, 300, 25  # HU of soft tissue and contrast medium, in steps of 20
_LEVELS, _WAVES = 4, 6  # cosine waves from feet to head, and across
_TYPICAL_MM = (2.5, 0.75, 300.0)  # slice thickness, pixel size, extent from feet to head
_GEOMETRY_WEIGHT = 0.3  # of a factor of e


def image_embedding(hu: NDArray[np.int16], spacing: tuple[float, float, float]) -> NDArray[np.float32]:
    """A fixed descriptor of an image; similar images have a large inner product.

    Three parts with about equal weight of the first two: the square roots of a histogram of soft tissue (contrast
    phase, fat, noise); the lowest waves of a cosine transform of the central part, seen through a window of soft
    tissue (which part of the body, how large, how it lies); logarithms of slice thickness, pixel size and extent,
    compared with typical ones.

    Args:
        hu: axial `(Z, Y, X)`.
        spacing: mm along `(Z, Y, X)`.

    Returns:
        float32 `(171,)`, of unit length.
    """
    small = _small(hu)
    extents = np.log([spacing[0] / _TYPICAL_MM[0], spacing[1] / _TYPICAL_MM[1], len(hu) * spacing[0] / _TYPICAL_MM[2]])
    parts = [densities(small), _unit(_waves(small)), _GEOMETRY_WEIGHT * extents]
    return _unit(np.concatenate(parts)).astype(np.float32)


def densities(hu: NDArray[np.int16] | NDArray[np.float32]) -> NDArray[np.float64]:
    """How often which density of soft tissue occurs: contrast phase, fat, noise.

    Args:
        hu: of any shape; what is less dense than fat or denser than contrast medium is left out.

    Returns:
        `(25,)`, the square roots of a histogram, of unit length, so that the inner product of two is the Bhattacharyya
        coefficient of their histograms; zero if nothing is in its range.
    """
    return _unit(np.sqrt(np.histogram(hu, _BINS, (_LOW, _HIGH))[0].astype(np.float64)))


def _small(hu: NDArray[np.int16]) -> NDArray[np.float32]:
    """A few slices of the central part, float32 `(Z', Y', X')`, as means of blocks."""
    cuts = []
    for size in hu.shape[1:]:
        block = max(1, round(size * _CENTRAL / _SIDE))
        count = max(1, int(size * _CENTRAL) // block)
        first = (size - count * block) // 2
        cuts.append((slice(first, first + count * block), count, block))
    (rows, height, tall), (columns, width, wide) = cuts
    # The middles of as many equal parts, so that a volume of other slices of the same body gives the same.
    count = min(_MOST_SLICES, len(hu))
    chosen = ((np.arange(count) + 0.5) * len(hu) / count).astype(int)
    return np.stack(
        [
            np.ascontiguousarray(hu[z, rows, columns]).reshape(height, tall, width, wide).mean((1, 3), np.float32)
            for z in chosen
        ]
    )


def _waves(small: NDArray[np.float32]) -> NDArray[np.float64]:
    """The lowest cosine waves of a volume but for the constant one, `(levels x waves x waves - 1,)`."""
    seen = (np.clip(small, _LOW, _HIGH) - _LOW) / (_HIGH - _LOW)
    lowest = dctn(seen, norm="ortho")[:_LEVELS, :_WAVES, :_WAVES]
    padded = np.zeros((_LEVELS, _WAVES, _WAVES))
    padded[tuple(slice(size) for size in lowest.shape)] = lowest
    return padded.ravel()[1:]


def _unit(values: NDArray[np.float64]) -> NDArray[np.float64]:
    length = float(np.linalg.norm(values))
    return values / length if length > 0 else values
