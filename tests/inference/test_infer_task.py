import json
import shutil
import zipfile
from pathlib import Path

import nrrd
import numpy as np
import pytest
import torch

from lib.errors import BadInputError, NotFoundError, StorageError
from lib.inference.model import ModelSource, load_model
from lib.inference.segment import segment
from lib.inference.task import LiverTumorInferTask
from lib.transforms.postprocessing import PostprocessingSettings
from lib.volume import Volume
from lib.volume_io import read_label, write_image

NOTHING = dict.fromkeys(("largest_liver", "fill_holes", "tumor_in_hull", "drop_specks"), False)


@pytest.fixture
def task(settings, weights, tmp_path):
    shutil.copy(weights, tmp_path / "starter.pt")
    return LiverTumorInferTask(settings, ModelSource.of_app(settings, tmp_path))


@pytest.fixture
def image(ct, tmp_path):
    path = tmp_path / "ct.nii.gz"
    write_image(path, ct)
    return path


@pytest.fixture
def infer(task, image):
    """Runs the task as the server does and removes the file it gave."""
    written = []

    def run(**request):
        path, result = task({"device": "cpu", "image": str(image), **request})
        written.append(path)
        return path, result

    yield run
    for path in filter(None, written):
        Path(path).unlink()


@pytest.mark.parametrize("extension", [".nrrd", ".nii.gz", ".nii", ".seg.nrrd"])
def test_the_label_has_the_geometry_of_the_image(infer, ct, extension):
    path, result = infer(result_extension=extension)
    label = read_label(path)
    assert path.endswith(extension)
    assert label.shape == ct.shape
    np.testing.assert_allclose(label.affine, ct.affine, atol=1e-5)
    assert result["label_names"] == {"liver": 1, "tumor": 2}
    assert (result["model_version"], result["cached"]) == ("v-test", False)
    assert set(result["latencies"]) >= {"pre", "infer", "post", "write", "total"}
    assert result["volumes_ml"]["liver"] == pytest.approx((label.array == 1).sum() * ct.voxel_ml)
    assert isinstance(result["lesion_count"], int)


@pytest.mark.parametrize("codes", ["RAS", "PSL", "SPL", "AIL"])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_every_orientation_gives_the_label_of_the_core(infer, ct, turned, model, settings, tmp_path, codes, suffix):
    write_image(tmp_path / f"turned{suffix}", turned(ct, codes))
    path, _ = infer(image=str(tmp_path / f"turned{suffix}"), result_extension=suffix, **NOTHING)
    expected = segment(ct, model, settings, postprocessing=PostprocessingSettings(**NOTHING)).label
    np.testing.assert_array_equal(read_label(path).array, turned(expected, codes).array)


def test_a_single_slice_and_an_oblique_one(infer, ct, tmp_path):
    affine = ct.affine.copy()
    affine[:3, :3] += [[0, 0.1, 0.4], [-0.1, 0, 0.2], [0.05, 0, 0]]
    write_image(tmp_path / "one.nii", Volume(ct.array[..., :1], affine))
    label = read_label(infer(image=str(tmp_path / "one.nii"))[0])
    assert label.shape == (40, 36, 1)
    np.testing.assert_allclose(label.affine, affine, atol=1e-5)


def test_nrrd_is_compressed_uint8_unless_raw_is_asked_for(infer):
    for asked, encoding in (({}, "gzip"), ({"result_compress": True}, "gzip"), ({"result_compress": False}, "raw")):
        header = nrrd.read_header(infer(**asked)[0])
        assert (header["type"], header["encoding"]) == ("uint8", encoding)


def test_planes_as_layers_and_as_images(infer, ct, task):
    header = nrrd.read_header(infer(planes="seg.nrrd")[0])
    assert header["sizes"].tolist() == [2, *ct.shape]
    path, _ = infer(planes="images")
    with zipfile.ZipFile(path) as archive:
        assert len(archive.namelist()) == 2 * 5
        assert "liver/liver_0000.png" in archive.namelist()


