"""What is killed goes on as if nothing had happened; what would go on with something else does not go on."""

import json
import random
import shutil

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lib.errors import BadInputError, BusyError, NotFoundError
from lib.inference.model import new_network
from lib.settings import Settings
from lib.store.studies import labelled_images
from lib.training import cache as cache_module
from lib.training.cases import find_cases
from lib.training.publish import describe, publish
from lib.training.registry import Registry
from lib.training.run import run_training
from lib.training.state import STATE_FILE, alone_in
from lib.volume import Volume
from lib.volume_io import read_label, write_label
from tests.training.killed_training import POINTS, Job, train, train_until

CPU = torch.device("cpu")
EPOCHS = 3
STEPS = 4  # of an epoch: two cases of eight slices, four at a time
# Everything random is used, and every part of the state changes while training.
CONTENT = {
    "network": {"arguments": {"filters": [8] * 5, "dropout": [0.1] * 5, "up_dropout": [0.1] * 4}},
    "inference": {"precision": "float32"},
    "training": {
        "max_epochs": EPOCHS, "learning_rate": 0.01, "patch_size": 32, "slices_per_case": 8, "batch_size": 4,
        "plateau_patience": 0, "early_stop_patience": 20, "validation_fraction": 0.3,
        "cross_validate_below": 0,
    },
    "synthetic_tumors": {"probability": 0.5},
    "postprocessing": {"min_tumor_mm3": 0},
}  # fmt: skip


@pytest.fixture
def new_job(studies, tmp_path):
    """An app with published weights that any training beats, and a run in it."""

    def make(name, content=CONTENT):
        settings = Settings.model_validate(content)
        app = tmp_path / name
        torch.manual_seed(0)
        network = new_network(settings)
        torch.nn.init.zeros_(list(network.parameters())[-1])
        publish(app / "model" / "liver_tumor.pt", network, describe(settings, "first"))
        return Job(studies, app, app / "run", content)

    return make


@pytest.fixture(scope="module")
def straight(studies, tmp_path_factory):
    """The training that nobody interrupts."""
    folder = tmp_path_factory.mktemp("straight")
    job = Job(studies, folder, folder / "run", CONTENT)
    assert train(job) == 0
    return job


def weights(path):
    return torch.load(path, weights_only=True)["model"]


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def assert_as_uninterrupted(job, straight, read_history):
    for name in ("model.pt", "best.pt", "last.pt"):
        assert equal(weights(job.run / name), weights(straight.run / name)), name
    rows, expected = (read_history(folder / "history.csv") for folder in (job.run, straight.run))
    seconds = [row.pop("seconds") for row in rows]
    assert seconds == sorted(seconds)
    assert rows == [{key: value for key, value in row.items() if key != "seconds"} for row in expected]
    assert len(rows) == EPOCHS + 1
    events = EventAccumulator(str(job.run / "events"))
    events.Reload()
    assert [event.step for event in events.Scalars("learning_rate")] == list(range(EPOCHS + 1))
    assert not {path.name for path in job.run.iterdir()} - {
        "best.pt", "curves.png", "events", "gate.json", "history.csv", "last.pt", "model.json", "model.pt",
        "preflight.json", "report.html",
    }  # fmt: skip


def test_killed_at_random_moments(new_job, straight, read_history):
    job = new_job("killed")
    published = (job.app / "model" / "liver_tumor.pt").read_bytes()
    dice = random.Random()
    kills, resume = [], False
    for _ in range(3):
        steps = dice.randint(0, STEPS + 2)
        kills.append((steps, train_until(job, steps, resume=resume)))
        assert (job.app / "model" / "liver_tumor.pt").read_bytes() == published
        resume = (job.run / STATE_FILE).exists()
        if not resume:  # killed so early that there is nothing to go on from
            shutil.rmtree(job.run, ignore_errors=True)
    assert train(job, resume=resume) == 0, kills
    assert_as_uninterrupted(job, straight, read_history)
    assert (job.app / "model" / "liver_tumor.pt").read_bytes() != published


@pytest.mark.parametrize("point", POINTS)
def test_killed_when(point, new_job, straight, read_history):
    job = new_job("killed")
    published = job.app / "model" / "liver_tumor.pt"
    before = published.read_bytes()
    assert train(job, point=point) < 0
    assert (published.read_bytes() == before) == (point != "the version is published")
    assert (job.run / STATE_FILE).exists()
    assert train(job, resume=True) == 0
    assert_as_uninterrupted(job, straight, read_history)
    manifest = json.loads((job.run / "model.json").read_text())
    registry = Registry(job.app, Settings.model_validate(CONTENT))
    version = registry.get("published")
    assert version.id == manifest["version"]
    assert {known.id for known in registry.list()} == {"first", version.id}
    assert version.reason == manifest["reason"]
    assert manifest["training_cases"] == json.loads((straight.run / "model.json").read_text())["training_cases"]


class StoppedError(Exception):
    """In place of a kill, where a process of its own would tell no more."""


