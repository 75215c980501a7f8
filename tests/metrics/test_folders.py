from pathlib import Path

import pytest

from lib.errors import BadInputError, NotFoundError
from lib.metrics.folders import Pair, find_image, pair_files


def folder(path, *names):
    path.mkdir(parents=True, exist_ok=True)
    for name in names:
        (path / name).write_bytes(b"")
    return path


def paired(tmp_path, references, predictions):
    pairing = pair_files(folder(tmp_path / "r", *references), folder(tmp_path / "p", *predictions))
    return (
        [(pair.name, pair.reference.name, pair.prediction.name) for pair in pairing.pairs],
        [path.name for path in pairing.reference_only],
        [path.name for path in pairing.prediction_only],
    )


def test_suffixes_are_interchangeable(tmp_path):
    pairs, *rest = paired(tmp_path, ["a.nii", "b.nii.gz", "c.nrrd"], ["a.nii.gz", "b.nii", "c.nii"])
    assert [pair[0] for pair in pairs] == ["a", "b", "c"]
    assert rest == [[], []]


@pytest.mark.parametrize("prediction", ["volume-7.nii.gz", "test-segmentation-7.nii", "segmentation-7.nii.gz"])
def test_names_of_lits(tmp_path, prediction):
    pairs, *_ = paired(tmp_path, ["segmentation-7.nii"], [prediction])
    assert pairs == [("segmentation-7", "segmentation-7.nii", prediction)]


def test_numbers_must_be_equal(tmp_path):
    with_others = paired(tmp_path, ["segmentation-7.nii", "segmentation-1.nii"], ["volume-17.nii", "volume-1.nii"])
    assert with_others == (
        [("segmentation-1", "segmentation-1.nii", "volume-1.nii")],
        ["segmentation-7.nii"],
        ["volume-17.nii"],
    )


def test_equal_names_win_over_equal_numbers(tmp_path):
    names = ["segmentation-0.nii", "test-segmentation-0.nii"]
    pairs, *_ = paired(tmp_path, names, names)
    assert all(reference == prediction for _, reference, prediction in pairs)


def test_images_beside_the_labels_are_left_alone(tmp_path):
    pairs, *rest = paired(tmp_path, ["segmentation-3.nii", "volume-3.nii"], ["volume-3.nii.gz"])
    assert pairs == [("segmentation-3", "segmentation-3.nii", "volume-3.nii.gz")]
    assert rest == [[], []]


def test_natural_order_and_other_files(tmp_path):
    (tmp_path / "r" / "sub.nii").mkdir(parents=True)
    names = ["c-10.nii", "c-2.nii", "notes.txt", ".writing-c-3.nii", "c-2.seg.nrrd"]
    pairs, *rest = paired(tmp_path, names, names)
    assert [pair[0] for pair in pairs] == ["c-2", "c-10"]
    assert rest == [[], []]


def test_ambiguous_number(tmp_path):
    with pytest.raises(BadInputError, match=r"LiTS case 0: can't tell which of \['segmentation-0'\] belongs to which"):
        paired(tmp_path, ["segmentation-0.nii"], ["test-segmentation-0.nii", "volume-0.nii"])


def test_one_case_twice(tmp_path):
    with pytest.raises(BadInputError, match=r"holds both a\.nii and a\.nii\.gz; keep one"):
        paired(tmp_path, ["a.nii", "a.nii.gz"], ["a.nii"])


def test_missing_or_empty_folder(tmp_path):
    with pytest.raises(NotFoundError, match="nowhere: there is no such folder"):
        pair_files(tmp_path / "nowhere", tmp_path)
    with pytest.raises(BadInputError, match=r"holds no label files; expected \.nii"):
        pair_files(tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("names", "reference", "expected"),
    [
        (["a.nii.gz"], "a.nii", "a.nii.gz"),
        (["segmentation-4.nii", "volume-4.nii"], "segmentation-4.nii", "volume-4.nii"),
        (["test-volume-4.nii", "volume-4.nii"], "test-segmentation-4.nii", "test-volume-4.nii"),
        (["b.nrrd"], "a.nii", None),
    ],
)
def test_image_of_a_pair(tmp_path, names, reference, expected):
    images = folder(tmp_path / "images", *names)
    found = find_image(images, Pair("x", tmp_path / reference, tmp_path / "p" / reference))
    assert (found.name if found else None) == expected


def test_dicom_folder_and_never_the_labels_themselves(tmp_path):
    pair = Pair("a", Path(tmp_path / "a.nii"), Path(tmp_path / "p" / "a.nii"))
    folder(tmp_path, "a.nii")
    assert find_image(tmp_path, pair) is None
    folder(tmp_path / "a")
    assert find_image(tmp_path, pair) == tmp_path / "a"
