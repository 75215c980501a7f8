import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.errors import BadInputError, SettingsError, StorageError
from lib.inference.model import Model, load_model, new_network
from lib.inference.segment import segment
from lib.labels import NOT_LOOKED_AT
from lib.metrics.lesions import Detection
from lib.metrics.lits import evaluate_case
from lib.phantom import make_phantom
from lib.settings import GateSettings, load_settings
from lib.training.cases import CaseFiles
from lib.training.comparison import Comparison, Figures, GateReport, figures_of
from lib.training.gate import Decision, compare_models, decide, judge_on, same_weights
from lib.training.publish import describe, publish
from lib.training.registry import Registry
from lib.training.run import run_training
from lib.volume import Volume
from lib.volume_io import read_image, read_label, write_image, write_label

APP = Path(__file__).resolve().parents[2] / "apps" / "liver_tumor"
CPU = torch.device("cpu")
RULE = GateSettings()


# The rule, on numbers


def report_of(*cases, left_out=None, confidence=0.95):
    """A report of cases `(new liver, new tumor, old liver, old tumor[, new found, old found, lesions])`."""

    def figures(liver, tumor, found, lesions):
        detection = Detection(found, 0, lesions - found)
        return Figures({"liver": liver, "tumor": tumor}, {"liver": 0.0, "tumor": 0.0}, detection, detection)

    compared = []
    for number, case in enumerate(cases):
        new_liver, new_tumor, old_liver, old_tumor, new_found, old_found, lesions = (*case, 0, 0, 0)[:7]
        candidate = figures(new_liver, new_tumor, new_found, lesions)
        published = figures(old_liver, old_tumor, old_found, lesions)
        compared.append(Comparison(f"case_{number}", candidate, published))
    return GateReport("new", "old", tuple(compared), left_out or {}, confidence)


def turned(report):
    """The same comparison with the models exchanged."""
    cases = tuple(Comparison(case.name, case.published, case.candidate) for case in report.cases)
    return GateReport(report.published, report.candidate, cases, report.left_out, report.confidence, report.seed)


def test_a_better_model_is_published_and_the_reason_has_the_figures():
    report = report_of(*[(0.95, 0.61, 0.95, 0.52)] * 5)
    assert decide(report, RULE) == Decision(
        True,
        "tumor Dice 0.610 against 0.520 on 5 validation cases (difference +0.090, 95 % interval +0.090 to +0.090), "
        "liver 0.950 against 0.950",
    )


def test_lesions_and_the_spread_are_in_the_reason():
    report = report_of((0.9, 0.8, 0.9, 0.4, 3, 2, 4), (0.8, 0.5, 0.7, 0.5, 1, 1, 1))
    assert decide(report, RULE).reason == (
        "tumor Dice 0.650 against 0.450 on 2 validation cases (difference +0.200, 95 % interval +0.000 to +0.400), "
        "liver 0.850 against 0.800, 4 against 3 of 5 lesions found"
    )


def test_a_tie_leaves_the_published_model():
    decision = decide(report_of((0.9, 0.5, 0.9, 0.5), (0.8, 0.4, 0.8, 0.4)), RULE)
    assert not decision.publish
    assert decision.reason.startswith("no better than the published model: tumor Dice 0.450 against 0.450 on 2 ")


def test_differences_that_cancel_are_a_tie_whatever_the_rounding():
    report = report_of((0.1 + 0.2, 0.3, 0.3, 0.3), (0.3, 0.1 + 0.2, 0.3, 0.3))
    assert report.overall.difference > 0  # 0.1 + 0.2 is not 0.3 in binary
    assert decide(report, RULE).reason.startswith("no better than the published model: ")


def test_a_worse_model_is_not_published():
    decision = decide(report_of((0.895, 0.5, 0.9, 0.5)), RULE)
    assert decision == Decision(
        False,
        "worse than the published model: tumor Dice 0.500 against 0.500 on one validation case, which says little "
        "(difference +0.000), liver 0.895 against 0.900",
    )


