import hashlib

import numpy as np
import pytest

from lib.benchmarks.soak_cases import Cases
from lib.files import file_sha256
from lib.volume import Volume
from lib.volume_io import read_image, read_label


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return Cases(tmp_path_factory.mktemp("studies"), 10, 64, 8)


def test_no_image_is_like_another(cases):
    images = [read_image(cases.path(name)) for name in cases.names]
    assert [image.shape for image in images] == [(64, 64, 8)] * 10
    assert len(set(cases.sha256.values())) == 10
    assert cases.sha256 == {name: file_sha256(cases.path(name)) for name in cases.names}
    assert set(np.unique(cases.truth("case_009").array)) == {0, 1, 2}


def test_no_submission_is_like_another_and_all_hold_the_label(cases, tmp_path):
    truth = cases.truth("case_001")
    contents = [cases.content("case_001", truth) for _ in range(5)]
    assert len({hashlib.sha256(content).hexdigest() for content in contents}) == 5
    path = tmp_path / "label.nii.gz"
    for content in contents:
        path.write_bytes(content)
        label = read_label(path)
        assert np.array_equal(label.array, truth.array)
        assert cases.fits("case_001", label)


def test_a_correction_puts_some_voxels_right(cases):
    truth = cases.truth("case_002")
    wrong = Volume(np.asfortranarray(np.where(truth.array == 2, 1, truth.array).astype(np.uint8)), truth.affine)
    corrected = cases.corrected("case_002", wrong, np.random.default_rng(1))
    before, after = ((label.array != truth.array).sum() for label in (wrong, corrected))
    assert 0 <= after < before
    assert before - after <= 40
    assert np.array_equal(cases.corrected("case_002", truth, np.random.default_rng(1)).array, truth.array)


def test_an_empty_answer_becomes_a_label(cases):
    truth = cases.truth("case_003")
    empty = Volume(np.zeros(truth.shape, np.uint8), truth.affine)
    assert cases.corrected("case_003", empty, np.random.default_rng(1)).array.any()


def test_what_does_not_fit(cases):
    truth = cases.truth("case_004")
    moved = truth.affine.copy()
    moved[0, 3] += 1
    assert not cases.fits("case_004", Volume(truth.array, moved))
    assert not cases.fits("case_004", Volume(truth.array[:-1], truth.affine))
    assert not cases.fits("case_004", Volume(truth.array + np.uint8(1), truth.affine))
