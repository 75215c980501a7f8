"""The loop closed: correct, train, infer with the new model; score, batch, stop. The tests build on each other."""

import json
import re
import threading

import nibabel as nib
import numpy as np
import pytest
import requests
import torch
from monailabel.client.client import MONAILabelClientException

from lib.inference.model import load_model
from lib.settings import load_settings
from lib.training.publish import describe, publish
from lib.training.registry import Registry
from tests.loop.running_server import MODEL, RunningServer, epoch_lines, make_app, wait_until
from tests.loop.studies import manifest, write_studies

pytestmark = pytest.mark.server

_LABELLED, _UNLABELLED = range(40, 42), range(42, 44)
_SEEING = "seeing"
_BETWEEN_S = 0.1
_RECIPE = {
    "training.patch_size": 64,
    "training.slices_per_case": 4,
    "training.threads": 1,
    "training.cross_validate_below": 0,
    "training.by_itself.niceness": 0,  # the requests below never pause, and would hold the training up for minutes
    "active_learning.score_when_idle": False,  # so that what is scored was asked for
    "active_learning.dropout_passes": 2,
    "active_learning.slices_per_score": 2,
}


@pytest.fixture(scope="module")
def server(warm, tmp_path_factory):
    """A server with two labelled and two unlabelled phantoms and a file that is no image."""
    folder = tmp_path_factory.mktemp("training")
    studies = folder / "studies"
    write_studies(studies, _LABELLED, labelled=True)
    write_studies(studies, _UNLABELLED)
    (studies / "damaged.nii.gz").write_bytes(b"")
    app = make_app(folder / "app")
    make_blind(app)
    with RunningServer(warm, studies, folder / "run", app=app, conf=_RECIPE) as running:
        yield running


def make_blind(app):
    """The weights in force find nothing, so that any training beats them; the app's own are kept as a version."""
    settings, weights = load_settings(app / "app.yaml"), app / "starter.pt"
    network = load_model(settings, weights, torch.device("cpu")).network
    Registry(app, settings).add(network, describe(settings, _SEEING))
    with torch.no_grad():
        network.head.bias[0] += 50
    weights.unlink()  # a link
    publish(weights, network, describe(settings, "blind"))


@pytest.fixture
def client(server):
    return server.client()


def version(server):
    return server.infer("case_40", output="json").reason["model_version"]


class Requests(threading.Thread):
    """One annotator after another asks for a segmentation until told to stop."""

    def __init__(self, server):
        super().__init__()
        self._server, self._end = server, threading.Event()
        self.versions, self.errors = [], []

    def run(self):
        client = self._server.client()
        while not self._end.wait(_BETWEEN_S):
            try:
                answer, params = client.infer(MODEL, "case_42", {"result_extension": ".nii"})
                assert nib.load(answer).shape == (96, 96, 16)
                self.versions.append(params["model_version"])
            except Exception as error:
                self.errors.append(getattr(error, "msg", None) or repr(error))

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self.join()


def test_labels_that_lie_in_the_folder_count_as_labelled(client):
    status = client.info()["datastore"]
    assert (status["total"], status["completed"]) == (5, 2)


def test_training_shows_its_progress_and_the_next_inference_uses_the_new_model(server, client):
    before = version(server)
    studies = manifest(server.studies)
    started = client.train_start(MODEL, {"max_epochs": 3, "val_split": 0.5, "start": _SEEING})
    assert started["status"] in {"SUBMITTED", "RUNNING"}
    with pytest.raises(MONAILabelClientException) as refusal:
        client.train_start(MODEL, {"max_epochs": 3})
    assert "Status: 429" in refusal.value.msg
    assert "a train task is running already; wait for its end or stop it" in refusal.value.msg
    lines: dict[str, None] = {}
    running_stats: list[dict] = []

    def ended():
        status = client.train_status()
        lines.update(dict.fromkeys(status.get("details", [])))
        running = client.train_status(check_if_running=True)
        if running:
            running_stats.append(client.info()["train_stats"].get(MODEL, {}))
        return not running and status["status"] not in {"SUBMITTED", "RUNNING"}

    with Requests(server) as requests:
        wait_until(ended, "the end of the training")
        after = version(server)
    status = client.train_status()
    assert status["status"] == "DONE", "\n".join(lines)
    shown = epoch_lines(list(lines))
    for epoch in (1, 2, 3):
        (line,) = (line for line in shown if f"epoch {epoch}/3" in line)
        assert re.search(r"loss \d+\.\d+", line), line
        assert epoch == 3 or re.search(r"ETA \d+:\d\d:\d\d", line), line
    assert requests.errors == []
    assert after != before
    assert set(requests.versions) <= {before, after}
    assert version(server) == after
    stats = client.info()["train_stats"][MODEL]
    assert (stats["epoch"], stats["total_epochs"]) == (3, 3)
    assert 0 <= stats["best_metric"] <= 1
    assert re.fullmatch(r"\d+:\d\d:\d\d", stats["total_time"])
    assert (stats["published"], stats["version"]) == (True, after)
    assert all(stats.get("total_epochs", 3) == 3 for stats in running_stats)
    retraining = client.info()["retraining"]
    assert (retraining["enabled"], retraining["new_labels"]) == (False, 0)  # both are learned from now
    assert (retraining["last"]["by_itself"], retraining["last"]["version"]) == (False, after)
    assert manifest(server.studies) == studies


