import json
import logging

import numpy as np
import openvino as ov
import pytest
import torch

from lib.errors import BadInputError
from lib.inference.choice import weights_digest
from lib.inference.int8 import accepted_int8, quantize
from lib.inference.model import Model, load_model, new_network
from lib.inference.openvino_engine import converted
from lib.labels import NOT_LOOKED_AT
from lib.training.cases import CaseFiles
from lib.training.comparison import Comparison, Figures, GateReport
from lib.training.int8 import Verdict, calibration_slices, decide, offer_int8
from lib.training.registry import Registry
from lib.training.run import run_training
from lib.volume import Volume
from lib.volume_io import read_label, write_label

pytestmark = pytest.mark.usefixtures("quick_curves")
CPU = torch.device("cpu")
ALIKE = {"liver": 0.999, "tumor": 0.98}


def report_of(*cases, left_out=None):
    """A report of cases `(liver in int8, tumor in int8, liver before, tumor before)`."""

    def figures(liver, tumor):
        return Figures({"liver": liver, "tumor": tumor}, {"liver": 0.0, "tumor": 0.0})

    compared = [Comparison(f"case_{n}", figures(*case[:2]), figures(*case[2:])) for n, case in enumerate(cases)]
    return GateReport("v", "v", tuple(compared), left_out or {})


def test_what_loses_nothing_is_accepted():
    assert decide(report_of(*[(0.951, 0.7, 0.95, 0.7)] * 3), ALIKE) == Verdict(
        True, "liver Dice 0.9510 instead of 0.9500, tumor Dice 0.7000 instead of 0.7000 on 3 validation cases"
    )


def test_a_class_that_loses_as_much_as_the_limit_is_refused():
    assert decide(report_of(*[(0.95, 0.7005, 0.951, 0.7025)] * 4), ALIKE) == Verdict(
        False,
        "tumor Dice falls by 0.0020, where less than 0.002 is allowed: liver Dice 0.9500 instead of 0.9510, tumor Dice "
        "0.7005 instead of 0.7025 on 4 validation cases",
    )
    assert decide(report_of(*[(0.95, 0.7006, 0.951, 0.7025)] * 4), ALIKE).accepted


def test_labels_that_are_quite_others_are_refused_as_good_as_they_are():
    assert decide(report_of(*[(0.96, 0.71, 0.95, 0.7)] * 3), {"liver": 0.999, "tumor": 0.9799}) == Verdict(
        False,
        "its labels are others (Dice with those without int8: tumor 0.9799; 0.98 is needed): liver Dice 0.9600 instead "
        "of 0.9500, tumor Dice 0.7100 instead of 0.7000 on 3 validation cases",
    )


def test_the_mean_over_the_cases_counts():
    assert decide(report_of((0.9, 0.5, 0.9, 0.6), (0.9, 0.7, 0.9, 0.6), (0.9, 0.6, 0.9, 0.6)), ALIKE).accepted
    assert not decide(report_of((0.9, 0.5, 0.9, 0.6), (0.9, 0.69, 0.9, 0.6), (0.9, 0.6, 0.9, 0.6)), ALIKE).accepted


def test_too_few_that_could_be_segmented():
    assert decide(report_of((0.9, 0.5, 0.9, 0.5), left_out={"a": "gone", "b": "gone"}), ALIKE) == Verdict(
        False, "only 1 of the validation cases could be segmented, 3 are needed"
    )


# Real networks


