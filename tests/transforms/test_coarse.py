import numpy as np
import pytest

from lib.transforms.coarse import coarse_factors, shrunk, thinned


@pytest.mark.parametrize(
    ("spacing", "factors"),
    [((5, 0.75, 0.75), (4, 4)), ((1, 1.0, 1.5), (3, 2)), ((1, 3.3, 3.3), (1, 1)), ((1, 9, 0.1), (1, 30))],
)
def test_pixels_become_about_three_millimeters(spacing, factors):
    assert coarse_factors(spacing) == factors


def test_means_of_blocks():
    hu = np.arange(24, dtype=np.int16).reshape(1, 4, 6)
    assert shrunk(hu, (2, 3)).tolist() == [[[4, 7], [16, 19]]]
    np.testing.assert_array_equal(shrunk(hu, (1, 1)), hu)


def test_what_is_left_over_is_filled_with_air():
    assert shrunk(np.zeros((1, 3, 2), np.int16), (2, 2)).tolist() == [[[0], [-512]]]


def test_the_label_has_the_form_of_its_slice():
    for shape in ((4, 6), (5, 7), (1, 1)):
        label = np.ones(shape, np.uint8)
        assert thinned(label, (2, 3)).shape == shrunk(label[None].astype(np.int16), (2, 3)).shape[1:]
    label = np.zeros((4, 4), np.uint8)
    label[3, 3] = 2
    assert thinned(label, (2, 2)).tolist() == [[0, 0], [0, 2]]