def test_one_class_may_not_pay_for_another():
    decision = decide(report_of((0.85, 0.9, 0.9, 0.5), (0.9, 0.9, 0.9, 0.5)), RULE)
    assert not decision.publish
    assert decision.reason.startswith("liver Dice falls by 0.025, more than the 0.01 allowed: tumor Dice 0.900 against")
    assert decide(report_of((0.9, 0.9, 0.91, 0.5)), RULE).publish  # exactly the 0.01 allowed, rounding aside
    assert decide(report_of((0.85, 0.9, 0.9, 0.5)), GateSettings(most_loss=0.05)).publish


def test_lesions_may_not_get_lost():
    worse = report_of((0.9, 0.9, 0.9, 0.5, 1, 2, 4), (0.9, 0.9, 0.9, 0.5, 3, 3, 4))
    assert decide(worse, RULE) == Decision(
        False,
        "fewer lesions are found (4 of 8, before 5): tumor Dice 0.900 against 0.500 on 2 validation cases "
        "(difference +0.400, 95 % interval +0.400 to +0.400), liver 0.900 against 0.900, 4 against 5 of 8 "
        "lesions found",
    )
    assert decide(worse, GateSettings(most_recall_loss=0.125)).publish
    assert decide(report_of((0.9, 0.9, 0.9, 0.5, 18, 19, 20)), RULE).publish
    assert not decide(report_of((0.9, 0.9, 0.9, 0.5, 17, 18, 19)), RULE).publish


def test_every_objection_is_named():
    decision = decide(report_of((0.8, 0.4, 0.9, 0.5, 0, 1, 1)), RULE)
    assert decision.reason.startswith(
        "worse than the published model and liver Dice falls by 0.1, more than the 0.01 allowed and tumor Dice falls "
        "by 0.1, more than the 0.01 allowed and fewer lesions are found (0 of 1, before 1): tumor Dice"
    )
    assert decision.reason.endswith("0 against 1 of 1 lesion found")


def test_a_wanted_gain():
    report = report_of((0.9, 0.54, 0.9, 0.5))
    assert decide(report, GateSettings(minimum_gain=0.019)).publish
    decision = decide(report, GateSettings(minimum_gain=0.02))
    assert not decision.publish
    assert decision.reason.startswith(
        "the mean Dice changes by +0.02, not by more than the 0.02 asked for: tumor Dice 0.540 against 0.500"
    )


def test_a_gain_that_must_be_sure():
    unsure = report_of((0.9, 0.9, 0.9, 0.5), (0.9, 0.5, 0.9, 0.5), (0.9, 0.45, 0.9, 0.5))
    sure = report_of(*[(0.9, tumor, 0.9, 0.5) for tumor in (0.55, 0.6, 0.7)])
    rule = GateSettings(confidence=0.95)
    assert decide(unsure, RULE).publish
    assert decide(unsure, rule).reason.startswith(
        "the mean Dice changes by +0.0583, but perhaps only by -0.025, not surely by more than 0: tumor Dice"
    )
    assert decide(sure, rule).publish
    one = decide(report_of((0.9, 0.9, 0.9, 0.5)), rule)
    assert not one.publish
    assert one.reason.startswith(
        "one case can't show a gain with 95 % confidence: tumor Dice 0.900 against 0.500 on one"
    )


def test_cases_that_were_left_out_are_named():
    reasons = {f"case_{letter}": "the file is empty" for letter in "vwxyz"}
    decision = decide(report_of((0.9, 0.9, 0.9, 0.5), left_out=reasons), RULE)
    assert decision.publish
    assert decision.reason.endswith(
        "liver 0.900 against 0.900; left out: case_v (the file is empty), case_w (the file is empty), "
        "case_x (the file is empty) and 2 more"
    )
    assert decide(report_of(left_out={"a": "no such file"}), RULE) == Decision(
        False, "the only validation case could not be compared; left out: a (no such file)"
    )