@pytest.fixture(autouse=True)
def any_cpu(monkeypatch, tmp_path):
    monkeypatch.setattr("lib.inference.choice.has_fast_int8", lambda: True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def files(make_files, tmp_path_factory):
    """Three cases to train on and three to validate with."""
    folder = tmp_path_factory.mktemp("six")
    made = [make_files(folder, f"case_{seed}", seed) for seed in range(6)]
    return [CaseFiles(f.image, f.label, "training" if n < 3 else "validation") for n, f in enumerate(made)]


@pytest.fixture(scope="module")
def settings(tiny):
    return tiny({"inference": {"precision": "auto", "engine": "openvino", "int8": True}}, max_epochs=6)


@pytest.fixture(scope="module")
def app(files, settings, tmp_path_factory):
    """An app folder after a training that published a model, and what came of it."""
    folder = tmp_path_factory.mktemp("app")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lib.inference.choice.has_fast_int8", lambda: True)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        doing = []
        outcome = run_training(
            files, settings, folder / "run", CPU, start=None, registry=Registry(folder, settings), on_int8=doing.append
        )
    assert outcome.published
    return folder, outcome, doing


@pytest.fixture
def model(app, settings):
    folder, outcome, _ = app
    return load_model(settings, folder / "model" / "versions" / outcome.version / "model.pt", CPU)


def test_a_published_model_is_offered_in_int8(app, settings):
    folder, outcome, doing = app
    assert doing == ["calibrating", *(f"validation case {number}/3" for number in (1, 2, 3))]
    version = folder / "model" / "versions" / outcome.version
    kept = json.loads((version / "int8.json").read_text())
    falls = [
        np.mean([case["before"][name] - case["int8"][name] for case in kept["validation"]])
        for name in ("liver", "tumor")
    ]
    assert set(kept["agreement"]) == {"liver", "tumor"}
    alike = all(dice >= 0.98 for dice in kept["agreement"].values())
    assert kept["accepted"] == (alike and all(fall < 0.002 for fall in falls))
    assert outcome.int8 == f"{'accepted' if kept['accepted'] else 'not used'}: {kept['reason']}"
    assert [case["name"] for case in kept["validation"]] == ["case_3", "case_4", "case_5"]
    assert kept["calibration"]["cases"] == ["case_0", "case_1", "case_2"]
    assert set(kept["software"]) == {"nncf", "openvino"}
    model = load_model(settings, folder / "model" / "liver_tumor.pt", CPU)
    assert model.folder == version
    assert (accepted_int8(version, weights_digest(model.network), "v") is not None) == kept["accepted"]


def test_a_network_that_int8_spoils_is_refused_and_leaves_no_files(model, files, settings, monkeypatch):
    spoiled = new_network(settings).eval()
    monkeypatch.setattr("lib.training.int8.quantize", lambda _, *rest: quantize(spoiled, *rest))
    verdict = offer_int8(model, files[:3], files[3:], settings)
    assert not verdict.accepted
    assert "liver Dice falls by 0." in verdict.reason
    assert ", where less than 0.002 is allowed: its labels are others (Dice with those without int8: " in verdict.reason
    assert {path.name for path in model.folder.iterdir()} == {"int8.json", "manifest.json", "model.pt", "report.html"}
    assert json.loads((model.folder / "int8.json").read_text())["accepted"] is False


def test_labels_that_stay_the_same_are_accepted_and_used(model, files, settings, monkeypatch):
    def leave(network, channels, _, path):
        ov.save_model(converted(network, len(channels))[0], path, compress_to_fp16=False)

    monkeypatch.setattr("lib.training.int8.quantize", leave)
    verdict = offer_int8(model, files[:3], files[3:], settings)
    assert verdict.accepted, verdict
    assert accepted_int8(model.folder, weights_digest(model.network), "v").path == model.folder / "int8.xml"


def test_too_few_validation_cases_are_refused_at_once(model, files, settings):
    doing = []
    assert offer_int8(model, files[:4], files[4:], settings, doing.append) == Verdict(
        False, "too few validation cases (2) to judge it on, 3 are needed"
    )
    assert not doing


def test_where_it_can_not_be_made(model, files, settings):
    off = settings.model_copy(update={"inference": settings.inference.model_copy(update={"int8": False})})
    with pytest.raises(BadInputError, match=r"there is no int8 to be had here: inference.int8 is false"):
        offer_int8(model, files[:3], files[3:], off)
    with pytest.raises(BadInputError, match="model v belongs to no app folder that could keep its int8 files"):
        offer_int8(Model(model.network, "v"), files[:3], files[3:], settings)


def test_a_failure_never_fails_the_training(files, settings, tmp_path, monkeypatch, caplog):
    def fail(*_):
        msg = "no such\noperation"
        raise RuntimeError(msg)

    monkeypatch.setattr("lib.training.int8.quantize", fail)
    registry = Registry(tmp_path, settings)
    quick = settings.model_copy(update={"training": settings.training.model_copy(update={"max_epochs": 1})})
    outcome = run_training(files, quick, tmp_path / "run", CPU, start=None, registry=registry)
    assert (outcome.published, outcome.int8) == (True, "failed: no such operation")
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == [
        f"model {outcome.version} can't be quantized and runs without int8: no such operation"
    ]
    assert not (tmp_path / "model" / "versions" / outcome.version / "int8.json").exists()


def test_switched_off_nothing_is_made(files, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("lib.training.int8.offer_int8", None)
    settings = tiny(max_epochs=1)
    outcome = run_training(files, settings, tmp_path / "run", CPU, start=None, registry=Registry(tmp_path, settings))
    assert (outcome.published, outcome.int8) == (True, None)


def test_calibration_slices_are_those_with_labels_around_the_label(files, settings):
    slices = calibration_slices(files[:3], settings)
    assert len(slices) == 3 * 6  # the liver is in 6 of 10 slices
    for hu, levels in slices:
        assert (hu.dtype, levels.shape) == (np.int16, (1, 102))
        assert len(hu) == 1
        assert not np.array(hu.shape[1:]) % 16 @ [1, 1]
    assert {hu.shape for hu, _ in slices} == {(1, 48, 48), (1, 32, 32)}  # whole slices here, and two in one pixel


@pytest.mark.parametrize("count", [13, 25, 60])
def test_many_cases_give_slices_of_all_sizes_from_the_middle_of_their_labels(files, settings, count):
    many = [files[number % 3] for number in range(count)]
    slices = calibration_slices(many, settings)
    assert len(slices) == min(count, 48) * (48 // min(count, 48))
    small = sum(hu.shape == (1, 32, 32) for hu, _ in slices)
    assert small == len(slices) // 4


def test_what_nobody_looked_at_and_what_is_gone_is_not_calibrated_with(make_files, settings, tmp_path, caplog):
    partly, gone = make_files(tmp_path, "partly", 1), make_files(tmp_path, "gone", 2)
    label = read_label(partly.label)
    seen = label.array.copy()
    seen[:, :, :4] = NOT_LOOKED_AT
    write_label(partly.label, Volume(seen, label.affine))
    gone.image.unlink()
    assert len(calibration_slices([gone, partly], settings)) == 4
    assert "gone is left out of the calibration: " in caplog.text
    with pytest.raises(BadInputError, match="none of the 1 training cases can be read to calibrate with"):
        calibration_slices([gone], settings)
