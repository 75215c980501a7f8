"""What changed between two labels, against counting by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.errors import BadInputError
from lib.store.comparison import change_of, compare, count_voxels

LABELS = {"liver": 1, "tumor": 2}


def random_label(seed, shape=(5, 6, 7)):
    return np.random.default_rng(seed).integers(0, 3, shape).astype(np.uint8)


def test_voxels_are_counted_by_class():
    array = np.zeros((4, 4, 4), np.uint8)
    assert count_voxels(array, LABELS) == {"liver": 0, "tumor": 0}
    array[1:3, 1, 1], array[3, 3, 3] = 1, 2
    assert count_voxels(array, LABELS) == {"liver": 2, "tumor": 1}


def test_a_correction_is_told_by_class():
    first, second = np.zeros((2, 4, 1), np.uint8), np.zeros((2, 4, 1), np.uint8)
    first[0, :4, 0] = 1  # four voxels of liver
    second[0, :3, 0], second[0, 3, 0], second[1, 0, 0] = 1, 2, 2  # one of them is tumor, and another is new
    result = compare(first, second, LABELS, voxel_ml=0.5)
    assert result["liver"] == {"dice": pytest.approx(6 / 7), "changed_ml": 0.5, "ml_first": 2.0, "ml_second": 1.5}
    assert result["tumor"] == {"dice": 0.0, "changed_ml": 1.0, "ml_first": 0.0, "ml_second": 1.0}
    assert change_of(result) == 1.0


def test_classes_that_neither_has_do_not_count_as_change():
    label = np.zeros((3, 3, 3), np.uint8)
    assert change_of(compare(label, label, LABELS, 1.0)) == 0.0
    label[1, 1, 1] = 1
    result = compare(label, label, LABELS, 1.0)
    assert (result["liver"]["dice"], result["tumor"]["dice"], change_of(result)) == (1.0, 1.0, 0.0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 1000))
def test_it_agrees_with_masks_compared_one_by_one(one, two):
    first, second = random_label(one), random_label(two)
    result = compare(first, second, LABELS, voxel_ml=0.25)
    for name, index in LABELS.items():
        a, b = first == index, second == index
        assert result[name]["dice"] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
        assert result[name]["changed_ml"] == pytest.approx((a ^ b).sum() * 0.25)
    assert change_of(result) == pytest.approx(change_of(compare(second, first, LABELS, voxel_ml=0.25)))


def test_labels_of_two_shapes_are_refused():
    with pytest.raises(BadInputError, match=r"labels of \(2, 2, 2\) and \(3, 2, 2\) voxels can't be compared"):
        compare(np.zeros((2, 2, 2), np.uint8), np.zeros((3, 2, 2), np.uint8), LABELS, 1.0)


def test_only_what_was_looked_at_in_both_is_compared():
    first, second = random_label(1), random_label(2)
    first[..., :3], second[..., 5:] = 255, 255
    assert compare(first, second, LABELS, 0.25) == compare(first[..., 3:5], second[..., 3:5], LABELS, 0.25)
    assert count_voxels(first, LABELS) == count_voxels(first[..., 3:], LABELS)


def test_labels_of_which_no_part_was_looked_at_in_both_are_not_called_alike():
    first, second = random_label(1), random_label(1)
    first[..., :4], second[..., 4:] = 255, 255
    with pytest.raises(BadInputError, match="no slice was looked at in both labels, so they can't be compared"):
        compare(first, second, LABELS, 1.0)