@pytest.mark.parametrize("seed", range(40))
def test_never_both_ways_and_never_easier_with_a_stricter_rule(seed):
    rng = np.random.default_rng(seed)
    published = rng.uniform(0.3, 0.9, (rng.integers(1, 7), 2))
    candidate = np.clip(published + rng.normal(0.01, 0.05, published.shape), 0, 1)
    report = report_of(*[(*new, *old) for new, old in zip(candidate, published, strict=True)])
    back = turned(report)
    for name, paired in report.classes.items():
        assert back.classes[name].difference == -paired.difference
        assert back.classes[name].interval == pytest.approx((-paired.interval[1], -paired.interval[0]))
    published_now = decide(report, RULE).publish
    assert not (published_now and decide(back, RULE).publish)
    for stricter in ({"minimum_gain": 0.01}, {"most_loss": 0}, {"confidence": 0.95}):
        assert published_now or not decide(report, GateSettings(**stricter)).publish
    if published_now:
        assert (candidate - published).mean() > 0
        assert (candidate - published).mean(axis=0).min() >= -RULE.most_loss


def test_a_rule_whose_keys_are_all_commented_out_is_the_default(tmp_path):
    (tmp_path / "app.yaml").write_text("training:\n  gate:\n  # confidence: 0.95\n")
    assert load_settings(tmp_path / "app.yaml").training.gate == RULE


@pytest.mark.parametrize(("key", "value"), [("confidence", "95"), ("most_loss", "-0.1"), ("minimum_gain", "true")])
def test_a_rule_that_is_none(tmp_path, key, value):
    (tmp_path / "app.yaml").write_text("")
    with pytest.raises(SettingsError, match=rf"^--conf: training\.gate\.{key} = "):
        load_settings(tmp_path / "app.yaml", {f"training.gate.{key}": value})


# On volumes, with the starter weights


@pytest.fixture(scope="module")
def settings():
    overrides = {
        "inference.precision": "float32", "training.max_epochs": "1", "training.learning_rate": "1e-12",
        "training.minimum_learning_rate": "0", "training.patch_size": "32", "training.slices_per_case": "2",
        "training.validation_fraction": "0.4", "training.cross_validate_below": "0",
    }  # fmt: skip
    return load_settings(APP / "app.yaml", overrides)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    """Four small phantoms with labels."""
    folder = tmp_path_factory.mktemp("phantoms")
    files = []
    for seed in range(4):
        phantom = make_phantom(seed, shape=(96, 96, 12), tumors=3)
        files.append(CaseFiles(folder / f"phantom_{seed}.nii.gz", folder / "labels" / f"phantom_{seed}.nii.gz"))
        write_image(files[-1].image, phantom.image)
        write_label(files[-1].label, phantom.label)
    return files


@pytest.fixture(scope="module")
def starter(settings):
    return load_model(settings, APP / "starter.pt", CPU)


@pytest.fixture(scope="module")
def fresh(settings):
    """Untrained weights of the same network."""
    torch.manual_seed(0)
    return Model(new_network(settings).eval(), "fresh")


@pytest.fixture(scope="module")
def perturbed(settings):
    """The starter weights with noise in each tensor."""
    model = load_model(settings, APP / "starter.pt", CPU)
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in model.network.parameters():
            tensor += 0.4 * tensor.std(correction=0) * torch.randn_like(tensor)
    return Model(model.network, "perturbed")


@pytest.fixture(scope="module")
def against_fresh(starter, fresh, phantoms, settings):
    seen = []
    report = compare_models(starter, fresh, phantoms[:2], settings, lambda *given: seen.append(given))
    assert seen == [(1, 2), (2, 2)]
    return report


def test_trained_weights_pass_against_fresh_ones_and_not_the_other_way(against_fresh, starter):
    forth, back = decide(against_fresh, RULE), decide(turned(against_fresh), RULE)
    assert forth.publish
    assert not back.publish
    assert back.reason.startswith("worse than the published model and liver Dice falls by ")
    assert against_fresh.classes["liver"].difference > 0.5
    assert (against_fresh.candidate, against_fresh.published) == (starter.version, "fresh")