def test_a_training_leaves_its_history_curves_and_weights(server, client):
    (run,) = (server.app / "model" / "runs").iterdir()
    made = {"history.csv", "curves.png", "events", "model.pt", "best.pt", "report.html"}
    assert made <= {path.name for path in run.iterdir()}
    assert len((run / "history.csv").read_text().splitlines()) == 1 + 4  # epoch 0 is the network before
    published = json.loads((server.app / "model" / f"{MODEL}.json").read_text())
    assert published["version"] == version(server)
    assert sorted(published["training_cases"] + published["validation_cases"]) == ["case_40", "case_41"]
    assert json.loads((run / "gate.json").read_text())["published"] == "blind"
    assert not list(run.glob("cache*"))
    page = requests.get(f"{server.url}/models/published/report", timeout=60)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.text == (run / "report.html").read_text()
    assert "Published: annotators get this model." in page.text


def test_models_are_replaced_under_running_requests_without_an_error(server, client):
    settings = load_settings(server.app / "app.yaml")
    published = server.app / "model" / f"{MODEL}.pt"
    network = load_model(settings, published, torch.device("cpu")).network
    names = [f"version-{number}" for number in range(6)]
    with Requests(server) as first, Requests(server) as second:
        for name in names:
            seen = len(first.versions)
            publish(published, network, describe(settings, name))
            wait_until(lambda seen=seen: len(first.versions) > seen or first.errors, "an answer", pause_s=0.01)
    assert first.errors == second.errors == []
    assert len({*first.versions, *second.versions} & set(names)) >= 3
    order = [names.index(name) for name in first.versions if name in names]
    assert order == sorted(order)  # never back to an older one
    assert version(server) == names[-1]


def test_versions_are_published_and_taken_back_under_running_requests(server, client):
    before = version(server)
    listed = {one["id"]: one for one in server.ask("GET", "/models").reason}
    assert listed[before]["is_published"]
    starter = next(name for name, one in listed.items() if one["is_starter"])
    with Requests(server) as requests:
        for name in ("starter", before, "starter", before):
            answer = server.ask("POST", f"/models/{name}/publish", json={"client_id": "anna", "reason": "to compare"})
            assert answer.status == 200, answer.reason
            seen = len(requests.versions)  # one more may have begun before
            wait_until(lambda seen=seen: len(requests.versions) > seen + 1 or requests.errors, "two answers")
            assert requests.versions[-1] == answer.reason["id"]
    assert requests.errors == []
    assert set(requests.versions) == {before, starter}
    published = [event for event in server.ask("GET", "/ledger/events").reason if event["kind"] == "model published"]
    assert [event["detail"]["version"] for event in published[:2]] == [before, starter]
    assert {event["actor"] for event in published} == {"server", "anna"}
    refused = server.ask("POST", f"/train/{MODEL}", json={"start": "nothing"})
    assert refused.status == 404
    assert "there is no model version 'nothing'; choose one of" in refused.reason


def test_a_batch_goes_on_after_a_file_it_can_not_read(server, client):
    started = server.ask("POST", f"/batch/infer/{MODEL}?images=unlabeled", json={"result_extension": ".nrrd"})
    assert started.status == 200
    done = server.finished("/batch/infer")
    assert done["status"] == "DONE", "\n".join(done["details"])
    assert "segmented 2 of 2 images" in server.log()  # the damaged one was refused when it was found
    (event,) = (event for event in server.ask("GET", "/ledger/events").reason if event["kind"] == "image refused")
    assert (event["image"], event["detail"]["reason"]) == ("damaged", "damaged.nii.gz: the file is empty")

    def originals():
        entries = client.datastore()["objects"]
        return sorted(name for name, entry in entries.items() if "original" in entry["labels"])

    wait_until(lambda: originals() == ["case_42", "case_43"], "the labels to be seen")
    for name in originals():
        label = nib.load(client.download_label(name, "original"))
        assert np.array_equal(label.affine, nib.load(server.studies / f"{name}.nii.gz").affine)
        assert label.get_data_dtype() == np.uint8
    info = client.datastore()["objects"]["case_42"]["labels"]["original"]["info"]
    assert info["params"]["label_names"] == {"liver": 1, "tumor": 2}
    assert client.info()["datastore"]["completed"] == 2  # a pre-segmentation is no label


def test_what_a_batch_segments_is_scored(server, client):
    assert scored(client)[:3] == (2, 0, 0)


