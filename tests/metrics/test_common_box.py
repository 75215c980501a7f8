import numpy as np

from lib.metrics.box import EMPTY, common_box


def test_smallest_box_around_both():
    one, other = np.zeros((2, 7, 8, 9), np.uint8)
    one[2, 3, 4] = 1
    other[5, 3, 1] = 2
    assert common_box(one, other) == np.s_[2:6, 3:4, 1:5]


def test_an_empty_volume_adds_nothing():
    one, other = np.zeros((2, 7, 8, 9), np.uint8)
    assert common_box(one, other) == EMPTY
    other[5, 3, 1] = 2
    assert common_box(one, other) == np.s_[5:6, 3:4, 1:2]