@pytest.fixture
def go_on(studies, tiny, tmp_path):
    """A training that was stopped in its second epoch; the given function goes on with it, perhaps otherwise."""
    copied = shutil.copytree(studies, tmp_path / "studies")

    def run(resume=True, files=None, others=None, on_epoch=None, **recipe):
        settings = tiny(others, **({"max_epochs": 3, "slices_per_case": 4} | recipe))
        cases = find_cases(labelled_images(copied)) if files is None else files
        return run_training(cases, settings, tmp_path / "run", CPU, start=None, resume=resume, on_epoch=on_epoch)

    def stop(row):
        if row["epoch"] == 2:
            raise StoppedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lib.training.history.draw_curves", lambda _: Figure(figsize=(0.5, 0.5)))
        with pytest.raises(StoppedError):
            run(resume=False, on_epoch=stop)
        yield run


def change_label(studies, name):
    path = studies / "labels" / "final" / f"{name}.nii.gz"
    label = read_label(path)
    array = np.array(label.array)
    array[20, 24, 9] = 1
    write_label(path, Volume(array, label.affine))


def test_every_row_is_told_and_the_version_stays(go_on, tmp_path):
    version = torch.load(tmp_path / "run" / STATE_FILE, weights_only=True)["version"]
    rows = []
    outcome = go_on(on_epoch=rows.append)
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3]
    assert rows == outcome.fit.rows
    assert outcome.version == version
    assert not (tmp_path / "run" / STATE_FILE).exists()


def test_other_threads_and_another_gate_do_not_matter(go_on):
    assert go_on(threads=2, gate={"minimum_gain": 0.5}, patient_pattern="x").fit.rows[-1]["epoch"] == 3


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"learning_rate": 0.02}, "training.learning_rate was 0.01 when it began and is 0.02 now"),
        ({"max_epochs": 9}, "training.max_epochs was 3 when it began and is 9 now"),
        ({"others": {"synthetic_tumors": {"probability": 0.5}}},
         "synthetic_tumors.probability was 0.0 when it began and is 0.5 now"),
        ({"others": {"channels": ["liver"]}},
         "channels was ['liver', 'custom', 'histogram'] when it began and is ['liver'] now"),
    ],
)  # fmt: skip
def test_other_settings_are_refused(go_on, tmp_path, changed, why):
    before = (tmp_path / "run" / STATE_FILE).read_bytes()
    with pytest.raises(BadInputError) as refusal:
        go_on(**changed)
    assert str(refusal.value) == f"the training run can't go on, since {why}; start a new one"
    assert (tmp_path / "run" / STATE_FILE).read_bytes() == before
    assert go_on().fit.rows[-1]["epoch"] == 3


def test_another_label_is_refused(go_on, tmp_path):
    change_label(tmp_path / "studies", "case_1")
    with pytest.raises(
        BadInputError, match=r"^the training run can't go on, since the label of case_1 has changed; start a new one$"
    ):
        go_on()


def test_other_cases_are_refused(go_on, tmp_path, make_files):
    files = find_cases(labelled_images(tmp_path / "studies"))
    with pytest.raises(BadInputError, match=r"since case_3 was among its cases and is not now; start a new one$"):
        go_on(files=files[:3])
    with pytest.raises(BadInputError, match=r"since case_9 was not among its cases and is now; start a new one$"):
        go_on(files=[*files, make_files(tmp_path / "studies", "case_9", 9)])


def test_what_can_not_be_decoded_any_more_is_not_left_out_silently(go_on, monkeypatch):
    original = cache_module.decode_case

    def decode(files, *others):
        if files.name == "case_2":
            raise BadInputError("case_2 is damaged")
        return original(files, *others)

    monkeypatch.setattr(cache_module, "decode_case", decode)
    with pytest.raises(BadInputError, match="since not the same cases can be decoded as when it began"):
        go_on()


def test_left_overs_are_removed_and_nothing_else(go_on, tmp_path):
    run = tmp_path / "run"
    (run / "cache-x").mkdir()
    (run / "cache-x" / "case_0.image.npy").write_bytes(b"decoded")
    (run / ".writing-0-state.pt").write_bytes(b"half")
    (run / "notes.txt").write_text("mine")
    go_on()
    assert not list(run.glob("cache-*")) + list(run.glob(".writing-*"))
    assert (run / "notes.txt").read_text() == "mine"


def test_a_training_that_still_runs_is_left_alone(go_on, tmp_path):
    (tmp_path / "run" / "cache-x").mkdir()
    with (
        alone_in(tmp_path / "run"),
        pytest.raises(BusyError, match=r"^the training in .*run is still running; wait for its end or stop it$"),
    ):
        go_on()
    assert (tmp_path / "run" / "cache-x").is_dir()


def test_nothing_to_go_on_with(go_on, tmp_path):
    go_on()
    with pytest.raises(NotFoundError, match=r"^there is no interrupted training in .*run: it has no state\.pt, since"):
        go_on()
    assert (tmp_path / "run" / "model.pt").is_file()
