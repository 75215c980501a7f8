import numpy as np

from lib.transforms.box import bounding_box


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
