"""Which axial slices somebody looked at, whatever the order of a file's axes."""

import numpy as np
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform
from scipy.spatial.transform import Rotation

from lib.errors import BadInputError
from lib.labels import NOT_LOOKED_AT
from lib.looked_at import (
    both_judged,
    check_looked_at,
    check_outside,
    is_partial,
    limited_to,
    slices_in,
    slices_looked_at,
)
from lib.volume import Volume

AFFINE = np.diag([-1.0, -1.0, 3.0, 1.0])  # LPS: the third axis runs from feet to head


def label(codes="LPS", tilt=0.0):
    """6 axial slices of random classes, stored along these axes."""
    array = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(np.uint8)
    affine = AFFINE.copy()
    affine[:3, :3] = Rotation.from_euler("x", tilt, degrees=True).as_matrix() @ affine[:3, :3]
    turn = ornt_transform(axcodes2ornt("LPS"), axcodes2ornt(codes))
    return Volume(apply_orientation(array, turn), affine @ inv_ornt_aff(turn, array.shape))


def some(*indices):
    slices = np.zeros(6, np.bool_)
    slices[list(indices)] = True
    return slices


@pytest.mark.parametrize(
    ("ranges", "expected"), [([[1, 2]], [1, 2]), ([[4, 5], [0, 0]], [0, 4, 5]), ([[0, 3], [2, 4]], range(5)), ([], [])]
)
def test_ranges_hold_both_ends(ranges, expected):
    assert np.flatnonzero(slices_in(ranges, 6)).tolist() == list(expected)


@pytest.mark.parametrize(
    "ranges", ["all", 5, {"1": 2}, [1, 2], [[1]], [[1, 2, 3]], [[1.0, 2]], [[True, 2]], [["1", "2"]], [[3, 2]], [None]]
)
def test_what_is_no_list_of_ranges_is_shown(ranges):
    with pytest.raises(BadInputError) as caught:
        slices_in(ranges, 6)
    assert str(caught.value) == (
        f"looked_at must be ranges of axial slices such as [[41, 48], [90, 95]], the lower end first, not {ranges!r}"
    )


@pytest.mark.parametrize(("first", "last"), [(-1, 2), (0, 6), (6, 6)])
def test_slices_that_the_image_does_not_have_are_refused(first, last):
    with pytest.raises(BadInputError) as caught:
        slices_in([[0, 1], [first, last]], 6)
    assert str(caught.value) == (
        f"looked_at names the axial slices {first} to {last}, but the image has those from 0, nearest the feet, to 5"
    )


@pytest.mark.parametrize("codes", ["LPS", "RAS", "LPI", "SAL", "AIR"])
@pytest.mark.parametrize("tilt", [0.0, 25.0])
def test_slices_are_counted_from_the_feet_whatever_the_axes(codes, tilt):
    whole = label(codes, tilt)
    before = whole.array.copy()
    partial = limited_to(whole, some(1, 2))
    axial = partial.axial()
    np.testing.assert_array_equal(axial[1:3], whole.axial()[1:3])
    assert (axial[[0, 3, 4, 5]] == NOT_LOOKED_AT).all()
    assert slices_looked_at(partial) == (2, 6)
    assert np.array_equal(partial.affine, whole.affine)
    np.testing.assert_array_equal(whole.array, before)


@pytest.mark.parametrize("codes", ["LPS", "SAL"])
def test_what_was_painted_outside_is_told_apart_from_what_was_there_before(codes):
    before = label(codes)
    axial = before.axial().copy()
    axial[[0, 2, 4], 1, 1] = 3 - axial[[0, 2, 4], 1, 1]  # never 0 and never the same
    axial[5] = 0  # erased is not painted
    changed = before.with_axial(axial)
    check_outside(before, some(2), [before.array])
    check_outside(changed, some(0, 1, 2, 4), [before.array])
    check_outside(changed, some(2), [before.array, changed.array])
    with pytest.raises(BadInputError) as caught:
        check_outside(changed, some(2), [np.zeros_like(before.array), before.array])
    assert "painted in the axial slices 0, 4 (0 is" in str(caught.value)
    with pytest.raises(
        BadInputError, match=r"^something was painted in the axial slices 0 to 1, 3 to 4 \(0 is nearest"
    ):
        check_outside(changed, some(2), [])


def test_what_was_judged_before_stays_judged():
    partial = limited_to(label(), some(0, 1))
    more = limited_to(partial, some(1, 4))
    np.testing.assert_array_equal(more.axial()[:2], label().axial()[:2])
    assert not more.axial()[4].any()
    assert slices_looked_at(more) == (3, 6)


def test_a_label_that_is_whole_has_no_count():
    assert slices_looked_at(label()) is None
    assert not is_partial(label().array)
    assert slices_looked_at(limited_to(label(), some(*range(6)))) is None


def test_a_slice_counts_when_a_part_of_it_was_looked_at():
    partial = limited_to(label(), some(2))
    partial.axial()[5, 0, 0] = 1
    assert slices_looked_at(partial) == (2, 6)


def test_nothing_looked_at_is_refused():
    with pytest.raises(
        BadInputError, match=r"^no slice of the label was looked at, so it says nothing; mark the slices"
    ):
        check_looked_at(limited_to(label(), some()), named=True)
    check_looked_at(label(), named=False)


def test_a_mask_without_a_name_is_not_taken_for_what_nobody_looked_at():
    array = np.zeros((4, 5, 6), np.uint8)
    array[1:3, 1:3, 2:4] = 255
    with pytest.raises(BadInputError, match=r"^the label holds 0 and 255 within one slice and no class; "):
        check_looked_at(Volume(array, AFFINE), named=False)
    check_looked_at(Volume(array, AFFINE), named=True)
    array[0, 0, 0] = 1
    check_looked_at(Volume(array, AFFINE), named=False)
    check_looked_at(limited_to(Volume(np.zeros((4, 5, 6), np.uint8), AFFINE), some(3)), named=False)


def test_two_labels_are_judged_where_both_were_looked_at():
    first, second = np.array([0, 1, 2, 255, 1], np.uint8), np.array([1, 1, 255, 2, 0], np.uint8)
    ours, theirs = both_judged(first, second)
    assert (ours.tolist(), theirs.tolist()) == ([0, 1, 0, 0, 1], [1, 1, 0, 0, 0])
    assert both_judged(first[:2], second[:2])[0].base is first
    with pytest.raises(BadInputError, match=r"^label volumes of \(5,\) and \(2,\) voxels can't be compared$"):
        both_judged(first, second[:2])
