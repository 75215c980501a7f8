"""Implicit shapes: sign, size, smooth unions, random fields."""

import numpy as np
import pytest

from lib.anatomy.shapes import Grain, Waves, capsule, ellipse, ellipsoid, rotation, smooth_max, smooth_min


def points(*rows: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, y, z = np.array(rows, np.float32).T
    return x, y, z


def test_sphere_distance_is_exact() -> None:
    x, y, z = points((0, 0, 15), (6, 8, 0), (3, 0, 4))
    np.testing.assert_allclose(ellipsoid(x, y, z, (0, 0, 0), (10, 10, 10)), [5, 0, -5], atol=1e-4)


def test_ellipsoid_is_zero_on_its_poles_and_negative_at_its_center() -> None:
    x, y, z = points((11, 0, 0), (1, 22, 0), (1, 0, 33), (1, 0, 0))
    distance = ellipsoid(x, y, z, (1, 0, 0), (10, 22, 33))
    np.testing.assert_allclose(distance[:3], 0, atol=1e-3)
    assert distance[3] == pytest.approx(-10, abs=0.01)


def test_turned_ellipsoid_swaps_axes() -> None:
    turn = np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    x, y, z = points((0, 20, 0), (5, 0, 0))
    np.testing.assert_allclose(ellipsoid(x, y, z, (0, 0, 0), (20, 5, 5), turn), 0, atol=1e-3)


def test_inputs_are_left_alone() -> None:
    x, y, z = points((1, 2, 3))
    ellipsoid(x, y, z, (0, 0, 0), (4, 4, 4))
    capsule(x, y, z, (0, 0, 0), (1, 0, 0), (1, 1))
    assert (x[0], y[0], z[0]) == (1, 2, 3)


def test_capsule_tapers() -> None:
    x, y, z = points((0, 4, 0), (10, 2, 0), (13, 0, 0))
    np.testing.assert_allclose(capsule(x, y, z, (0, 0, 0), (10, 0, 0), (4, 2)), [0, 0, 1], atol=1e-5)


def test_ellipse_may_bend() -> None:
    x, y, z = points((0, 10, 0), (3, 10, 3))
    np.testing.assert_allclose(ellipse(x, y, (z, 0.0), (5, 10)), 0, atol=1e-4)


def test_smooth_joints_are_the_sharp_ones_away_from_the_seam() -> None:
    a, b = np.float32([0, 10, 1]), np.float32([10, 0, 1])
    np.testing.assert_allclose(smooth_max(a, b, 4), [10, 10, 2])
    np.testing.assert_allclose(smooth_min(a, b, 4), [0, 0, 0])


def test_waves_on_a_grid_are_the_waves_at_its_points() -> None:
    waves = Waves.draw(np.random.default_rng(1), 6, (20, 90), 3.0)
    matrix = np.array([[2.0, 0.1, 0], [0, 1.5, 0.3], [0.2, 0, 4]])
    origin = np.array([-30.0, 10, 50])
    axes = (np.arange(9.0), np.arange(7.0), np.array([0.0, 0.5, 3]))
    k, j, i = np.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
    position = np.einsum("ab,b...->a...", matrix, np.stack([i, j, k])) + origin[:, None, None, None]
    expected = waves.at(*position.astype(np.float32))
    np.testing.assert_allclose(waves.on_grid(axes, matrix, origin), expected, atol=2e-4)


def test_waves_have_the_asked_for_deviation() -> None:
    waves = Waves.draw(np.random.default_rng(2), 8, (10, 20), 2.5)
    x, y, z = np.random.default_rng(3).uniform(-500, 500, (3, 20000)).astype(np.float32)
    assert waves.at(x, y, z).std() == pytest.approx(2.5, rel=0.05)


def test_grain_has_unit_deviation_and_repeats() -> None:
    grain = Grain(np.random.default_rng(4))
    x, y, z = np.random.default_rng(5).uniform(-100, 100, (3, 20000)).astype(np.float32)
    value = grain.at(x, y, z, 2.0)
    assert value.mean() == pytest.approx(0, abs=0.1)
    assert value.std() == pytest.approx(1, rel=0.1)
    np.testing.assert_array_equal(grain.at(*points((1, 1, 1)), 2.0), grain.at(*points((129, 1, 1)), 2.0))


def test_rotation_is_one() -> None:
    turn = rotation(np.random.default_rng(6))
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(turn) == pytest.approx(1)