def test_perturbed_weights_do_not_pass(starter, perturbed, phantoms, settings):
    report = compare_models(perturbed, starter, phantoms[:2], settings)
    assert not decide(report, RULE).publish
    assert decide(turned(report), RULE).publish


def test_the_figures_are_those_of_what_annotators_get(against_fresh, starter, phantoms, settings):
    for case, files in zip(against_fresh.cases, phantoms, strict=False):
        label = read_label(files.label)
        shown = segment(read_image(files.image), starter, settings).label
        scores = evaluate_case(label.array, shown.array, label.spacing).as_dict()
        assert case.name == files.name
        assert case.candidate.dice["liver"] == pytest.approx(scores["liver_dice_per_case"])
        assert case.candidate.dice["tumor"] == pytest.approx(scores["lesion_dice_per_case"])
        assert case.candidate.found.true_positive == scores["lesions_detected_greater_zero"]
        assert case.candidate.volume_error_ml["liver"] == pytest.approx(
            scores["liver_ml_prediction"] - scores["liver_ml_reference"]
        )


def test_a_model_against_itself_gains_nothing(starter, phantoms, settings):
    report = compare_models(starter, starter, phantoms[:1], settings)
    assert report.overall.difference == 0
    assert report.overall.interval == (0, 0)
    assert decide(report, RULE).reason.startswith("no better than the published model: ")
    assert same_weights(starter.network, starter.network)


def test_same_weights(starter, fresh, perturbed, settings):
    again = load_model(settings, APP / "starter.pt", CPU).network
    assert same_weights(starter.network, again)
    assert not same_weights(starter.network, fresh.network)
    assert not same_weights(starter.network, perturbed.network)
    assert not same_weights(starter.network, torch.nn.Identity())
    one, other = torch.nn.BatchNorm2d(2), torch.nn.BatchNorm2d(2)
    assert same_weights(one, other)
    other.running_mean += 1  # what a training changes beside the parameters
    assert not same_weights(one, other)


def test_cases_that_can_not_be_compared_are_left_out_and_named(fresh, phantoms, settings, tmp_path, caplog):
    good = CaseFiles(tmp_path / "good.nii.gz", phantoms[0].label)
    shutil.copy(phantoms[0].image, good.image)
    (tmp_path / "empty.nii.gz").write_bytes(b"")
    label = read_label(phantoms[0].label)
    write_label(tmp_path / "five.nii.gz", Volume(label.array * np.uint8(5), label.affine))
    write_label(tmp_path / "moved.nii.gz", Volume(label.array, label.affine + np.eye(4)[:, 3:] @ np.ones((1, 4))))
    files = [
        good,
        CaseFiles(tmp_path / "empty.nii.gz", phantoms[0].label),
        CaseFiles(phantoms[1].image, tmp_path / "five.nii.gz"),
        CaseFiles(phantoms[2].image, tmp_path / "moved.nii.gz"),
        CaseFiles(tmp_path / "gone.nii.gz", phantoms[0].label),
    ]
    with caplog.at_level(logging.INFO, logger="lib.training.gate"):
        report = compare_models(fresh, fresh, files, settings)
    assert [case.name for case in report.cases] == ["good"]
    assert list(report.left_out) == ["empty", "phantom_1", "phantom_2", "gone"]
    assert report.left_out["empty"] == "empty.nii.gz: the file is empty"
    assert "comparing with the published model: case 2/5" in caplog.messages
    assert "empty is left out of the comparison: empty.nii.gz: the file is empty" in caplog.messages


def _partial(case, path, slices):
    label = read_label(case.label)
    array = label.array.copy()
    array[..., slices] = NOT_LOOKED_AT
    write_label(path, Volume(array, label.affine))
    return CaseFiles(case.image, path)


