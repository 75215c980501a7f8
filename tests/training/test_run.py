import json
import logging

import numpy as np
import pytest
import torch

from lib import supervision
from lib.errors import BadInputError, GoneError, ModelError
from lib.inference.model import load_model, new_network
from lib.store.studies import labelled_images
from lib.training.cases import find_cases, split_cases
from lib.training.publish import describe, publish
from lib.training.registry import Registry
from lib.training.run import run_training
from lib.volume import Volume
from lib.volume_io import read_label, write_label

pytestmark = pytest.mark.usefixtures("quick_curves")
CPU = torch.device("cpu")


@pytest.fixture
def train(studies, tiny, tmp_path):
    """Runs a training of one epoch; keyword arguments are those of `run_training`."""

    def run(name="run", recipe=None, **options):
        settings = tiny(**({"max_epochs": 1, "slices_per_case": 4} | (recipe or {})))
        chosen = {"start": None, "registry": Registry(tmp_path, settings)} | options
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
    assert (manifest["gate"], outcome.gate) == (None, None)
    assert load_model(settings, tmp_path / "run" / "model.pt", CPU).version == outcome.version
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "best.pt", "curves.png", "events", "history.csv", "last.pt", "model.json", "model.pt", "preflight.json",
        "report.html",
    }  # fmt: skip


def test_every_training_has_a_version_of_its_own(train):
    assert train("a")[1].version != train("b")[1].version


def test_nothing_is_published_once_its_server_has_ended(train, tmp_path, monkeypatch):
    monkeypatch.setattr(supervision, "_parent", 1 << 30)  # as after the end of the process that it worked for
    with pytest.raises(GoneError, match=r"so that nothing is published; start it again, or resume it$"):
        train()
    assert not (tmp_path / "model" / "liver_tumor.pt").exists()
    monkeypatch.undo()
    assert train(resume=True)[1].published


def test_a_worse_model_is_kept_aside(train, tmp_path):
    settings, good = train("good", recipe={"max_epochs": 6, "slices_per_case": 8})
    published = tmp_path / "model" / "liver_tumor.pt"
    before = published.read_bytes()
    _, bad = train("bad", recipe={"learning_rate": 1e-12, "minimum_learning_rate": 0, "slices_per_case": 8})
    assert not bad.published
    assert bad.reason.startswith("worse than the published model and liver Dice falls by 0.")
    liver = bad.gate.classes["liver"]
    assert f"liver {liver.candidate:.3f} against {liver.published:.3f}" in bad.reason
    assert bad.gate.published == good.version
    assert published.read_bytes() == before
    assert load_model(settings, tmp_path / "bad" / "model.pt", CPU).version == bad.version
    kept = json.loads((tmp_path / "bad" / "model.json").read_text())
    assert (kept["reason"], kept["gate"]) == (bad.reason, bad.gate.short())
    written = json.loads((tmp_path / "bad" / "gate.json").read_text())
    assert written["decision"] == {"publish": False, "reason": bad.reason}
    page = (tmp_path / "bad" / "report.html").read_text()
    assert "Kept, not published: annotators still get the model that they had." in page
    assert bad.reason[1:] in page
    assert page.count('<img src="data:image/png') >= 4
    assert (tmp_path / "model" / "versions" / bad.version / "report.html").read_text() == page


def test_a_better_model_takes_the_place_of_the_published_one(train, tmp_path):
    hardly = {"learning_rate": 1e-12, "minimum_learning_rate": 0, "slices_per_case": 8}
    _, bad = train("bad", recipe=hardly)
    published = tmp_path / "model" / "liver_tumor.pt"
    seen = []
    settings, good = train(
        "good",
        recipe={"max_epochs": 6, "slices_per_case": 8},
        on_comparison=lambda *given: seen.append(given),
    )
    assert good.published
    assert good.reason.startswith("tumor Dice ")
    assert good.gate.overall.difference > 0.1
    assert good.gate.published == bad.version
    assert load_model(settings, published, CPU).version == good.version
    assert seen == [(1, 2), (2, 2)]


def test_going_on_from_the_model_in_force_without_a_gain_changes_nothing(train, tmp_path):
    _, first = train("first")
    published = tmp_path / "model" / "liver_tumor.pt"
    before = published.read_bytes()
    _, second = train("second", recipe={"max_epochs": 1, "learning_rate": 1}, start=published)
    assert second.fit.rows[0]["dice_liver"] == pytest.approx(
        first.fit.rows[first.fit.best_epoch]["dice_liver"], abs=1e-6
    )
    assert second.fit.best_epoch == 0  # such a learning rate destroys the weights
    assert not second.published
    assert second.reason == "the training found nothing better than the published model's own weights"
    assert published.read_bytes() == before
    kept = json.loads((tmp_path / "second" / "model.json").read_text())
    assert (kept["started_from"], kept["gate"]) == ("liver_tumor.pt", None)
    assert not (tmp_path / "second" / "gate.json").exists()


def test_not_asked_to_publish(train, tmp_path):
    _, outcome = train(may_publish=False)
    assert not outcome.published
    assert outcome.reason.startswith("not asked to publish; validation Dice ")
    assert not (tmp_path / "model" / "liver_tumor.pt").exists()
    assert (tmp_path / "run" / "model.pt").is_file()
    assert (tmp_path / "model" / "versions" / outcome.version / "model.pt").is_file()


