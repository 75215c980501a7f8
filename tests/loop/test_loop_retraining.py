"""The server trains by itself when enough labels were saved. The tests build on each other."""

import re
from pathlib import Path

import pytest
from monailabel.client.client import MONAILabelClientException

from lib.volume_io import write_label
from tests.loop.running_server import MODEL, RunningServer, epoch_lines, make_app, wait_until
from tests.loop.studies import phantom, write_studies

pytestmark = pytest.mark.server

_SEEDS = range(60, 64)
_CONF = {
    "training.max_epochs": 8,
    "training.patch_size": 64,
    "training.slices_per_case": 4,
    "training.threads": 1,
    "training.validation_fraction": 0,
    "training.cross_validate_below": 0,
    "training.by_itself.after_labels": 2,
    "training.by_itself.minutes_apart": 0,
}
_NAMES = [{"name": "liver", "idx": 1}, {"name": "tumor", "idx": 2}]


@pytest.fixture(scope="module")
def server(warm, tmp_path_factory):
    """A server with four unlabelled phantoms, which trains after two labels."""
    folder = tmp_path_factory.mktemp("retraining")
    write_studies(folder / "studies", _SEEDS)
    with RunningServer(warm, folder / "studies", folder / "run", app=make_app(folder / "app"), conf=_CONF) as running:
        yield running


@pytest.fixture
def client(server):
    return server.client()


@pytest.fixture
def save(client, tmp_path):
    """Saves the truth of a phantom as the label of its image, as an annotator does."""

    def save_label(seed):
        path = tmp_path / f"{seed}.nii.gz"
        write_label(path, phantom(seed).label)
        client.save_label(f"case_{seed}", str(path), params={"label_info": _NAMES})

    return save_label


def retraining(client):
    return client.info()["retraining"]


def model_version(client):
    _, params = client.infer(MODEL, "case_63", {"result_extension": ".nii"})
    return params["model_version"]


def wait_for_epochs(client):
    """3D Slicer's progress bar asks for these two every five seconds."""

    def progress():
        running = client.train_status(check_if_running=True)
        if not running or not epoch_lines(client.train_status().get("details", [])):
            return None
        return client.info()["train_stats"].get(MODEL)

    return wait_until(progress, "the first epoch of a training")


def niceness(process):
    """Of each of a process's threads."""
    stats = [path.read_text() for path in Path(f"/proc/{process.pid}/task").glob("*/stat")]
    return {int(stat.rpartition(")")[2].split()[16]) for stat in stats}


def test_enough_labels_start_a_training(server, client, save):
    before = model_version(client)
    found = retraining(client)
    assert (found["enabled"], found["state"], found["last"]) == (True, "0 of 2 new labels", None)
    save(60)
    assert retraining(client)["state"] == "1 of 2 new labels"
    save(60)  # a second thought about the same image
    assert retraining(client)["state"] == "1 of 2 new labels"
    save(61)
    stats = wait_for_epochs(client)
    assert stats["total_epochs"] == 8
    found = retraining(client)
    assert (found["state"], found["last"]["by_itself"], found["last"]["ended"]) == ("a training is running", True, None)
    (process,) = server.children()
    assert niceness(process) == {min(process.parent().nice() + 10, 19)}  # 19 is the most
    assert niceness(process.parent()) == {process.parent().nice()}
    assert model_version(client) == before  # inference works meanwhile
    with pytest.raises(MONAILabelClientException, match="Status: 429"):
        client.train_start(MODEL, {})
    save(62)
    assert server.finished("/train/")["status"] == "DONE"

    wait_until(lambda: retraining(client)["last"]["ended"], "the end to be told")
    found = retraining(client)
    # Without validation cases there was nothing to compare on, so that annotators keep what they have.
    assert found["last"]["published"] is False
    assert model_version(client) == before
    kept = found["last"]["version"]
    assert found["last"]["result"].startswith(f"model {kept} kept, not published: no validation cases to compare")
    assert kept in {version["id"] for version in server.ask("GET", "/models").reason}
    assert (found["state"], found["new_labels"]) == ("1 of 2 new labels", 1)  # the one that was saved meanwhile
    wait_until(lambda: "the training that began by itself has ended: model" in server.log(), "the end to be logged")
    assert "retraining by itself is on: after 2 new or corrected labels, 0 minutes apart" in server.log()
    assert "a training starts by itself: 2 of 2 new labels" in server.log()


def test_a_killed_training_is_told_and_tried_again_later(server, client, save):
    before = model_version(client)
    save(63)
    (process,) = wait_until(server.children, "the next training")
    process.kill()
    wait_until(lambda: retraining(client)["last"]["ended"], "the end to be told")
    assert re.fullmatch(
        r"2 of 2 new labels; the last training failed 0 minutes ago \(its process ended without a result; it was "
        r"killed, or the log says more\), the next starts in 2 minutes",
        retraining(client)["state"],
    )
    assert model_version(client) == before
