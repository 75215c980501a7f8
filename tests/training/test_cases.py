import numpy as np
import pytest

from lib.errors import BadInputError
from lib.labels import NOT_LOOKED_AT
from lib.training.cases import CaseFiles, checked_label, find_cases, kept_slices, split_cases
from lib.volume import Volume
from lib.volume_io import read_image, write_image, write_label


def named(*names):
    return find_cases([{"image": f"{name}.nii.gz", "label": f"labels/final/{name}.nii.gz"} for name in names])


def names(cases):
    return {case.name for case in cases}


def test_cases_come_by_name():
    assert [case.name for case in named("b", "a", "c.x")] == ["a", "b", "c.x"]


def test_a_split_is_whole_and_does_not_depend_on_order():
    cases = named(*(f"case_{number}" for number in range(100)))
    training, validation = split_cases(cases, 0.2)
    assert names(training) | names(validation) == names(cases)
    assert not names(training) & names(validation)
    assert 10 <= len(validation) <= 30
    again = split_cases(cases[::-1], 0.2)
    assert (names(again[0]), names(again[1])) == (names(training), names(validation))


def test_no_case_changes_sides_when_others_join():
    few, many = (named(*(f"case_{number}" for number in range(count))) for count in (60, 100))
    before, after = split_cases(few, 0.25), split_cases(many, 0.25)
    assert names(before[0]) <= names(after[0])
    assert names(before[1]) <= names(after[1])


@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.9])
@pytest.mark.parametrize("count", [2, 3, 7])
def test_neither_side_is_empty(count, fraction):
    sides = split_cases(named(*map(str, range(count))), fraction)
    assert all(sides)


def test_without_validation():
    assert split_cases(named("a", "b"), 0) == (named("a", "b"), [])
    assert split_cases(named("a"), 0.5) == (named("a"), [])


def test_slices_with_labels_their_margin_and_every_fourth_are_kept():
    label = np.zeros((40, 2, 2), np.uint8)
    label[20:22, 1, 1] = 2
    assert kept_slices(label).tolist() == [0, 4, 8, 12, *range(15, 27), 28, 32, 36]
    assert kept_slices(label[:3]).tolist() == [0]


def test_slices_that_nobody_looked_at_are_left_out_and_give_no_margin():
    label = np.full((40, 2, 2), NOT_LOOKED_AT, np.uint8)
    label[20:24] = 0
    label[22, 1, 1] = 2
    label[2] = 0
    assert kept_slices(label).tolist() == [20, 21, 22, 23]
    label[4] = 0
    assert kept_slices(label).tolist() == [4, 20, 21, 22, 23]


def test_image_and_label_in_other_voxel_orders_do_not_fit(tmp_path, studies):
    image = read_image(studies / "case_0.nii.gz")
    write_image(tmp_path / "a.nii.gz", image)
    write_label(tmp_path / "l.nii.gz", Volume(np.zeros((40, 48, 9), np.uint8), image.affine))
    with pytest.raises(BadInputError, match=r"a: label \(40, 48, 9\) and image \(40, 48, 10\) do not lie on one grid"):
        checked_label(CaseFiles(tmp_path / "a.nii.gz", tmp_path / "l.nii.gz"), image.grid, 3)


def test_an_unknown_index_is_named(tmp_path, studies):
    image = read_image(studies / "case_0.nii.gz")
    write_image(tmp_path / "a.nii.gz", image)
    write_label(tmp_path / "l.nii.gz", Volume(np.full(image.shape, 5, np.uint8), image.affine))
    with pytest.raises(BadInputError, match="a: the label holds 5, but only 0 to 2 are classes"):
        checked_label(CaseFiles(tmp_path / "a.nii.gz", tmp_path / "l.nii.gz"), image.grid, 3)
