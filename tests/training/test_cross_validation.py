import json
import logging

import pytest
import torch

from lib.inference.model import Model, new_network
from lib.store.studies import labelled_images
from lib.training.cases import find_cases, split_cases
from lib.training.comparison import Comparison, Figures, GateReport
from lib.training.cross_validation import CrossValidation, Judged, cross_validate, decide_pooled
from lib.training.fit import FitResult
from lib.training.folds import Fold
from lib.training.judge import judge
from lib.training.publish import describe, publish
from lib.training.registry import Registry
from lib.training.run import run_training
from lib.training.state import STATE_FILE

pytestmark = pytest.mark.usefixtures("quick_curves")
CPU = torch.device("cpu")


def model(settings, version, seed=0):
    torch.manual_seed(seed)
    return Model(new_network(settings).eval(), version)


@pytest.fixture
def files(studies):
    return find_cases(labelled_images(studies))


class TestCrossValidate:
    @pytest.fixture
    def cross(self, tiny, files):
        """Cross-validates: case_0 is for validation, the others are left out in two networks."""
        settings = tiny()

        def run(published=True, known=(), cases=files, **options):
            folds = [Fold(model(settings, "new", 1), ["case_1"]), Fold(model(settings, "new", 2), ["case_2", "case_3"])]
            return cross_validate(
                model(settings, "new"), model(settings, "old", 3) if published else None, cases[:1], cases[1:], folds,
                set(known), settings, epochs=4, **options,
            )  # fmt: skip

        return run

    def test_each_case_is_judged_by_a_network_that_never_saw_it(self, cross):
        steps, seen = [], []
        found = cross(progress=lambda *step: steps.append(step), on_case=lambda case: seen.append(case.comparison.name))
        assert [(case.name, case.network) for case in found.judged] == [
            ("case_0", None), ("case_1", 1), ("case_2", 2), ("case_3", 2),
        ]  # fmt: skip
        assert (found.networks, found.epochs, found.left_out, found.known) == (2, 4, {}, ())
        assert [case.candidate for case in found.comparison.cases] == [case.figures for case in found.judged]
        assert (found.comparison.candidate, found.comparison.published) == ("new", "old")
        assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
        assert seen == ["case_0", "case_1", "case_2", "case_3"]

    def test_what_the_published_model_has_learned_from_does_not_count(self, cross):
        seen = []
        found = cross(known=["case_1", "case_3", "elsewhere"], on_case=lambda case: seen.append(case.comparison.name))
        assert [case.name for case in found.judged] == ["case_0", "case_1", "case_2", "case_3"]
        assert [case.name for case in found.comparison.cases] == seen == ["case_0", "case_2"]
        assert found.known == ("case_1", "case_3")
        told = {case["name"]: case["published"] for case in found.as_dict()["cases"]}
        assert [name for name, published in told.items() if published is None] == ["case_1", "case_3"]
        assert cross(known=[f"case_{number}" for number in range(4)]).comparison is None

    def test_nothing_to_compare_with(self, cross):
        found = cross(published=False)
        assert (found.comparison, found.known, len(found.judged)) == (None, (), 4)

    def test_a_case_that_can_not_be_read_is_left_out(self, cross, files, tmp_path, caplog):
        gone = [case if case.name != "case_2" else type(case)(case.image, tmp_path / "gone.nii.gz") for case in files]
        with caplog.at_level(logging.WARNING):
            found = cross(cases=gone)
        assert [case.name for case in found.judged] == [case.name for case in found.comparison.cases]
        assert list(found.left_out) == list(found.comparison.left_out) == ["case_2"]
        assert "case_2 is left out of the cross-validation: " in caplog.text
        assert not cross(cases=gone, known=["case_2"]).comparison.left_out


def figures(tumor, liver=0.9):
    return Figures({"liver": liver, "tumor": tumor}, {"liver": 0.0, "tumor": 0.0})


def found_of(judged, known=(), published=0.4):
    cases = tuple(Comparison(case.name, case.figures, figures(published)) for case in judged if case.name not in known)
    report = GateReport("new", "old", cases, {}) if cases else None
    return CrossValidation(5, 2, tuple(judged), {}, tuple(known), report)


class TestDecision:
    def test_validation_and_left_out_cases_decide_together(self, tiny):
        found = found_of([Judged("a", None, figures(0.5)), Judged("b", 1, figures(0.6)), Judged("c", 2, figures(0.7))])
        decision = decide_pooled(found, tiny())
        assert decision.publish
        assert decision.reason.startswith("tumor Dice 0.600 against 0.400 on 3 cases (difference +0.200, 95 % interval")
        assert decision.reason.endswith("; 2 of these in cross-validation, by networks trained without the patient")
        assert not decide_pooled(found_of(found.judged, published=0.9), tiny()).publish

    def test_known_cases_are_named(self, tiny):
        judged = [Judged("a", None, figures(0.5)), Judged("b", 1, figures(0.6)), Judged("c", 2, figures(0.1))]
        reason = decide_pooled(found_of(judged, ["b", "c"]), tiny()).reason
        assert reason.startswith("tumor Dice 0.500 against 0.400 on one case, which says little (difference +0.100)")
        assert reason.endswith("; b and c do not count, since the published model has learned from them")
        assert "cross-validation" not in reason

    def test_nothing_is_left_to_compare_on(self, tiny):
        decision = decide_pooled(found_of([Judged("b", 1, figures(0.25))], ["b"]), tiny())
        assert not decision.publish
        assert decision.reason == (
            "nothing to compare the models on; cross-validated Dice on one case: tumor 0.250 (0.250 to 0.250), liver "
            "0.900 (0.900 to 0.900); b does not count, since the published model has learned from it"
        )

    def test_figures_are_told_in_words_tables_and_numbers(self):
        found = found_of([Judged("a", None, figures(0.5)), Judged("b", 1, figures(0.7, 0.8))])
        assert (
            found.sentence()
            == "cross-validated Dice on 2 cases: tumor 0.600 (0.500 to 0.700), liver 0.850 (0.800 to 0.900)"
        )
        assert [line.split() for line in found.as_table().splitlines() if "-" not in line] == [
            ["case", "segmented", "by", "liver", "Dice", "tumor", "Dice"],
            ["a", "the", "new", "model", "0.900", "0.500"],
            ["b", "network", "1", "0.800", "0.700"],
            ["mean", "0.850", "0.600"],
        ]  # fmt: skip
        assert json.loads(json.dumps(found.as_dict()))["classes"]["tumor"] == {
            "mean": pytest.approx(0.6), "lowest": 0.5, "highest": 0.7,
        }  # fmt: skip
        nothing = CrossValidation(5, 2, (), {"a": "gone"}, (), None)
        assert nothing.sentence() == "no case could be judged in the cross-validation"
        assert nothing.as_table() == "no case could be judged\nleft out: a: gone"
        assert (nothing.dice, nothing.short()["lesions"]) == ({}, None)


