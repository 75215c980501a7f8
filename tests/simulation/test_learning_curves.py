import numpy as np
import pytest

from lib.simulation.learning_curves import area, estimate, mean_curve, needed, paired


def test_area_is_the_mean_height():
    assert area([0, 5, 10], [0.2, 0.4, 0.8]) == pytest.approx((0.3 * 5 + 0.6 * 5) / 10)
    assert area([0, 5, 10], [0.2, 0.4, 0.8], until=7.5) == pytest.approx((0.3 * 5 + 0.5 * 2.5) / 7.5)
    assert area([3, 4], [1, 1]) == 1


@pytest.mark.parametrize(
    ("target", "expected"), [(0.1, 0.0), (0.2, 0.0), (0.3, 2.5), (0.6, 7.5), (0.8, 10.0), (0.81, None)]
)
def test_labels_needed_lie_on_the_line(target, expected):
    assert needed([0, 5, 10, 15], [0.2, 0.4, 0.8, 0.5], target) == (expected and pytest.approx(expected))


def test_intervals_are_those_of_students_t():
    found = estimate([1.0, 2.0, 3.0])
    assert found.mean == 2
    assert found.high - found.mean == pytest.approx(4.302653 / np.sqrt(3))  # t with two degrees of freedom
    assert found.mean - found.low == pytest.approx(found.high - found.mean)
    assert estimate([0.7]) == (0.7, None, None)


def test_pairs_are_those_of_the_same_seed():
    assert paired({1: 0.5, 2: 0.9}, {2: 0.6, 3: 0.1}).mean == pytest.approx(0.3)
    assert paired({1: 0.5}, {2: 0.6}) is None


def test_mean_curve_ends_with_the_shortest():
    assert mean_curve([[0.0, 1.0, 2.0], [1.0, 2.0]]).tolist() == [0.5, 1.5]
