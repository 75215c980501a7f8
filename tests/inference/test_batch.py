"""MONAI Label's batch over a real folder with a real ledger and a tiny network."""

import logging

import numpy as np
import pytest
import torch
from monailabel.config import settings as server

from lib.inference.model import new_network
from lib.networks.checkpoint import save_weights
from lib.settings import load_settings
from lib.store import images
from lib.volume import Volume
from lib.volume_io import read_label, write_image
from lib.web import app as module
from lib.web.app import LiverLoopApp

SMALL = "network: {arguments: {filters: [4, 4, 8, 8, 8]}}\ninference: {engine: pytorch, precision: float32}\n"
NAMES = ["a", "b", "c"]


def write_ct(path, seed):
    array = np.random.default_rng(seed).integers(-200, 300, (32, 32, 3)).astype(np.int16)
    write_image(path, Volume(array, np.diag([-0.8, -0.8, 3.0, 1.0])))


@pytest.fixture
def app(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "settle_environment", lambda: None)  # this process is the tests' own
    monkeypatch.setattr(server, "MONAI_LABEL_SESSION_PATH", str(tmp_path / "sessions"))
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "app.yaml").write_text(SMALL)
    (tmp_path / "studies").mkdir()
    for seed, name in enumerate(NAMES):
        write_ct(tmp_path / "studies" / f"{name}.nii.gz", seed)
    publish(tmp_path / "app", "starter-1")
    app = LiverLoopApp(str(tmp_path / "app"), str(tmp_path / "studies"), {})
    yield app
    app.store.close()


def publish(folder, version):
    torch.manual_seed(3)
    save_weights(folder / "starter.pt", new_network(load_settings(folder / "app.yaml")), {"version": version})


@pytest.fixture
def batch(app, monkeypatch):
    """Run a batch; gives the answers and which images were segmented."""
    segmented = []
    infer = app.infer
    monkeypatch.setattr(app, "infer", lambda one, store=None: segmented.append(one["image"]) or infer(one, store))

    def run(**parameters):
        segmented.clear()
        result = app.batch_infer({"model": "liver_tumor", "images": "all", "device": "cpu", **parameters})
        return result, sorted(segmented)

    return run


def test_the_whole_folder_gets_pre_segmentations(app, batch, caplog):
    with caplog.at_level(logging.INFO):
        result, segmented = batch()
    assert segmented == NAMES == sorted(result)
    assert "segmented 3 of 3 images; 0 were done before, by the same model" in caplog.text
    assert "3 / 3" in caplog.text  # what the status shows while it runs
    for name in NAMES:
        assert read_label(app.datastore().get_label_uri(name, "original")).shape == (32, 32, 3)
        assert result[name]["params"]["model_version"] == "starter-1"
        assert "file" not in result[name]


def test_the_same_again_does_nothing_and_tells_the_figures_of_then(app, batch, caplog):
    first, _ = batch()
    with caplog.at_level(logging.INFO):
        again, segmented = batch()
    assert segmented == []
    assert "segmented 0 of 0 images; 3 were done before, by the same model" in caplog.text
    assert {name: answer["skipped"] for name, answer in again.items()} == dict.fromkeys(NAMES, True)
    assert again["a"]["params"]["volumes_ml"] == first["a"]["params"]["volumes_ml"]
    assert (again["a"]["label"], again["a"]["tag"]) == ("a", "original")
    assert len(app.store.labels.history("a")) == 1
    assert batch(again=True)[1] == NAMES


def test_another_model_other_switches_or_another_image_are_work_to_do(app, batch, tmp_path):
    batch()
    assert batch(fill_holes=False)[1] == NAMES
    assert batch(label_tag="second")[1] == NAMES
    assert batch(fill_holes=False)[1] == []
    write_ct(tmp_path / "studies" / "b.nii.gz", 9)
    app.datastore().refresh()
    assert batch(fill_holes=False)[1] == ["b"]
    publish(tmp_path / "app", "starter-2")
    assert batch(fill_holes=False)[1] == NAMES


def test_a_label_that_somebody_made_is_not_taken_for_the_models(app, batch):
    batch()
    label = app.datastore().get_label_uri("a", "original")
    app.datastore().save_label("a", label, "original", {"client_id": "anna", "params": {"model_version": "starter-1"}})
    assert batch()[1] == ["a"]


def test_a_batch_goes_on_after_those_that_are_done(batch):
    assert batch(max_batch_size=2)[1] == ["a", "b"]
    result, segmented = batch(max_batch_size=2)
    assert segmented == ["c"]
    assert ["skipped" in result[name] for name in NAMES] == [True, True, False]


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_images_do_not_end_a_batch(app, batch, monkeypatch, caplog, workers, tmp_path):
    (tmp_path / "studies" / "a.nii.gz").write_bytes(b"no CT")
    shared = app._infers["liver_tumor"].shared
    segment = shared.segment

    def too_large(path, *arguments, **options):
        if path.endswith("b.nii.gz"):
            raise MemoryError("Unable to allocate 9 GiB")
        return segment(path, *arguments, **options)

    monkeypatch.setattr(shared, "segment", too_large)
    with caplog.at_level(logging.INFO):
        result, _ = batch(max_workers=workers)
    assert "a.nii.gz: not a readable .nii.gz file" in result["a"]["error"]
    assert result["b"] == {"error": "MemoryError: Unable to allocate 9 GiB"}
    assert result["c"]["label"] == "c"
    assert "segmented 1 of 3 images" in caplog.text
    assert "could not be segmented: b: MemoryError: Unable to allocate 9 GiB" in caplog.text


def test_images_left_out_on_purpose_stay_out(app, batch):
    with app.store.ledger.writing() as connection:
        images.exclude(connection, "b", "arms down", "anna")
    assert batch()[1] == ["a", "c"]
    assert sorted(batch()[0]) == ["a", "c"]
