import csv
import json
import re
import shutil

import pytest
import torch

from lib.errors import BadInputError, ModelError, NotFoundError
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


def test_what_comes_of_int8_is_in_the_status(task, studies, tmp_path, monkeypatch):
    doing = []

    def after_training(version, training, validation, registry, settings, device, progress):
        progress("calibrating")
        doing.append(task.stats())
        return f"accepted: {version} is as good"

    monkeypatch.setattr("lib.training.run.after_training", after_training)
    result = task({"device": "cpu", "max_epochs": 3}, Studies(studies))
    assert (doing[0]["int8"], doing[0]["epoch"]) == ("calibrating", 3)
    assert "version" not in doing[0]
    assert result["int8"] == f"accepted: {result['version']} is as good"


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


def test_weights_to_start_from_are_chosen_per_request(task, studies, settings, tmp_path):
    def parent(**request):
        task({"device": "cpu", "max_epochs": 1, **request}, Studies(studies))
        return task.registry.list()[0].manifest["parent"]

    torch.manual_seed(1)
    task.registry.add(new_network(settings), describe(settings, "v1", created="2026-01-01T00:00:00+00:00"))
    assert parent(start="starter") == "starter"
    assert parent(start="v1") == "v1"
    published = task.source.version
    assert parent(start="published") == published
    assert parent(start="scratch") is None
    assert parent(start="published", pretrained=False) is None
    assert len(task.registry.list()) == 2 + 5


def test_the_weights_chosen_are_those_that_the_training_begins_with(task, studies, settings, monkeypatch):
    begun = []

    def stop(network, *_, **__):
        begun.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        raise BadInputError("enough")

    monkeypatch.setattr("lib.training.run.fit", stop)
    torch.manual_seed(settings.training.seed + 1)
    chosen, first = new_network(settings), new_network(settings)
    task.registry.add(chosen, describe(settings, "v1"))
    publish(task.source.starter, first, describe(settings, "starter"))
    for start in ("v1", "starter", "scratch"):
        with pytest.raises(BadInputError, match="enough"):
            task({"device": "cpu", "start": start}, Studies(studies))
    own, starter, fresh = begun
    assert all(torch.equal(own[name], tensor) for name, tensor in chosen.state_dict().items())
    assert all(torch.equal(starter[name], tensor) for name, tensor in first.state_dict().items())
    assert not torch.equal(fresh["head.weight"], starter["head.weight"])
    assert not torch.equal(fresh["head.weight"], own["head.weight"])


@pytest.mark.parametrize(
    ("request_keys", "error", "message"),
    [
        ({"start": "v9"}, NotFoundError, "there is no model version 'v9'; choose one of starter"),
        ({"start": 5}, BadInputError, "start = 5: expected published, scratch, starter or the id of a model version"),
        ({"start": ["v1"]}, BadInputError, "start = ['v1']: expected published, scratch, starter or the id of a"),
        ({"start": "starter", "pretrained": False}, BadInputError,
         "start = 'starter' and pretrained = false, which is fresh weights, can't both be; leave one out"),
    ],
)  # fmt: skip
def test_a_wrong_start_is_refused_at_once(task, request_keys, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        task.check(request_keys)


def test_nothing_to_start_from(task):
    task.source.starter.unlink()
    with pytest.raises(ModelError, match="no weights: neither"):
        task.check({})
    task.check({"pretrained": False})


def test_what_clients_may_set(task, settings):
    task.registry.add(new_network(settings), describe(settings, "v1"))
    config = task.info()["config"]
    assert config["start"] == ["published", "scratch", "starter", "v1"]
    assert config["max_epochs"] == 2
    assert config["pretrained"] is True
    assert config["resume"] is False
    assert config["multi_gpu"] is False
    assert "cpu" in config["device"]


@pytest.fixture
def interrupted(task, studies, tmp_path, monkeypatch):
    """The folders of two runs that were interrupted in their second epoch."""

    def stop(rows, *_):
        if len(rows) == 3:
            raise KeyboardInterrupt

    runs = [tmp_path / "model" / "runs" / name for name in ("20240101_000000", "20240102_000000")]
    for run in runs:
        with monkeypatch.context() as patch:
            patch.setattr(task, "_run_folder", lambda _, run=run: run)
            patch.setattr(task, "_write_stats", stop)
            with pytest.raises(KeyboardInterrupt):
                task({"device": "cpu"}, Studies(studies))
    return runs


def test_going_on_with_an_interrupted_training(task, studies, interrupted):
    first, last = interrupted
    result = task({"device": "cpu", "resume": True}, Studies(studies))
    assert (result["run"], result["epoch"], result["total_epochs"]) == (last.name, 2, 2)
    with (last / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    # The best of all epochs, also of those before the interruption.
    dice = [[float(row[f"dice_{name}"]) for name in ("liver", "tumor") if row[f"dice_{name}"]] for row in rows]
    assert result["best_metric"] == pytest.approx(max(sum(values) / len(values) for values in dice))
    assert task({"device": "cpu", "resume": first.name}, Studies(studies))["run"] == first.name
    assert sorted(first.parent.iterdir()) == [first, last]


def test_going_on_begins_from_no_other_weights(task, studies, interrupted):
    task.source.starter.unlink()
    task.check({"resume": True})
    with pytest.raises(ModelError, match="no weights"):
        task.check({"resume": False})


def test_what_can_not_be_gone_on_with_is_refused_at_once(task, interrupted):
    message = (
        r"^there is no interrupted training 'x' to go on with; choose one of 20240101_000000, 20240102_000000 or start "
        "a new one$"
    )
    with pytest.raises(NotFoundError, match=message):
        task.check({"resume": "x"})
    for value in (1, None, ["20240101_000000"]):
        with pytest.raises(
            BadInputError, match=f"^{re.escape(f'resume = {value!r}: expected true, false or the name')}"
        ):
            task.check({"resume": value})
    for run in interrupted:
        shutil.rmtree(run)
    with pytest.raises(NotFoundError, match=r"^there is no interrupted training to go on with; start a new one$"):
        task.check({"resume": True})
    with pytest.raises(
        NotFoundError, match=r"^there is no interrupted training '\.\./x' to go on with; start a new one$"
    ):
        task.check({"resume": "../x"})


def test_several_gpus_as_monai_label_does_it(task, studies, tmp_path):
    """Its own processes; without GPUs they train on the CPU together."""
    result = task({"device": "cpu", "multi_gpu": True, "gpus": "0,1", "max_epochs": 1}, Studies(studies))
    assert (result["epoch"], task.registry.get(result["version"]).is_starter) == (1, False)
    folder = tmp_path / "model" / "runs" / result["run"]
    # Two training cases of 4 slices each fill a batch of 4 for both processes once.
    assert json.loads((folder / "preflight.json").read_text())["seconds"]["steps"] == 1
    assert not list(folder.glob(f"{CACHE_PREFIX}*"))
    assert len(list((tmp_path / "model" / "cache").iterdir())) == 4