class TestTraining:
    @pytest.fixture
    def train(self, tiny, files, tmp_path):
        """Runs a training of two epochs with four patients."""

        def run(name="run", recipe=None, **options):
            settings = tiny(**({"max_epochs": 2, "batch_size": 2, "cross_validate_below": 5} | (recipe or {})))
            chosen = {"start": None, "registry": Registry(tmp_path, settings)} | options
            return run_training(files, settings, tmp_path / name, CPU, **chosen)

        return run

    def test_few_patients_and_a_power_cut_in_the_cross_validation(self, train, files, tmp_path, caplog):
        class PowerCutError(BaseException):
            pass

        def cut(position):
            if position.network == 2:
                raise PowerCutError

        with pytest.raises(PowerCutError):
            train(on_fold=cut)
        assert {STATE_FILE, "start.pt"} <= {path.name for path in (tmp_path / "run").iterdir()}
        seen, steps = [], []
        with caplog.at_level(logging.INFO):
            outcome = train(resume=True, on_fold=seen.append, on_comparison=lambda *step: steps.append(step))
        training, validation = ([case.name for case in side] for side in split_cases(files, 0.3))
        assert outcome.published
        assert outcome.reason.startswith("cross-validated Dice on 4 cases: tumor ")
        assert outcome.reason.endswith("; there is no model in force to compare it with")
        found = json.loads((tmp_path / "run" / "cross_validation.json").read_text())
        assert {case["name"]: case["network"] for case in found["cases"]} == {
            **dict.fromkeys(validation), **{name: number for number, name in enumerate(training, start=1)},
        }  # fmt: skip
        # It begins anew, and has as many epochs as the model that is judged.
        assert [position.network for position in seen] == [n for n in (1, 2) for _ in range(found["epochs"] + 1)]
        assert found["epochs"] == outcome.fit.best_epoch
        assert steps == [(number, 4) for number in range(1, 5)]
        manifest = json.loads((tmp_path / "run" / "model.json").read_text())
        assert manifest["cross_validation"] == outcome.cross_validation.short()
        assert (manifest["training_cases"], manifest["gate"]) == (training, None)
        assert "too few for validation cases alone to tell how good the new model is" in caplog.text
        assert "<h2>Cross-validation</h2>" in (tmp_path / "run" / "report.html").read_text()
        left = {path.name for path in (tmp_path / "run").iterdir()}
        assert not left & {"start.pt", STATE_FILE}
        assert not [name for name in left if name.startswith("cache-")]

    def test_cases_that_the_published_model_has_learned_from_do_not_count(self, train, files, tiny, tmp_path, caplog):
        training, validation = ([case.name for case in side] for side in split_cases(files, 0.3))
        settings, published = tiny(), tmp_path / "model" / "liver_tumor.pt"
        publish(published, model(settings, "old").network, describe(settings, "old", training_cases=training))
        with caplog.at_level(logging.INFO):
            outcome = train(start=published)
        assert "it starts from fresh weights, as all others have learned from its left-out cases" in caplog.text
        assert [case.name for case in outcome.cross_validation.judged] == [case.name for case in files]
        assert outcome.cross_validation.known == tuple(training)
        assert [case.name for case in outcome.gate.cases] == validation
        assert outcome.reason.endswith(
            f"; {' and '.join(training)} do not count, since the published model has learned from them"
        )
        assert {path.name for path in (tmp_path / "run").iterdir()} >= {"gate.json", "cross_validation.json"}


def test_a_validation_case_that_the_published_model_has_learned_from_does_not_count(tiny, files, tmp_path):
    settings = tiny()
    publish(tmp_path / "old.pt", model(settings, "old").network, describe(settings, "old", training_cases=["case_1"]))
    result = FitResult(model(settings, "new", 1).network, [], 3, 0.5)

    def judged(validation):
        return judge("new", result, files[2:], validation, [], tmp_path / "old.pt", None, settings, CPU)

    found = judged(files[:2])
    assert [case.name for case in found.gate.cases] == ["case_0"]
    assert found.decision.reason.endswith("; case_1 does not count, since the published model has learned from it")
    alone = judged(files[1:2])
    assert (alone.gate, alone.decision.publish) == (None, False)
    assert alone.decision.reason == (
        "nothing to compare the models on; case_1 does not count, since the published model has learned from it; label "
        "more patients, or look at its segmentations and publish it by scripts/models.py"
    )
    none = judged([])
    assert (none.gate, none.decision.publish) == (None, False)
    assert none.decision.reason.startswith("no validation cases to compare the models on; label more patients, or look")
