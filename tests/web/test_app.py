"""The app without a server: what it offers, where it takes images from, what it refuses."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from monailabel.config import settings as server

from lib.errors import BadInputError, ModelError, NotFoundError, SettingsError
from lib.inference.model import new_network
from lib.inference.shared import SharedSegmenter
from lib.networks.checkpoint import save_weights
from lib.settings import load_settings
from lib.store.folder import FolderDatastore
from lib.volume import Volume
from lib.volume_io import read_label, write_image, write_label
from lib.web import app as module
from lib.web.app import LiverLoopApp

REPOSITORY = Path(__file__).resolve().parents[2]
AFFINE = np.diag([-0.8, -0.8, 3.0, 1.0])
SMALL = "network: {arguments: {filters: [4, 4, 8, 8, 8]}}\ninference: {precision: float32, engine: pytorch}\n"


def write_ct(path, seed=0):
    array = np.random.default_rng(seed).integers(-200, 300, (32, 32, 3)).astype(np.int16)
    array[:4] = -1000
    write_image(path, Volume(array, AFFINE))
    return path


@pytest.fixture(scope="module")
def app_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("app")
    (folder / "app.yaml").write_text(SMALL)
    torch.manual_seed(3)
    save_weights(folder / "starter.pt", new_network(load_settings(folder / "app.yaml")), {"version": "starter-1"})
    return folder


@pytest.fixture
def studies(tmp_path):
    folder = tmp_path / "studies"
    folder.mkdir()
    for seed, name in enumerate(("a", "b.1.2")):
        write_ct(folder / f"{name}.nii.gz", seed)
    return folder


@pytest.fixture
def make_app(app_dir, studies, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "settle_environment", lambda: None)  # this process is the tests' own
    monkeypatch.setattr(server, "MONAI_LABEL_DATASTORE_AUTO_RELOAD", False)
    monkeypatch.setattr(server, "MONAI_LABEL_AUTO_UPDATE_SCORING", False)
    monkeypatch.setattr(server, "MONAI_LABEL_SESSION_PATH", str(tmp_path / "sessions"))
    return lambda conf=None, folder=app_dir: LiverLoopApp(str(folder), str(studies), conf or {})


def refused(error, function, *arguments):
    with pytest.raises(error) as caught:
        function(*arguments)
    return str(caught.value)


def request(image, **parameters):
    return {"model": "liver_tumor", "image": image, "device": "cpu", **parameters}


def test_what_the_app_offers(make_app):
    app = make_app()
    info = app.info()
    assert info["name"] == "LiverLoop"
    assert info["labels"] == ["liver", "tumor"]  # a list here, or OHIF does not connect
    assert info["models"]["liver_tumor"]["labels"] == {"liver": 1, "tumor": 2}
    assert list(info["trainers"]) == ["liver_tumor"]
    assert list(info["strategies"]) == list(app.settings.active_learning.strategies)
    assert list(info["scoring"]) == ["dice", "scores"]
    assert info["datastore"] == {"total": 2, "completed": 0, "label_tags": {}}
    json.dumps(info)


def test_conf_changes_what_the_app_offers(make_app):
    conf = {
        "model_name": "mine",
        "active_learning.strategies": "[first]",
        "active_learning.scoring": "[]",
        "server_mode": "true",
    }
    app = make_app(conf)
    assert (list(app.info()["models"]), list(app.info()["strategies"]), app.info()["scoring"]) == (
        ["mine"],
        ["first"],
        {},
    )
    assert app.source.published.name == "mine.pt"
    assert app.next_sample({})["id"] == "a"


def test_wrong_settings_stop_the_start_with_one_line(make_app):
    assert refused(SettingsError, make_app, {"bogus": "1"}).startswith("--conf: unknown key bogus")
    assert refused(SettingsError, make_app, {"active_learning.strategies": "[first, best]"}) == (
        "app.yaml: active_learning.strategies: there is no strategy 'best'; choose from bald, class_balanced, "
        "diversity, entropy, first, foreground_random, hybrid, random, review"
    )


def test_a_damaged_studies_folder_stops_the_start(make_app, studies):
    (studies / "datastore_v2.json").write_text("{")
    assert "datastore_v2.json is damaged; move it away" in refused(BadInputError, make_app)


def test_a_folder_gets_our_store(make_app):
    assert isinstance(make_app().datastore(), FolderDatastore)


@pytest.mark.parametrize("image_id", ["a", "b.1.2"])
def test_an_image_of_the_pool_is_segmented(make_app, studies, image_id):
    result = make_app().infer(request(image_id, result_extension=".nii.gz"))
    label = read_label(result["file"])
    assert label.shape == (32, 32, 3)
    np.testing.assert_allclose(label.affine, AFFINE, atol=1e-6)
    assert result["params"]["model_version"] == "starter-1"
    Path(result["file"]).unlink()


def test_an_upload_and_a_session_are_segmented(make_app, tmp_path):
    app = make_app()
    with tempfile.NamedTemporaryFile(suffix=".nii.gz") as file:
        write_ct(Path(file.name))
        Path(app.infer(request(file.name))["file"]).unlink()
    assert app.info()["inference"]["kept_results"] == 0  # nobody can ask for it again
    path = write_ct(tmp_path / "session.nii.gz")
    for cached in (False, True):
        result = app.infer(request(str(path), session={"image": str(path)}))
        assert result["params"]["cached"] is cached
        Path(result["file"]).unlink()


def test_an_image_is_segmented_before_its_annotator_asks(make_app):
    app = make_app()
    app.prefetch("a", "ann")
    app.prefetch("nothing", "ann")
    result = app.infer(request("a", client_id="ann"))  # waits for it, if need be
    Path(result["file"]).unlink()
    assert app.infer(request("a", client_id="bob", result_write_to_file=False))["params"]["cached"]
    assert app.info()["inference"] == {"waiting": 0, "kept_results": 2, "kept_mb": 0.0}


@pytest.mark.parametrize("conf", [{"inference.prefetch": "false"}, {"inference.cache_mb": "0"}])
def test_nothing_is_segmented_ahead_where_that_is_off(make_app, monkeypatch, conf):
    app = make_app(conf)
    monkeypatch.setattr(SharedSegmenter, "prefetch", lambda *_: pytest.fail("it was"))
    app.prefetch("a", "ann")


def test_nothing_is_segmented_ahead_without_weights(make_app, app_dir, tmp_path, caplog):
    (tmp_path / "bare").mkdir()
    shutil.copy(app_dir / "app.yaml", tmp_path / "bare")
    make_app(folder=tmp_path / "bare").prefetch("a", "ann")
    assert caplog.messages == []


def test_a_batch_goes_after_all_others(make_app, monkeypatch):
    asked = []
    segment = SharedSegmenter.segment

    def noted(self, *arguments, **options):
        asked.append(options["background"])
        return segment(self, *arguments, **options)

    monkeypatch.setattr(SharedSegmenter, "segment", noted)
    app = make_app()
    result = app.batch_infer({"model": "liver_tumor", "images": ["a"], "client_id": "ann"})
    assert (list(result), asked) == (["a"], [True])


def test_a_path_of_the_server_is_no_image(make_app, studies):
    app = make_app()
    for path in (str(studies / "a.nii.gz"), "/etc/passwd", str(Path(tempfile.gettempdir()) / "tmpnothing.nii.gz")):
        assert refused(BadInputError, app.infer, request(path)) == (
            f"{path[:80]!r} is a path of the server; name images by their id, or send the file"
        )
    for path in ("../studies/a.nii.gz", "studies/a", "a.nii.gz"):
        assert refused(NotFoundError, app.infer, request(path)).startswith(f"there is no image {path!r}")


def test_errors_about_an_upload_do_not_show_where_it_was_put(make_app):
    app = make_app()
    with tempfile.NamedTemporaryFile(suffix=".nii.gz") as file:
        Path(file.name).write_bytes(b"damaged")
        message = refused(BadInputError, app.infer, request(file.name))
    assert message.startswith("the image sent: not a readable .nii.gz file")
    assert file.name not in message


def test_names_that_are_not_known_are_told_with_those_that_are(make_app):
    app = make_app()
    assert refused(NotFoundError, app.infer, {"model": "x", "image": "a"}) == (
        "there is no model 'x'; choose one of liver_tumor"
    )
    assert refused(NotFoundError, app.infer, {"model": ["x"], "image": "a"}).startswith("there is no model \"['x']\"")
    assert refused(NotFoundError, app.next_sample, {"strategy": "best"}) == (
        f"there is no strategy 'best'; choose one of {', '.join(app.settings.active_learning.strategies)}"
    )
    assert refused(NotFoundError, app.check_scoring, "best") == (
        "there is no scoring method 'best'; choose one of dice, scores"
    )
    assert refused(NotFoundError, app.check_training, "x", {}) == (
        "there is no model to train 'x'; choose one of liver_tumor"
    )
    assert "no whole-slide images" in refused(NotFoundError, app.infer_wsi, {})


def test_the_next_sample_is_unlabelled_until_all_are_labelled(make_app, studies, tmp_path):
    app = make_app()
    assert app.next_sample({"strategy": "first"})["id"] == "a"
    write_label(tmp_path / "label.nii.gz", Volume(np.ones((32, 32, 3), np.uint8), AFFINE))
    for image_id, following in (("a", "b.1.2"), ("b.1.2", None)):
        app.datastore().save_label(image_id, str(tmp_path / "label.nii.gz"), "final", {})
        assert app.next_sample({"strategy": "first"}).get("id") == following


def test_training_needs_a_label(make_app):
    app = make_app()
    assert refused(BadInputError, app.check_training, "liver_tumor", {}) == (
        "no image is labelled yet; submit at least one corrected segmentation before training"
    )


def test_a_training_that_can_not_succeed_is_refused_before_it_starts(make_app, tmp_path):
    app = make_app()
    array = np.ones((32, 32, 3), np.uint8)
    write_label(tmp_path / "label.nii.gz", Volume(array, AFFINE))
    app.datastore().save_label("a", str(tmp_path / "label.nii.gz"), "final", {})
    assert refused(BadInputError, app.check_training, "liver_tumor", {}) == (
        "no labelled case shows a tumor, so tumors can't be learned; label at least one, or let the training paint "
        "some (synthetic_tumors.probability in app.yaml)"
    )
    array[3:6, 3:6, 1] = 2
    write_label(tmp_path / "label.nii.gz", Volume(array, AFFINE))
    app.datastore().save_label("b.1.2", str(tmp_path / "label.nii.gz"), "final", {})
    app.check_training("liver_tumor", {})


def test_an_app_without_weights_says_so(make_app, app_dir, tmp_path):
    folder = tmp_path / "bare"
    folder.mkdir()
    shutil.copy(app_dir / "app.yaml", folder)
    app = make_app(folder=folder)
    assert refused(ModelError, app.infer, request("a")).endswith("exists; train a model or import weights")


def test_the_app_of_the_repository_is_a_few_lines():
    text = (REPOSITORY / "apps" / "liver_tumor" / "main.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 20
    assert "class LiverTumorApp(LiverLoopApp)" in text


def test_an_image_that_no_inference_can_read_is_not_offered_again(make_app, studies):
    array = np.full((8, 8, 3), 5, np.int16)  # a header like any other, but no CT
    write_image(studies / "flat.nii.gz", Volume(array, AFFINE))
    os.utime(studies / "flat.nii.gz", (1, 1))  # a new file would not be listed until it can be read
    app = make_app()
    message = refused(BadInputError, app.infer, request("flat", client_id="ann"))
    assert message.startswith("flat.nii.gz: values run from 5 to 5")
    assert app.datastore().get_unlabeled_images() == ["a", "b.1.2"]
    assert refused(BadInputError, app.infer, request("a", result_extension=".png", client_id="ann"))
    assert app.datastore().get_unlabeled_images() == ["a", "b.1.2"]  # that was not the image's fault


def test_what_an_annotator_starts_from_is_kept_for_comparison(make_app):
    app = make_app()
    answer = app.infer(request("a", client_id="ann", result_extension=".nii.gz"))
    version = app.store.labels.save("a", answer["file"], "final", {}, author="ann")
    assert (version.model_version, version.change) == ("starter-1", 0.0)
    assert app.infer(request("b.1.2", client_id="ann", planes="images"))["file"]  # which is no label to compare with
    app.infer(request("b.1.2", client_id="ann", result_write_to_file=False))