@pytest.mark.parametrize(
    ("planes", "writer"), [("", "write_label"), ("seg.nrrd", "write_planes"), ("images", "planes_as_images")]
)
def test_nothing_stays_behind_where_the_disk_refuses(infer, monkeypatch, tmp_path, planes, writer):
    def refuse(*_, **__):
        raise StorageError("the disk is full")

    monkeypatch.setattr(f"lib.inference.task.{writer}", refuse)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    with pytest.raises(StorageError, match="the disk is full"):
        infer(planes=planes)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_steps_are_switched_by_the_request(infer, task):
    assert infer(fill_holes=False, min_tumor_mm3=7)[1]["postprocessing"] == {
        **task.settings.postprocessing.model_dump(), "fill_holes": False, "min_tumor_mm3": 7.0,
    }  # fmt: skip
    assert infer()[1]["postprocessing"] == task.settings.postprocessing.model_dump()


def test_the_next_request_uses_a_model_published_meanwhile(infer, task, settings, weights):
    assert infer()[1]["model_version"] == "v-test"
    network = load_model(settings, weights, torch.device("cpu")).network
    from lib.training.publish import publish

    publish(task.source.published, network, {"version": "v-new"})
    assert infer()[1]["model_version"] == "v-new"


def test_a_repeated_request_is_answered_with_what_was_made(infer, ct):
    first, told = infer(result_extension=".nrrd")
    for extension, keys in ((".nrrd", {}), (".nii.gz", {}), (".nii.gz", {"fill_holes": False})):
        path, again = infer(result_extension=extension, **keys)
        assert path.endswith(extension)
        assert again["cached"] is True
        if not keys:
            np.testing.assert_array_equal(read_label(path).array, read_label(first).array)
            made = {key: again[key] for key in told if key not in ("latencies", "cached")}
            assert made == {key: told[key] for key in made}
    assert set(told["latencies"]["steps"]) >= {"wait", "read", "windows", "network", "postprocessing", "write"}
    assert "network" not in again["latencies"]["steps"]
    _, sent = infer(sent_once=True, hull_margin_mm=7)
    assert sent["cached"] is True
    json.dumps(sent)


def test_a_file_sent_once_is_not_kept(infer):
    assert [infer(sent_once=True)[1]["cached"] for _ in range(2)] == [False, False]


def test_nothing_is_written_where_only_numbers_are_wanted(infer):
    path, result = infer(result_write_to_file=False)
    assert path is None
    assert "volumes_ml" in result


@pytest.mark.parametrize(
    ("request_keys", "error", "message"),
    [
        ({"result_extension": ".png"}, BadInputError, r"result_extension '\.png' is not one of \.seg\.nrrd, \.nii\.gz"),
        ({"planes": "tiff"}, BadInputError, "planes 'tiff' is not one of seg.nrrd, images"),
        ({"result_dtype": "float32"}, BadInputError, "result_dtype 'float32' is not supported; labels are uint8"),
        ({"hull_margin_mm": -1}, BadInputError, "post-processing can't take hull_margin_mm = -1"),
        ({"image": None}, BadInputError, "the image must be an image id"),
        ({"image": "/nowhere/ct.nii.gz"}, NotFoundError, "ct.nii.gz: there is no such file"),
    ],
)
def test_bad_requests_are_refused_before_the_work(infer, monkeypatch, request_keys, error, message):
    monkeypatch.setattr("lib.inference.shared.predict", lambda *_, **__: pytest.fail("the network was run"))
    with pytest.raises(error, match=message):
        infer(**request_keys)


def test_what_clients_are_told(task):
    info = task.info()
    assert info["labels"] == {"liver": 1, "tumor": 2}
    assert info["type"] == "segmentation"
    assert "cpu" in info["config"]["device"]
    assert task.is_valid()