def test_not_asked_to_publish_what_would_be_better(train, tmp_path):
    published = tmp_path / "model" / "liver_tumor.pt"
    train("bad", recipe={"learning_rate": 1e-12, "minimum_learning_rate": 0})
    before = published.read_bytes()
    _, good = train("good", recipe={"max_epochs": 6, "slices_per_case": 8}, may_publish=False)
    assert not good.published
    assert good.reason.startswith("not asked to publish; tumor Dice ")
    assert published.read_bytes() == before


def test_no_validation_case_can_be_compared(train, tmp_path, monkeypatch):
    def refuse(*_):
        raise BadInputError("the file is empty")

    train("first")
    published = tmp_path / "model" / "liver_tumor.pt"
    before = published.read_bytes()
    monkeypatch.setattr("lib.training.gate.read_image", refuse)
    _, outcome = train("second", recipe={"max_epochs": 6, "slices_per_case": 8})
    assert not outcome.published
    assert outcome.reason.startswith("none of the 2 validation cases could be compared; left out: case_")
    assert published.read_bytes() == before


def test_a_model_in_force_of_another_network_does_not_stop_a_new_one(train, tiny, tmp_path, caplog):
    other = tiny({"network": {"arguments": {"filters": [4] * 5}}})
    publish(tmp_path / "model" / "liver_tumor.pt", new_network(other), describe(other, "old"))
    with caplog.at_level(logging.WARNING):
        _, outcome = train()
    assert outcome.published
    assert outcome.reason == (
        f"validation Dice {outcome.fit.best_score:.4f}; the model in force is damaged or was made for other labels, "
        "windows or another network and can't be compared"
    )
    assert "the model in force can't be compared: the weights in" in caplog.text


def test_start_weights_that_do_not_fit(train, tmp_path):
    torch.save({"x": torch.zeros(1)}, tmp_path / "x.pt")
    with pytest.raises(ModelError, match="do not fit MulticlassUNet"):
        train(start=tmp_path / "x.pt")


def test_no_labelled_case(tiny, tmp_path):
    with pytest.raises(BadInputError, match="no labelled cases to train on; submit at least one"):
        run_training([], tiny(), tmp_path / "run", CPU, start=None)
    assert not (tmp_path / "run").exists()


def test_a_single_case_is_trained_on_without_validation(tiny, make_files, tmp_path):
    files = [make_files(tmp_path / "one", "only", 0)]
    outcome = run_training(
        files, tiny(max_epochs=1, slices_per_case=4), tmp_path / "run", CPU,
        start=None, registry=Registry(tmp_path, tiny()),
    )  # fmt: skip
    assert outcome.published
    assert outcome.reason == "no validation cases; there is no model in force to compare it with"


def test_labels_without_any_class_are_refused(tiny, make_files, tmp_path):
    files = make_files(tmp_path / "empty", "nothing", 0)
    label = read_label(files.label)
    write_label(files.label, Volume(np.zeros_like(label.array), label.affine))
    with pytest.raises(BadInputError, match=r"^no labelled case shows a liver or a tumor, so livers and tumors can't"):
        run_training([files], tiny(), tmp_path / "run", CPU, start=None, registry=Registry(tmp_path, tiny()))
    assert not (tmp_path / "model").exists()


def test_what_was_found_before_the_start_is_logged_and_kept(train, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        train()
    found = json.loads((tmp_path / "run" / "preflight.json").read_text())
    assert sorted(case["name"] for case in found["cases"]) == ["case_0", "case_1", "case_2", "case_3"]
    assert "time: about " in caplog.text
    assert "warning: 4 patients are labelled" in caplog.text


def test_broken_cases_are_left_out_and_the_others_trained_on(tiny, make_files, tmp_path, caplog):
    files = [make_files(tmp_path / "some", f"case_{number}", number) for number in range(4)]
    files[1].label.write_bytes(b"")
    write_label(files[2].image, read_label(files[2].label))  # a good header, but no CT behind it
    settings = tiny(max_epochs=1, slices_per_case=4, validation_fraction=0)
    with caplog.at_level(logging.INFO):
        run_training(files, settings, tmp_path / "run", CPU, start=None)
    assert list(json.loads((tmp_path / "run" / "preflight.json").read_text())["left_out"]) == ["case_1"]
    assert "left out: case_1: case_1.nii.gz: the file is empty" in caplog.text
    assert "case_2 is left out: case_2.nii.gz: values run from 0 to 2, which is not a CT" in caplog.text
    manifest = json.loads((tmp_path / "run" / "model.json").read_text())
    assert manifest["training_cases"] == ["case_0", "case_3"]


def test_no_case_can_be_decoded(tiny, make_files, tmp_path):
    file = make_files(tmp_path / "one", "only", 0)
    write_label(tmp_path / "one" / "only.nii.gz", read_label(file.label))  # a good header, but no CT behind it
    with pytest.raises(
        BadInputError, match=r"^none of the 1 training cases can be used: only\.nii\.gz: values run from"
    ):
        run_training([file], tiny(), tmp_path / "run", CPU, start=None)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Failed: there is no new model." in page
    assert "None of the 1 training cases can be used: only.nii.gz: values run from" in page
