from pathlib import Path

import pytest

from lib.errors import BadInputError, NotFoundError
from lib.store.studies import expand_images, images_in, labelled_images


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.fixture
def studies(tmp_path):
    folder = tmp_path / "studies"
    touch(*(folder / name for name in ("b.nii.gz", "a.nrrd", "c.NII", "._b.nii.gz", "notes.txt", "sub/d.nii.gz")))
    return folder


def test_images_are_those_at_the_top(studies):
    assert [path.name for path in images_in(studies)] == ["a.nrrd", "b.nii.gz", "c.NII"]


def test_files_studies_folders_and_dicom_folders(studies, tmp_path):
    touch(tmp_path / "series" / "IM0001")
    given = [tmp_path / "series", studies, studies / "b.nii.gz", studies / "notes.txt"]
    names = [path.name for path in expand_images(given)]
    assert names == ["series", "a.nrrd", "b.nii.gz", "c.NII", "notes.txt"]  # b once; reading will refuse notes.txt


def test_paths_without_an_image(tmp_path):
    with pytest.raises(NotFoundError, match=r"there is no image or folder .*nowhere"):
        expand_images([tmp_path / "nowhere"])
    with pytest.raises(BadInputError, match="images of a PACS are segmented by a server, scripts/serve --studies"):
        expand_images([Path("https://pacs.example/dicom-web")])
    with pytest.raises(BadInputError, match=r"holds neither images .* nor DICOM slices"):
        expand_images([tmp_path])


def test_labels_belong_to_images_of_the_same_name(studies):
    labels = studies / "labels" / "final"
    touch(labels / "a.nii.gz", labels / "c.nrrd", labels / "other.nii.gz", studies / "labels" / "original" / "b.nii.gz")
    pairs = labelled_images(studies)
    assert [(Path(pair["image"]).name, Path(pair["label"]).name) for pair in pairs] == [
        ("a.nrrd", "a.nii.gz"),
        ("c.NII", "c.nrrd"),
    ]
    assert [Path(pair["image"]).name for pair in labelled_images(studies, "original")] == ["b.nii.gz"]


def test_nothing_to_train_on(studies, tmp_path):
    with pytest.raises(NotFoundError, match="there is no studies folder"):
        labelled_images(tmp_path / "nowhere")
    with pytest.raises(BadInputError, match="has 3 images and 0 labels in labels/final, but no pair of one name"):
        labelled_images(studies)


def test_two_files_of_one_name(studies):
    labels = studies / "labels" / "final"
    touch(labels / "a.nii.gz", labels / "a.nrrd")
    with pytest.raises(BadInputError, match=r"a\.nii\.gz, a\.nrrd share the name 'a'; keep one of them"):
        labelled_images(studies)
