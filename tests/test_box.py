import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.box import EMPTY, bounding_box, common_box


def test_box_holds_exactly_the_voxels_that_are_set() -> None:
    mask = np.zeros((6, 7, 8), bool)
    mask[2, 3, 4] = mask[4, 3, 6] = True

    assert bounding_box(mask) == (slice(2, 5), slice(3, 4), slice(4, 7))


def test_margin_ends_at_the_volume() -> None:
    mask = np.zeros((3, 9, 4), bool)
    mask[0, 5, 3] = True

    assert bounding_box(mask, margin=2) == (slice(0, 3), slice(3, 8), slice(1, 4))


def test_no_box_around_nothing() -> None:
    assert bounding_box(np.zeros((2, 2, 2), bool)) is None


@given(st.integers(0, 2**32 - 1), st.sampled_from([(0, 1, 2), (2, 1, 0), (1, 2, 0), (0, 2, 1)]), st.booleans())
def test_any_order_and_direction_of_axes(seed, order, turned) -> None:
    rng = np.random.default_rng(seed)
    array = np.zeros(rng.integers(1, 9, 3), np.uint8)
    for _ in range(rng.integers(0, 3)):
        array[tuple(rng.integers(0, array.shape))] = rng.integers(1, 256)
    view = array.transpose(order)[::-1] if turned else array.transpose(order)
    found = np.argwhere(view)
    expected = None
    if len(found):
        expected = tuple(
            slice(int(first), int(last) + 1) for first, last in zip(found.min(0), found.max(0), strict=True)
        )
    assert bounding_box(view) == expected


@pytest.mark.parametrize("dtype", [np.int16, np.uint32, np.int64, np.float32])
def test_other_numbers(dtype) -> None:
    array = np.zeros((2, 3, 4), dtype)
    array[1, 2, 3] = -1 if dtype is np.int16 else 1
    assert bounding_box(array) == (slice(1, 2), slice(2, 3), slice(3, 4))


def test_smallest_box_around_both() -> None:
    one, other = np.zeros((2, 7, 8, 9), np.uint8)
    one[2, 3, 4] = 1
    other[5, 3, 1] = 2
    assert common_box(one, other) == np.s_[2:6, 3:4, 1:5]


def test_an_empty_volume_adds_nothing() -> None:
    one, other = np.zeros((2, 7, 8, 9), np.uint8)
    assert common_box(one, other) == EMPTY
    other[5, 3, 1] = 2
    assert common_box(one, other) == np.s_[5:6, 3:4, 1:2]
