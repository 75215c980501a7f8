"""Deformations of a slice, composed into one grid that says where each pixel comes from."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

# The elastic field is made on nodes half a sigma apart. Such a field has no detail finer than about a sigma, so that
# linear interpolation between the nodes differs from the field itself by about 3 % of its standard deviation.
_NODES_PER_SIGMA = 2


@dataclass(frozen=True)
class Elastic:
    """An elastic deformation after Simard et al. (ICDAR 2003, doi:10.1109/ICDAR.2003.1227801).

    The usual recipe smooths uniform noise at every pixel with a Gaussian of `sigma` and multiplies it by alpha. A pixel
    then sums over hundreds of noise values, so the field is Gaussian with known standard deviation and correlation
    length: that field is drawn here directly, on few nodes.

    Args:
        sd: standard deviation of the displacement along each axis, as a part of the matrix.
        sigma: standard deviation of the smoothing Gaussian, as a part of the matrix.
        anchors: shifts (y, x, y, x, y, x) of three anchor points as parts of the matrix: a random affine map.
        seed: what the field is made from.
    """

    sd: float
    sigma: float
    anchors: tuple[float, ...] = (0.0,) * 6
    seed: int = 0


@dataclass(frozen=True)
class Deformation:
    """How one slice is deformed; the default leaves it as it is.

    Args:
        flip: whether columns are mirrored.
        elastic: the elastic deformation, if any.
        grid_y: relative heights of the rows of cells from top to bottom (grid distortion); empty: not distorted.
        grid_x: relative widths of the columns of cells.
        angle_degrees: rotation, positive is counterclockwise as seen on the screen.
        scale: magnification; above 1 things get larger.
        shift_y: how far things move down, as a part of the matrix.
        shift_x: how far things move right, as a part of the matrix.
    """

    flip: bool = False
    elastic: Elastic | None = None
    grid_y: tuple[float, ...] = ()
    grid_x: tuple[float, ...] = ()
    angle_degrees: float = 0.0
    scale: float = 1.0
    shift_y: float = 0.0
    shift_x: float = 0.0


def sampling_grid(
    deformation: Deformation, rows: int, columns: int, device: torch.device | None = None
) -> torch.Tensor:
    """Where each pixel of the deformed slice comes from.

    For a pixel at p the source is `F(A(E(g(p) + d(p))))`: g the grid distortion, d the elastic displacement, E the
    elastic deformation's affine map, A rotation, scale and shift about the center, F the flip.

    Args:
        deformation: the parameters.
        rows: pixels along Y.
        columns: pixels along X.
        device: where to make it; None: the CPU.

    Returns:
        `(Y, X, 2)` float32: x and y of the source from -1 to 1 between the slice's outer edges, the grid of
        `torch.nn.functional.grid_sample` with `align_corners=False`.
    """
    matrix = max(rows, columns)
    # Lengths are parts of the matrix from here on, origin in the center: a rotation stays one in an oblong slice.
    y = _distorted_axis(deformation.grid_y, rows).to(device)[:, None] * (rows / matrix)
    x = _distorted_axis(deformation.grid_x, columns).to(device)[None, :] * (columns / matrix)
    affine = _affine(deformation)
    if deformation.elastic is not None:
        affine = affine @ _three_point_affine(deformation.elastic.anchors)
        if deformation.elastic.sd > 0:
            field = elastic_field(deformation.elastic, rows, columns, device)
            y, x = y + field[0], x + field[1]
    to_unit = np.diag([2 * matrix / rows, 2 * matrix / columns, 1.0])
    (yy, yx, y1), (xy, xx, x1) = (to_unit @ affine)[:2].tolist()
    grid = torch.empty(rows, columns, 2, device=device)
    torch.add(xx * x + x1, xy * y, out=grid[..., 0])
    torch.add(yx * x + y1, yy * y, out=grid[..., 1])
    return grid


def elastic_field(elastic: Elastic, rows: int, columns: int, device: torch.device | None = None) -> torch.Tensor:
    """Displacements `(2, Y, X)` float32 along y and x, as parts of the larger matrix axis.

    The few nodes are drawn on the CPU, so that all devices give the same up to rounding.
    """
    matrix = max(rows, columns)
    step = max(1.0, elastic.sigma * matrix / _NODES_PER_SIGMA)  # px between nodes
    sigma = elastic.sigma * matrix / step  # nodes
    radius = math.ceil(3 * sigma)
    nodes = [math.ceil(size / step) + 1 for size in (rows, columns)]
    generator = torch.Generator().manual_seed(elastic.seed)
    noise = torch.randn(2, 1, nodes[0] + 2 * radius, nodes[1] + 2 * radius, generator=generator)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.square().sum().sqrt()  # white noise keeps its standard deviation
    smooth = functional.conv2d(functional.conv2d(noise, kernel[None, None, :, None]), kernel[None, None, None, :])
    # Nodes may end beyond the slice: stretching them to fit would change the field's correlation length.
    size = [math.ceil((count - 1) * step) + 1 for count in nodes]
    fine = functional.interpolate((elastic.sd * smooth).to(device), size=size, mode="bilinear", align_corners=True)
    return fine[:, 0, :rows, :columns]


def _distorted_axis(widths: tuple[float, ...], size: int) -> torch.Tensor:
    """Source positions, -0.5 to 0.5, of pixel centers along one axis whose cells get these relative widths.

    The cells are scaled to fill the axis, so that the borders stay and nothing is pushed out of the slice.
    """
    centers = (np.arange(size) + 0.5) / size
    if widths:
        edges = np.concatenate([[0.0], np.cumsum(widths)])
        centers = np.interp(centers, np.linspace(0, 1, len(edges)), edges / edges[-1])
    return torch.from_numpy((centers - 0.5).astype(np.float32))


def _affine(deformation: Deformation) -> np.ndarray:
    """Target to source in (y, x, 1): undo the shift, then scale and rotation, then mirror."""
    angle = math.radians(deformation.angle_degrees)
    cosine, sine = math.cos(angle) / deformation.scale, math.sin(angle) / deformation.scale
    unshift = np.array([[1, 0, -deformation.shift_y], [0, 1, -deformation.shift_x], [0, 0, 1]], dtype=np.float64)
    # On the screen y points down: turning counterclockwise takes (y, x) from (cos y + sin x, cos x - sin y).
    turn = np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])
    mirror = np.diag([1.0, -1.0 if deformation.flip else 1.0, 1.0])
    return mirror @ turn @ unshift


def _three_point_affine(shifts: tuple[float, ...]) -> np.ndarray:
    """The affine map in (y, x, 1) that shifts three corners of a square a third of the matrix around the center."""
    points = np.array([[1, 1, 1], [-1, 1, 1], [-1, -1, 1]], dtype=np.float64).T / np.array([[3], [3], [1]])
    moved = points.copy()
    moved[:2] += np.reshape(shifts, (3, 2)).T
    return moved @ np.linalg.inv(points)