def test_a_case_is_judged_by_the_slices_that_were_looked_at(starter, phantoms, settings, tmp_path):
    case = _partial(phantoms[0], tmp_path / "partly.nii.gz", slice(4, None))
    image, label = read_image(case.image), read_label(phantoms[0].label)
    segmented = segment(image, starter, settings).label
    seen = (volume.array[..., :4] for volume in (label, segmented))
    assert judge_on(case, starter, settings) == figures_of(*seen, image.voxel_ml, settings.label_indices())
    with pytest.raises(BadInputError, match=r"^no slice of the label was looked at, so it says nothing; "):
        judge_on(_partial(phantoms[0], tmp_path / "unseen.nii.gz", slice(None)), starter, settings)


@pytest.mark.parametrize("error", [MemoryError(), StorageError("the disk is gone"), OSError(5, "Input/output error")])
def test_what_goes_wrong_with_one_case_does_not_end_the_training(fresh, phantoms, settings, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("lib.training.gate.segment", fail)
    report = compare_models(fresh, fresh, phantoms[:2], settings)
    assert set(report.left_out) == {"phantom_0", "phantom_1"}
    assert report.left_out["phantom_0"] == (str(error) or "MemoryError")
    decision = decide(report, RULE)
    assert not decision.publish
    assert decision.reason.startswith("none of the 2 validation cases could be compared; left out: phantom_0 (")


def test_a_mistake_in_the_program_is_no_unreadable_case(fresh, phantoms, settings, monkeypatch):
    monkeypatch.setattr("lib.training.gate.segment", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        compare_models(fresh, fresh, phantoms[:1], settings)


# A whole training


@pytest.fixture
def train(phantoms, settings, tmp_path):
    """Runs a training that hardly changes its start weights; the published model is `in_force`."""

    def run(start, in_force):
        published = tmp_path / "model" / "liver_tumor.pt"
        publish(published, in_force.network, describe(settings, in_force.version))
        registry = Registry(tmp_path, settings)
        outcome = run_training(phantoms, settings, tmp_path / "run", CPU, start=start, registry=registry)
        return outcome, published, json.loads((tmp_path / "run" / "gate.json").read_text())

    return run


@pytest.mark.usefixtures("quick_curves")
def test_a_training_from_the_starter_replaces_fresh_weights(train, fresh, settings, caplog):
    with caplog.at_level(logging.INFO):
        outcome, published, written = train(APP / "starter.pt", fresh)
    assert outcome.published
    assert load_model(settings, published, CPU).version == outcome.version
    assert written["decision"] == {"publish": True, "reason": outcome.reason}
    assert written["rule"] == {"minimum_gain": 0, "most_loss": 0.01, "most_recall_loss": 0.05, "confidence": 0}
    assert (written["candidate"], written["published"]) == (outcome.version, "fresh")
    manifest = json.loads(published.with_suffix(".json").read_text())
    assert manifest["gate"] == outcome.gate.short()
    assert manifest["gate"]["cases"] == manifest["validation_cases"]
    assert manifest["reason"] == outcome.reason
    assert [case["name"] for case in written["cases"]] == manifest["validation_cases"]
    count = len(manifest["validation_cases"])
    assert f"comparing with the published model: case {count}/{count}" in caplog.messages
    assert all(line in caplog.messages for line in outcome.gate.as_table().splitlines())


@pytest.mark.usefixtures("quick_curves")
def test_fresh_weights_never_replace_the_starter(train, starter, settings, tmp_path):
    outcome, published, written = train(None, starter)
    assert not outcome.published
    assert outcome.reason.startswith("worse than the published model and liver Dice falls by ")
    assert written["decision"] == {"publish": False, "reason": outcome.reason}
    assert same_weights(load_model(settings, published, CPU).network, starter.network)
    kept = json.loads((tmp_path / "run" / "model.json").read_text())
    assert (kept["version"], kept["reason"]) == (outcome.version, outcome.reason)
