import json
import shutil

import pytest
import torch

from lib.errors import BadInputError
from lib.inference.model import ModelSource, new_network
from lib.store.studies import labelled_images
from lib.training.publish import describe, publish
from lib.training.run import CACHE_PREFIX
from lib.training.task import LiverTumorTrainTask

pytestmark = pytest.mark.usefixtures("quick_curves")


class Studies:
    """As much of a datastore as training looks at."""

    def __init__(self, folder):
        self._pairs = labelled_images(folder)

    def datalist(self, full_path=True):
        return self._pairs


@pytest.fixture
def settings(tiny):
    return tiny(max_epochs=2, slices_per_case=4, early_stop_patience=7)


@pytest.fixture
def task(settings, tmp_path):
    torch.manual_seed(0)
    publish(tmp_path / "starter.pt", new_network(settings), describe(settings, "starter"))
    return LiverTumorTrainTask(settings, ModelSource.of_app(settings, tmp_path), tmp_path / "model")


@pytest.fixture(autouse=True)
def keep_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_training_publishes_and_tells_clients(task, studies, tmp_path):
    stale = tmp_path / "model" / "runs" / "killed" / f"{CACHE_PREFIX}x"
    stale.mkdir(parents=True)
    assert task.stats() == {}
    result = task({"device": "cpu", "max_epochs": 3}, Studies(studies))
    # 3D Slicer reads these four for its progress bar and its accuracy bar.
    assert (result["epoch"], result["total_epochs"]) == (3, 3)
    assert 0 <= result["best_metric"] <= 1
    assert result["total_time"].count(":") == 2
    assert result["best_metric_epoch"] in range(4)
    assert task.stats() == result == json.loads((tmp_path / "model" / "train_stats.json").read_text())
    assert result["version"] == task.source.version
    assert result["published"]
    # Against the starter weights, on whole validation cases.
    gate = json.loads((tmp_path / "model" / "runs" / result["run"] / "gate.json").read_text())
    assert gate["decision"] == {"publish": True, "reason": result["reason"]}
    assert (gate["published"], gate["candidate"]) == ("starter", result["version"])
    assert (tmp_path / "model" / "runs" / result["run"] / "curves.png").is_file()
    assert not stale.exists()


def test_status_after_each_epoch(task, studies, monkeypatch):
    seen = []
    original = task._write_stats
    monkeypatch.setattr(task, "_write_stats", lambda *given: seen.append(original(*given)) or seen[-1])
    task({"device": "cpu"}, Studies(studies))
    assert [(stats["epoch"], stats["total_epochs"]) for stats in seen] == [(0, 2), (1, 2), (2, 2), (2, 2)]
    assert all("current_time" in stats and "version" not in stats for stats in seen[:-1])
    assert "total_time" in seen[-1]


def test_fresh_weights_on_request(task, studies, tmp_path):
    task({"device": "cpu", "max_epochs": 1, "pretrained": False}, Studies(studies))
    run = next((tmp_path / "model" / "runs").iterdir())
    assert json.loads((run / "model.json").read_text())["started_from"] is None
    shutil.rmtree(run)
    task({"device": "cpu", "max_epochs": 1}, Studies(studies))
    run = next((tmp_path / "model" / "runs").iterdir())
    assert json.loads((run / "model.json").read_text())["started_from"] in {"starter.pt", "liver_tumor.pt"}


@pytest.mark.parametrize(
    ("request_keys", "expected"),
    [
        ({}, {"max_epochs": 2, "batch_size": 4, "validation_fraction": 0.3, "early_stop_patience": 7}),
        ({"max_epochs": 9, "train_batch_size": 2}, {"max_epochs": 9, "batch_size": 2}),
        ({"val_split": 0, "early_stop_patience": -1}, {"validation_fraction": 0, "early_stop_patience": 0}),
    ],
)
def test_what_a_request_may_change(task, request_keys, expected):
    recipe = task._recipe(request_keys).model_dump()
    assert {key: recipe[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("key", "value"), [("max_epochs", 0), ("max_epochs", "many"), ("train_batch_size", -1), ("val_split", 2),
                       ("early_stop_patience", "x"), ("early_stop_patience", None)],
)  # fmt: skip
def test_a_wrong_value_is_named_as_the_client_named_it(task, key, value):
    with pytest.raises(BadInputError, match=f"^{key} = {value!r}: "):
        task.check({key: value})


def test_nothing_labelled(task):
    class Empty:
        def datalist(self, full_path=True):
            return []

    with pytest.raises(BadInputError, match="no labelled cases"):
        task({"device": "cpu"}, Empty())


def test_what_clients_may_set(task):
    config = task.info()["config"]
    assert config["max_epochs"] == 2
    assert config["pretrained"] is True
    assert config["multi_gpu"] is False
    assert "cpu" in config["device"]
