import json
import os

import pytest

from lib.errors import StorageError
from lib.inference.records import Recipe, find, keep
from lib.settings import Settings

RECORD = {"image": "ct.nii", "lesion_count": 2, "volumes_ml": {"liver": 1500.25}}


@pytest.fixture
def recipe(model, weights, settings):
    return Recipe.of(model, weights, settings)


@pytest.fixture
def case(tmp_path):
    """An image and its label."""
    image, label = tmp_path / "ct.nii", tmp_path / "out" / "ct.nii.gz"
    image.write_bytes(b"an image")
    label.parent.mkdir()
    label.write_bytes(b"a label")
    return image, label


def test_a_label_that_is_there_is_known_by_its_record(case, recipe):
    image, label = case
    assert find(label, recipe.of_image(image)) is None
    keep(label, recipe.of_image(image), RECORD)
    assert find(label, recipe.of_image(image)) == RECORD
    content = json.loads((label.parent / "records" / "ct.nii.gz.json").read_text())
    assert content["made_from"]["model_version"] == "v-test"
    assert content["made_from"]["settings"]["postprocessing"]["fill_holes"] is True


@pytest.mark.parametrize(
    "change",
    [
        lambda image, label: image.write_bytes(b"another image"),
        lambda image, label: os.utime(image, (1, 1)),
        lambda image, label: label.write_bytes(b"corrected by hand"),
        lambda image, label: label.unlink(),
        lambda image, label: (label.parent / "records" / "ct.nii.gz.json").write_text('{"made_from": {}'),
        lambda image, label: (label.parent / "records" / "ct.nii.gz.json").write_text("[]"),
    ],
    ids=["image", "time of the image", "label", "no label", "half a record", "no record of ours"],
)
def test_whatever_changed_since_is_work_to_do(case, recipe, change):
    image, label = case
    keep(label, recipe.of_image(image), RECORD)
    change(image, label)
    assert find(label, recipe.of_image(image)) is None


def test_another_model_or_other_settings_make_another_label(case, recipe, model, weights, settings, tmp_path):
    image, label = case
    keep(label, recipe.of_image(image), RECORD)
    cleaned = settings.model_copy(update={"postprocessing": settings.postprocessing.changed({"fill_holes": False})})
    assert find(label, Recipe.of(model, weights, cleaned).of_image(image)) is None
    other = tmp_path / "other.pt"
    other.write_bytes(weights.read_bytes() + b"more")
    assert find(label, Recipe.of(model, other, settings).of_image(image)) is None
    training = Settings.model_validate(settings.model_dump() | {"training": {"max_epochs": 3}})
    assert find(label, Recipe.of(model, weights, training).of_image(image)) == RECORD


def test_a_dicom_folder_is_another_image_once_a_slice_is_added(case, recipe, tmp_path):
    _, label = case
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "1.dcm").write_bytes(b"one")
    keep(label, recipe.of_image(tmp_path / "series"), RECORD)
    assert find(label, recipe.of_image(tmp_path / "series")) == RECORD
    (tmp_path / "series" / "2.dcm").write_bytes(b"two")
    assert find(label, recipe.of_image(tmp_path / "series")) is None


def test_a_record_that_can_not_be_written(case, recipe):
    image, label = case
    (label.parent / "records").write_text("a file")
    with pytest.raises(StorageError, match=r"can't write .*records.*: a part of the path is a file"):
        keep(label, recipe.of_image(image), RECORD)
