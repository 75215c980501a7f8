"""What the scanner adds to a phantom: slice thickness, table, noise, shading, streaks, field of view."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from lib.anatomy.canvas import Canvas, Frame
from lib.anatomy.shapes import Field
from lib.anatomy.spec import Scan

_THIN = 1.6  # mm; slices up to this thickness are sampled once, thicker ones averaged from several samples


def samples_per_slice(scan: Scan) -> int:
    """How many thin samples are averaged to one slice."""
    step = max(_THIN, min(scan.spacing[:2]) * 1.5)  # finer than the pixels would be wasted
    return min(3, max(1, round(scan.slice_thickness / step)))


def sample_positions(scan: Scan, first: int, last: int) -> NDArray[np.float64]:
    """Slice indices, with fractions, of the thin samples of the slices `first` to `last - 1`, slice by slice."""
    count = samples_per_slice(scan)
    within = (np.arange(count) + 0.5) / count - 0.5
    within *= scan.slice_thickness / scan.spacing[2]
    return (np.arange(first, last)[:, None] + within).ravel()


def paint_table(canvas: Canvas, scan: Scan, back: float) -> None:
    """The table: a shell of plastic around foam, curved to hold the patient; `back` is y of the patient's back."""
    if scan.table is None:
        return
    columns, rows = canvas.frame.node_axes()
    matrix, origin = scan.index_to_patient()
    # the patient may be rolled, the table is not: undo the roll, which is a rotation about z
    turn = np.radians(scan.roll)
    x = matrix[0, 0] * columns[None, :] + matrix[0, 1] * rows[:, None] + origin[0]
    y = matrix[1, 0] * columns[None, :] + matrix[1, 1] * rows[:, None] + origin[1]
    x, y = x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)
    top = back + 6 - scan.table * (x / 200) ** 2
    upper = y - top
    lower = y - (back + 55 - 2.2 * scan.table * (x / 230) ** 4)
    width = np.abs(x) - 225
    foam = np.maximum(np.maximum(-upper, lower), width)
    shell = np.abs(foam + 1.5) - 1.7
    shape = canvas.node_shape
    box = (slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2]))
    canvas.paint(box, np.broadcast_to(foam.astype(np.float32), shape), -930.0)
    canvas.paint(box, np.broadcast_to(shell.astype(np.float32), shape), -60.0, softness=max(2.0, canvas.softness))


def average(array: Field, count: int) -> Field:
    """Mean of each `count` neighboring samples along the first axis."""
    if count == 1:
        return array
    return array.reshape(-1, count, *array.shape[1:]).mean(axis=1)


class Noise:
    """Correlated noise, shading and streaks; every slice has its own stream, so slabs can be of any size."""

    def __init__(self, seed: int, scan: Scan) -> None:
        self._scan = scan
        self._seed = [seed, 7, scan.series] if scan.series else [seed]
        rng = np.random.default_rng([*self._seed, 3])
        columns, rows = scan.shape[:2]
        x = (np.arange(columns) - columns / 2) * scan.spacing[0]
        y = (np.arange(rows) - rows / 2) * scan.spacing[1]
        # photons are fewest in the middle of the body
        self._envelope = (0.55 + 0.5 * np.exp(-((x / 150) ** 2)[None, :] - ((y / 120) ** 2)[:, None])).astype(
            np.float32
        )
        waves = rng.uniform(-1, 1, (4, 3)) * 2 * np.pi / 350
        self._shade = np.zeros((rows, columns), np.float32)
        for wave in waves:
            self._shade += np.sin(wave[0] * x[None, :] + wave[1] * y[:, None] + wave[2] * 200).astype(np.float32)
        self._shade *= np.float32(scan.shading / np.sqrt(2))
        self._white: dict[int, Field] = {}

    def add(self, hu: Field, first: int) -> None:
        """Add to the slices `(Z, Y, X)` that begin at number `first`, in place."""
        scan = self._scan
        share = np.exp(-scan.spacing[2] / max(scan.noise_correlation[1], 1e-3))  # of the noise shared with a neighbor
        for offset, plane in enumerate(hu):
            number = first + offset
            noise = self._filtered(number) + np.float32(share) * self._filtered(number + 1)
            noise *= self._envelope
            noise *= np.float32(scan.noise / np.sqrt(1 + share * share))
            plane += noise
            plane += self._shade
            if scan.streaks > 0:
                rng = np.random.default_rng([*self._seed, 5, number])
                lines = gaussian_filter1d(rng.standard_normal(plane.shape[0], dtype=np.float32), 1.0)
                plane += np.float32(scan.streaks) * lines[:, None] * self._envelope
            self._white.pop(number, None)

    def _filtered(self, number: int) -> Field:
        if number not in self._white:
            rng = np.random.default_rng([*self._seed, 4, number])
            columns, rows = self._scan.shape[:2]
            white = rng.standard_normal((rows, columns), dtype=np.float32)
            sigma = [self._scan.noise_correlation[0] / step for step in self._scan.spacing[1::-1]]
            if max(sigma) > 0.25:
                white = gaussian_filter(white, sigma, mode="wrap", truncate=3.0)
                white *= np.float32(_gain(sigma[0]) * _gain(sigma[1]))
            self._white[number] = white
        return self._white[number]


def _gain(sigma: float) -> float:
    """What restores the standard deviation of white noise after a Gaussian filter of `sigma` pixels."""
    if sigma <= 0:
        return 1.0
    radius = int(3.0 * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    return float(1 / np.sqrt((kernel**2).sum()))


def circle(scan: Scan) -> NDArray[np.bool_]:
    """`(Y, X)`: which pixels lie outside the circle of reconstruction."""
    columns, rows = scan.shape[:2]
    x = (np.arange(columns) - (columns - 1) / 2) / (columns / 2)
    y = (np.arange(rows) - (rows - 1) / 2) / (rows / 2)
    return (x * x)[None, :] + (y * y)[:, None] > 1


def frame_of(scan: Scan, node_distance: float) -> Frame:
    """The pixel grid of a scan with nodes about `node_distance` mm apart."""
    matrix, origin = scan.index_to_patient()
    stride = max(1, round(node_distance / max(scan.spacing[:2])))
    return Frame(matrix, origin, scan.shape[0], scan.shape[1], stride)
