import json
import os

import numpy as np
import pytest

from lib.errors import BadInputError
from lib.labels import NOT_LOOKED_AT
from lib.training.cases import CaseFiles, kept_slices
from lib.training.decoded import Slices, decode_case, open_case, used_at
from lib.transforms.windowing import gray_levels
from lib.volume import Volume
from lib.volume_io import read_image, read_label, write_image, write_label

AFFINE = np.diag([-1.0, -1.0, 3.0, 1.0])


@pytest.fixture
def large(tmp_path):
    """A patient of 50 x 40 pixels in the middle of air, looked at in some slices only."""
    hu = np.full((100, 90, 30), -1000, np.int16)
    hu[20:70, 30:70] = 40
    label = np.full(hu.shape, NOT_LOOKED_AT, np.uint8)
    label[:, :, 5:16] = 0
    label[30:50, 40:60, 8:14] = 1
    files = CaseFiles(tmp_path / "p.nii.gz", tmp_path / "labels" / "p.nii.gz")
    write_image(files.image, Volume(hu, AFFINE))
    write_label(files.label, Volume(label, AFFINE))
    return files


def test_decoded_slices_are_those_of_the_volumes(cases, studies):
    case = cases[0]
    hu, label = (
        read(folder / "case_0.nii.gz").axial()
        for read, folder in ((read_image, studies), (read_label, studies / "labels" / "final"))
    )
    kept = kept_slices(label)
    assert len(case) == len(kept)
    np.testing.assert_array_equal(case.image[:], hu[kept])
    np.testing.assert_array_equal(case.label[:], label[kept])
    np.testing.assert_array_equal(case.gray_levels, [gray_levels(one) for one in hu[kept]])
    assert (case.image.dtype, case.label.dtype) == (np.int16, np.uint8)
    assert case.spacing == (4.0, 2.0, 2.0)
    for row, each in zip(case.presence, label[kept], strict=True):
        assert set(np.flatnonzero(row)) == set(np.unique(each))


def test_air_around_the_patient_and_slices_not_looked_at_take_no_room(large, tmp_path):
    case = decode_case(large, 3, tmp_path / "case")
    hu, label = read_image(large.image).axial()[5:16], read_label(large.label).axial()[5:16]
    margin = 8
    columns, rows = (slice(start - margin, end + margin) for start, end in ((20, 70), (30, 70)))
    np.testing.assert_array_equal(case.image[:], hu[:, rows, columns])
    np.testing.assert_array_equal(case.label[:], label[:, rows, columns])
    assert case.presence.tolist() == [[True, 3 <= z < 9, False] for z in range(11)]
    assert case.places.tolist() == list(range(5, 16))
    # The histogram window depends on the whole slice, air included.
    np.testing.assert_array_equal(case.gray_levels, [gray_levels(one) for one in hu])
    assert 3 * case.image[:].size < 0.45 * (hu.nbytes + label.nbytes)


def test_a_liver_in_what_looks_like_air_is_kept(tmp_path, large):
    label = np.zeros((100, 90, 30), np.uint8)
    label[2:5, 80:88, 10] = 1
    write_label(large.label, Volume(label, AFFINE))
    case = decode_case(large, 3, tmp_path / "case")
    assert (case.label[:] == 1).sum() == 3 * 8


def test_nothing_looked_at_is_refused_and_leaves_nothing(tmp_path, large):
    write_label(large.label, Volume(np.full((100, 90, 30), NOT_LOOKED_AT, np.uint8), AFFINE))
    message = r"^p: no slice of its label was looked at; remove the label or complete it$"
    with pytest.raises(BadInputError, match=message):
        decode_case(large, 3, tmp_path / "case")
    assert not (tmp_path / "case").exists()


def test_an_opened_case_is_the_decoded_one(large, tmp_path):
    case = decode_case(large, 3, tmp_path / "case")
    os.utime(tmp_path / "case" / "case.json", (1, 1))
    again = open_case("q", tmp_path / "case")
    assert (again.name, again.spacing, len(again)) == ("q", case.spacing, len(case))
    for array in ("presence", "gray_levels", "places"):
        np.testing.assert_array_equal(getattr(again, array), getattr(case, array))
    np.testing.assert_array_equal(again.image[:], case.image[:])
    assert used_at(tmp_path / "case") > 1


@pytest.mark.parametrize("what", ["image.npy", "label.npy", "presence.npy", "gray_levels.npy"])
def test_a_changed_array_is_noticed(large, tmp_path, what):
    folder = tmp_path / "case"
    decode_case(large, 3, folder)
    content = bytearray((folder / what).read_bytes())
    content[-1] ^= 1
    (folder / what).write_bytes(content)
    with pytest.raises(BadInputError, match=rf"{what} has changed$"):
        open_case("p", folder)
    (folder / what).unlink()
    with pytest.raises(BadInputError, match="is no decoded case"):
        open_case("p", folder)


@pytest.mark.parametrize("content", ["", "{}", '{"spacing": [1], "sha256": {}}', "[]", "null"])
def test_a_damaged_note_is_noticed(large, tmp_path, content):
    decode_case(large, 3, tmp_path / "case")
    (tmp_path / "case" / "case.json").write_text(content)
    with pytest.raises(BadInputError, match="is no decoded case"):
        open_case("p", tmp_path / "case")


def test_the_note_says_what_the_arrays_must_be(large, tmp_path):
    decode_case(large, 3, tmp_path / "case")
    facts = json.loads((tmp_path / "case" / "case.json").read_text())
    assert facts["spacing"] == [3.0, 1.0, 1.0]
    assert set(facts["sha256"]) == {"image", "label", "presence", "gray_levels"}


def test_slices_are_read_one_by_one_or_as_a_stack(tmp_path):
    array = np.arange(5 * 3 * 2, dtype=np.int16).reshape(5, 3, 2)
    np.save(tmp_path / "a.npy", array)
    slices = Slices(tmp_path / "a.npy")
    assert (len(slices), slices.shape, slices.dtype) == (5, (5, 3, 2), np.int16)
    for z in range(5):
        np.testing.assert_array_equal(slices[z], array[z])
    np.testing.assert_array_equal(slices[1:4], array[1:4])
    np.testing.assert_array_equal(slices[:], array)
    np.testing.assert_array_equal(np.stack(list(slices)), array)
    for beyond in (5, -1):
        with pytest.raises(IndexError):
            slices[beyond]
