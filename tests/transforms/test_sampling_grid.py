import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from lib.transforms.sampling_grid import Deformation, Elastic, elastic_field, sampling_grid

STRONG = Elastic(sd=0.02, sigma=0.02, seed=3)


def centers(size: int) -> np.ndarray:
    """Positions of pixel centers from -1 to 1 between the outer edges."""
    return (2 * np.arange(size) + 1) / size - 1


def warp(image: np.ndarray, deformation: Deformation) -> np.ndarray:
    grid = sampling_grid(deformation, *image.shape)[None]
    tensor = torch.from_numpy(image.astype(np.float32))[None, None]
    return functional.grid_sample(tensor, grid, mode="nearest", align_corners=False)[0, 0].numpy()


@pytest.mark.parametrize("shape", [(8, 8), (7, 12), (12, 7), (1, 1)])
def test_nothing_to_do_is_the_identity(shape: tuple[int, int]) -> None:
    grid = sampling_grid(Deformation(), *shape).numpy()

    assert grid.shape == (*shape, 2)
    np.testing.assert_allclose(grid[..., 0], np.broadcast_to(centers(shape[1])[None], shape), atol=1e-6)
    np.testing.assert_allclose(grid[..., 1], np.broadcast_to(centers(shape[0])[:, None], shape), atol=1e-6)


def test_right_angles_turn_counterclockwise() -> None:
    image = np.random.default_rng(0).random((9, 9)).astype(np.float32)

    np.testing.assert_array_equal(warp(image, Deformation(angle_degrees=90)), np.rot90(image))
    np.testing.assert_array_equal(warp(image, Deformation(angle_degrees=180)), np.rot90(image, 2))


def test_rotation_keeps_lengths_in_an_oblong_slice() -> None:
    grid = sampling_grid(Deformation(angle_degrees=30), 40, 80).numpy() * [40, 20]  # px from the center

    steps = np.linalg.norm(np.diff(grid, axis=0), axis=-1), np.linalg.norm(np.diff(grid, axis=1), axis=-1)
    assert all(np.allclose(step, 1, atol=1e-3) for step in steps)


def test_flip_swaps_left_and_right() -> None:
    image = np.random.default_rng(0).random((6, 9)).astype(np.float32)

    np.testing.assert_array_equal(warp(image, Deformation(flip=True)), image[:, ::-1])


def test_shift_moves_down_and_right_by_parts_of_the_matrix() -> None:
    image = np.zeros((20, 20))
    image[5, 6] = 1

    moved = warp(image, Deformation(shift_y=0.1, shift_x=0.2))

    assert np.argwhere(moved).tolist() == [[7, 10]]


def test_scale_magnifies_about_the_center() -> None:
    image = np.zeros((40, 40))
    image[15:25, 15:25] = 1

    assert warp(image, Deformation(scale=2)).sum() == 400
    assert warp(image, Deformation(scale=0.5)).sum() == 25


def test_grid_distortion_keeps_the_borders_and_the_order() -> None:
    grid = sampling_grid(Deformation(grid_y=(1.3, 0.7, 1.0), grid_x=(0.7, 1.3)), 90, 60).numpy()
    y, x = grid[:, 0, 1], grid[0, :, 0]

    assert (np.diff(y) > 0).all()
    assert (np.diff(x) > 0).all()
    assert abs(y[0]) < 1
    assert abs(y[-1]) < 1
    # The first third of the target shows the first 1.3 parts of 3.
    assert np.interp(30 / 90, (centers(90) + 1) / 2, (y + 1) / 2) == pytest.approx(1.3 / 3, abs=1 / 90 / 2)
    assert np.interp(0.5, (centers(60) + 1) / 2, (x + 1) / 2) == pytest.approx(0.35, abs=1 / 60 / 2)


def test_anchors_move_a_third_of_the_matrix_from_the_center() -> None:
    moves = (0.02, 0.01, -0.01, 0.0, 0.0, 0.03)
    elastic = Elastic(sd=0, sigma=0.01, anchors=moves)
    grid = sampling_grid(Deformation(elastic=elastic), 300, 300).numpy() / 2  # parts of the matrix, center 0

    def at(y: float, x: float) -> tuple[float, float]:
        row, column = int((y + 0.5) * 300), int((x + 0.5) * 300)
        pixel = (np.array([row, column]) + 0.5) / 300 - 0.5
        source = grid[row, column, ::-1] - pixel
        return float(source[0]), float(source[1])

    third = 1 / 3
    assert at(third, third) == pytest.approx(moves[0:2], abs=1e-3)
    assert at(-third, third) == pytest.approx(moves[2:4], abs=1e-3)
    assert at(-third, -third) == pytest.approx(moves[4:6], abs=1e-3)


def test_elastic_field_has_the_spread_and_correlation_of_smoothed_noise() -> None:
    """A Gaussian smoothing of white noise correlates by exp(-r^2 / (4 sigma^2)) over the distance r."""
    fields = torch.cat(
        [elastic_field(Elastic(sd=0.01, sigma=6 / 512, seed=seed), 512, 512) for seed in range(4)]
    ).numpy()

    spread = fields.std()
    assert spread == pytest.approx(0.01, rel=0.05)
    for distance in (3, 6, 12, 24):
        correlation = (fields[:, :, distance:] * fields[:, :, :-distance]).mean() / spread**2
        assert correlation == pytest.approx(math.exp(-((distance / 6) ** 2) / 4), abs=0.05)


def test_elastic_field_resembles_the_textbook_recipe() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    noise = np.random.default_rng(0).uniform(-1, 1, (2, 512, 512))
    textbook = ndimage.gaussian_filter(noise, (0, 6, 6)) * 120 / 512
    sd = 120 / math.sqrt(3) / (2 * math.sqrt(math.pi) * 6) / 512  # as draw_parameters computes it
    ours = elastic_field(Elastic(sd=sd, sigma=6 / 512), 512, 512).numpy()

    assert ours.std() == pytest.approx(textbook.std(), rel=0.1)
    assert np.gradient(ours, axis=2).std() == pytest.approx(np.gradient(textbook, axis=2).std(), rel=0.1)


def test_elastic_field_scales_with_the_matrix() -> None:
    large, small = elastic_field(STRONG, 512, 512), elastic_field(STRONG, 256, 256)

    difference = functional.avg_pool2d(large, 2) - small

    assert difference.square().mean().sqrt() < 0.05 * STRONG.sd


def test_elastic_field_follows_its_seed() -> None:
    assert torch.equal(elastic_field(STRONG, 40, 50), elastic_field(STRONG, 40, 50))
    assert not torch.equal(elastic_field(STRONG, 40, 50), elastic_field(Elastic(0.02, 0.02, seed=4), 40, 50))


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (33, 17)])
def test_any_matrix_has_a_field(shape: tuple[int, int]) -> None:
    assert elastic_field(STRONG, *shape).shape == (2, *shape)
