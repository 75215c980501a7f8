import json
import logging

import numpy as np
import pytest
import torch

from lib.errors import BadInputError, ModelError
from lib.inference.model import load_model, new_network
from lib.store.studies import labelled_images
from lib.training.cases import find_cases, split_cases
from lib.training.publish import describe, publish
from lib.training.run import decide, run_training
from lib.volume import Volume
from lib.volume_io import read_label, write_label

pytestmark = pytest.mark.usefixtures("quick_curves")
CPU = torch.device("cpu")


@pytest.fixture
def train(studies, tiny, tmp_path):
    """Runs a training of one epoch; keyword arguments are those of `run_training`."""

    def run(name="run", recipe=None, **options):
        settings = tiny(**({"max_epochs": 1, "slices_per_case": 4} | (recipe or {})))
        chosen = {"start": None, "in_force": None, "publish_to": tmp_path / "model" / "liver_tumor.pt"} | options
        files = find_cases(labelled_images(studies))
        return settings, run_training(files, settings, tmp_path / name, CPU, **chosen)

    return run


def test_the_first_model_is_published_with_its_manifest(train, studies, tmp_path):
    settings, outcome = train()
    assert outcome.published
    assert (
        outcome.reason == f"validation Dice {outcome.fit.best_score:.4f}; there is no model in force to compare it with"
    )
    model = load_model(settings, tmp_path / "model" / "liver_tumor.pt", CPU)
    assert model.version == outcome.version
    manifest = json.loads((tmp_path / "model" / "liver_tumor.json").read_text())
    training, validation = split_cases(find_cases(labelled_images(studies)), settings.training.validation_fraction)
    assert manifest["training_cases"] == [case.name for case in training]
    assert manifest["validation_cases"] == [case.name for case in validation]
    assert manifest["validation_dice"] == outcome.fit.best_score
    assert manifest["recipe"]["patch_size"] == 32
    assert load_model(settings, tmp_path / "run" / "model.pt", CPU).version == outcome.version
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "best.pt", "curves.png", "events", "history.csv", "last.pt", "model.json", "model.pt",
    }  # fmt: skip


def test_every_training_has_a_version_of_its_own(train):
    assert train("a")[1].version != train("b")[1].version


def test_a_worse_model_is_kept_aside(train, tmp_path):
    settings, good = train("good", recipe={"max_epochs": 6, "slices_per_case": 8})
    published = tmp_path / "model" / "liver_tumor.pt"
    before = published.read_bytes()
    _, bad = train(
        "bad", recipe={"learning_rate": 1e-12, "minimum_learning_rate": 0, "slices_per_case": 8}, in_force=published
    )
    assert not bad.published
    assert bad.reason == (
        f"validation Dice {bad.fit.best_score:.4f} is below {good.fit.best_score:.4f} of the model in force"
    )
    assert published.read_bytes() == before
    assert load_model(settings, tmp_path / "bad" / "model.pt", CPU).version == bad.version


def test_going_on_from_the_model_in_force_is_never_worse(train, tmp_path):
    _, first = train("first")
    published = tmp_path / "model" / "liver_tumor.pt"
    _, second = train("second", start=published, in_force=published)
    assert second.fit.rows[0]["dice_liver"] == pytest.approx(
        first.fit.rows[first.fit.best_epoch]["dice_liver"], abs=1e-6
    )
    assert second.published
    assert json.loads(published.with_suffix(".json").read_text())["started_from"] == "liver_tumor.pt"


def test_not_asked_to_publish(train, tmp_path):
    _, outcome = train(publish_to=None)
    assert not outcome.published
    assert outcome.reason.startswith("not asked to publish; validation Dice ")
    assert not (tmp_path / "model").exists()
    assert (tmp_path / "run" / "model.pt").is_file()


def test_a_model_in_force_of_another_network_does_not_stop_a_new_one(train, tiny, tmp_path, caplog):
    other = tiny({"network": {"arguments": {"filters": [4] * 5}}})
    publish(tmp_path / "old.pt", new_network(other), describe(other, "old"))
    with caplog.at_level(logging.WARNING):
        _, outcome = train(in_force=tmp_path / "old.pt")
    assert outcome.published
    assert "the model in force can't be compared: the weights in" in caplog.text


def test_start_weights_that_do_not_fit(train, tmp_path):
    torch.save({"x": torch.zeros(1)}, tmp_path / "x.pt")
    with pytest.raises(ModelError, match="do not fit MulticlassUNet"):
        train(start=tmp_path / "x.pt")


def test_no_labelled_case(tiny, tmp_path):
    with pytest.raises(BadInputError, match="no labelled cases to train on; submit at least one"):
        run_training([], tiny(), tmp_path / "run", CPU, start=None, in_force=None, publish_to=None)
    assert not (tmp_path / "run").exists()


def test_a_single_case_is_trained_on_without_validation(tiny, make_files, tmp_path):
    files = [make_files(tmp_path / "one", "only", 0)]
    outcome = run_training(
        files, tiny(max_epochs=1, slices_per_case=4), tmp_path / "run", CPU,
        start=None, in_force=tmp_path / "none.pt", publish_to=tmp_path / "m.pt",
    )  # fmt: skip
    assert outcome.published
    assert outcome.reason.startswith("no validation case with any class to compare on")


def test_labels_without_any_class_are_refused(tiny, make_files, tmp_path):
    files = make_files(tmp_path / "empty", "nothing", 0)
    label = read_label(files.label)
    write_label(files.label, Volume(np.zeros_like(label.array), label.affine))
    with pytest.raises(
        BadInputError, match=r"^no label of the 1 training cases holds liver or tumor; nothing to learn$"
    ):
        run_training(
            [files], tiny(), tmp_path / "run", CPU, start=None, in_force=None, publish_to=tmp_path / "model.pt"
        )
    assert not (tmp_path / "model.pt").exists()


def test_decisions_and_their_reasons():
    assert decide(0.8, 0.8) == (True, "validation Dice 0.8000 against 0.8000 of the model in force")
    assert decide(0.7999, 0.8) == (False, "validation Dice 0.7999 is below 0.8000 of the model in force")
    assert decide(0.1, None)[0]
    assert decide(None, 0.9)[0]