def test_a_batch_over_all_images_within_the_request(server, client):
    answer = server.ask("POST", f"/batch/infer/{MODEL}?images=all&run_sync=true", json={})
    assert answer.status == 200
    assert set(answer.reason) == {"case_40", "case_41", "case_42", "case_43", "damaged"}
    assert answer.reason["damaged"] == {"error": "damaged.nii.gz: the file is empty"}
    assert client.info()["datastore"]["label_tags"] == {"final": 2, "original": 4}


def test_dice_compares_what_was_submitted_with_what_was_proposed(server, client):
    answer = server.ask("POST", "/scoring/dice?run_sync=true", json={})
    assert answer.status == 200
    assert set(answer.reason) == {"case_40", "case_41"}
    for name, scores in answer.reason.items():
        truth, proposed = (
            np.asarray(nib.load(client.download_label(name, tag)).dataobj) for tag in ("final", "original")
        )
        for label, index in (("liver", 1), ("tumor", 2)):
            both, total = (
                ((truth == index) & (proposed == index)).sum(),
                (truth == index).sum() + (proposed == index).sum(),
            )
            assert scores[label] == pytest.approx(2 * both / total if total else 1.0)
        assert client.datastore()["objects"][name]["image"]["info"]["dice"] == scores


def scored(client):
    """How many images to be labelled the model in force has scored, an earlier one has, and are waiting."""
    told = client.info()["scores"]
    return told["current"], told["earlier"], told["waiting"], told["state"]


def test_an_image_that_is_handed_out_is_scored_and_the_others_when_somebody_asks_for_it(server, client):
    before = version(server)
    assert server.ask("POST", "/models/starter/publish", json={"reason": "of which there are no scores"}).status == 200
    assert scored(client) == (0, 2, 2, "off")
    sample = client.next_sample("hybrid", {})
    assert "scored by an earlier model" in sample["reason"]
    assert all(span["first"] <= span["last"] < 16 for span in sample["slices"])
    assert sample["campaign"] == {"labelled": 2, "planned": 100, "left": 98, "model_version": version(server)}
    wait_until(lambda: scored(client)[:3] == (1, 1, 1), "the scores of the segmentation ahead")
    again = client.next_sample("hybrid", {})
    for key in ("id", "reason", "slices", "score", "strategy"):
        assert again[key] == sample[key]
    assert server.ask("POST", "/scoring/scores").status == 200
    done = server.finished("/scoring/")
    assert done["status"] == "DONE", "\n".join(done["details"])
    assert "scored 1 of 1: " in "\n".join(done["details"])
    wait_until(lambda: scored(client)[:3] == (2, 0, 0), "the scores to be seen")
    best = server.client("another").next_sample("bald", {})
    assert best["id"] != sample["id"]
    assert best["score"] >= 0
    assert best["lease"]["part"] == "bald"
    for image_id in (best["id"], sample["id"]):
        assert server.ask("DELETE", f"/ledger/leases/{image_id}").status == 200
    assert server.ask("POST", f"/models/{before}/publish", json={"reason": "the better one"}).status == 200


def test_a_stopped_training_ends_at_once_and_changes_no_model(server, client):
    before, studies = version(server), manifest(server.studies)
    client.train_start(MODEL, {"max_epochs": 5000, "val_split": 0})
    wait_until(lambda: epoch_lines(client.train_status().get("details", [])), "the first epoch")
    (process,) = server.children()
    stopped = client.train_stop()
    assert stopped["status"] == "STOPPED"
    assert not list(server.app.glob("model/jobs/*"))  # a server started later does not call it interrupted
    wait_until(lambda: not process.is_running() or process.status() == "zombie", "the end of the process")
    wait_until(lambda: not server.children(), "no process to be left")
    assert client.train_status()["status"] == "STOPPED"
    assert not client.train_status(check_if_running=True)
    assert version(server) == before
    assert manifest(server.studies) == studies


def test_a_corrected_case_leaves_the_pool_and_trains_next_time(server, client, tmp_path):
    answer, _ = client.infer(MODEL, "case_42", {"result_extension": ".nii.gz"})
    client.save_label(
        "case_42", answer, params={"label_info": [{"name": "liver", "idx": 1}, {"name": "tumor", "idx": 2}]}
    )
    assert client.info()["datastore"]["completed"] == 3
    assert {client.next_sample("random", {})["id"] for _ in range(3)} == {"case_43"}
    answer = server.ask("POST", f"/train/{MODEL}?run_sync=true", json={"max_epochs": 1, "val_split": 0.4})
    assert answer.status == 200, answer.reason
    manifest_file = next(server.app.glob(f"model/runs/{answer.reason['run']}/model.json"))
    described = json.loads(manifest_file.read_text())
    assert sorted(described["training_cases"] + described["validation_cases"]) == ["case_40", "case_41", "case_42"]
    assert len(described["validation_cases"]) >= 1
    assert answer.reason["reason"]
