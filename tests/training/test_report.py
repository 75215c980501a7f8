import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from lib.errors import BadInputError
from lib.settings import Settings
from lib.training.comparison import Comparison, Figures, GateReport
from lib.training.cross_validation import CrossValidation, Judged
from lib.training.gate import Compared, decide
from lib.training.preflight import check_cases
from lib.training.report import CONTENT_POLICY, RunPage
from lib.training.state import STATE_FILE
from lib.training.worst_cases import WorstCases
from tests.training.compared import compared, label, without

EVIL = "<script>alert(1)<&script>"  # what a file's name can hold
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Parsed(HTMLParser):
    """What a browser makes of a page: its text, its pictures, and whether its tags are balanced."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.attributes, self.images, self._open, self._text = set(), [], [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self._open == []
        self.text = " ".join("".join(self._text).split())

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes
        if tag == "img":
            self.images.append(dict(attributes))
        self._text.append(" ")
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag
        self._text.append(" ")

    def handle_data(self, data):
        if "style" not in self._open:
            self._text.append(data)

    def pictures(self, kind="png"):
        begin = f"data:image/{kind};base64,"
        found = [one for one in self.images if one["src"].startswith(begin)]
        return [(one["alt"], base64.b64decode(one["src"].removeprefix(begin), validate=True)) for one in found]


def row(epoch, **figures):
    known = {"train_loss": 0.9 / epoch if epoch else None, "validation_loss": 1.0, "dice_liver": 0.8, "dice_tumor": 0.4}
    return {"epoch": epoch, "seconds": 61.0 * epoch} | known | figures


@pytest.fixture(scope="module")
def checked(tmp_path_factory, make_files, tiny):
    """Settings, and what the preflight says about five cases, one of them of an odd name and one that is empty."""
    folder = tmp_path_factory.mktemp("odd")
    files = [make_files(folder, name, seed) for seed, name in enumerate(("a", "b", "c", EVIL))]
    files.append(make_files(folder, "<b>empty", 4))
    files[-1].label.write_bytes(b"")
    settings = tiny({"synthetic_tumors": {"probability": 0.25}}, early_stop_patience=2)
    return settings, check_cases(files, settings, device=torch.device("cpu"), cache_folder=folder)


@pytest.fixture
def page(checked, tmp_path):
    folder = tmp_path / "20260102_030405"
    folder.mkdir()
    return RunPage(folder, *checked, "v7", {"started_from": "starter.pt", "parent": "v6"})


def compare(page, cases, **rule):
    """Give the page what `run_training` gives it, see there."""
    gate = page.settings.training.gate.model_copy(update=rule)
    report = GateReport("v7", "v6", tuple(case.comparison for case in cases), {"gone": "the file is gone"})
    decision = decide(report, gate)
    for case in cases:
        page.worst.add(case)
    content = {"decision": {"publish": decision.publish, "reason": decision.reason}, "rule": gate.model_dump()}
    (page.folder / "gate.json").write_text(json.dumps(content | report.as_dict()))
    page.ended(published=decision.publish, reason=decision.reason, best_epoch=1)
    return report, Parsed(page.path)


def test_data_and_split(page):
    page.epoch_done(row(0))
    text = Parsed(page.path).text
    tumor = 7 * 7 * 2  # voxels of 0.016 ml
    liver = 18 * 20 * 6 - tumor
    assert f"training 3 3 3 {3 * liver * 0.016:.1f} 3 {3 * tumor * 0.016:.1f}" in text
    assert f"validation 1 1 1 {liver * 0.016:.1f} 1 {tumor * 0.016:.1f}" in text
    assert f"a training 10 {liver:,} {liver * 0.016:.1f} {tumor} {tumor * 0.016:.1f}" in text
    assert "Left out <b>empty : " in text
    assert "4 patients are labelled, 1 of them for validation, so the score will say little; label more." in text


def test_settings_for_people_and_all_of_them(page):
    page.epoch_done(row(0))
    text = Parsed(page.path).text
    assert "Started from the version v6 (starter.pt)" in text
    assert "Synthetic tumors painted into 25% of the cases without tumors" in text
    assert "training.gate.most_loss 0.01" in text
    assert "network.arguments.filters [8, 8, 8, 8, 8]" in text


def test_a_training_that_goes_on(page):
    page.epoch_done(row(0))
    page.epoch_done(row(1))
    parsed = Parsed(page.path)
    assert re.search(r"Not ended: 1 of 3 epochs were done on \d{4}-\d\d-\d\d at \d\d:\d\d UTC\.", parsed.text)
    assert "It comes after the last epoch." in parsed.text
    assert "Worst cases" not in parsed.text
    assert [words for words, _ in parsed.pictures("svg+xml")] == [
        "Loss after each epoch; at the end: training 0.900, validation 1.000",
        "Dice after each epoch; at the end: liver 0.800, tumor 0.400",
    ]
    assert "training loss – 0.9000" in parsed.text  # the table of what the curves show
    assert "Time 0:01:01" in parsed.text


def test_epochs_of_before_an_interruption_are_shown_once(checked, page):
    resumed = RunPage(page.folder, *checked, "v7", {}, [row(0), row(1)])
    for epoch in range(3):
        resumed.epoch_done(row(epoch))
    assert [one["epoch"] for one in resumed.rows] == [0, 1, 2]
    assert "2 of 3 epochs" in Parsed(page.path).text


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (BadInputError("no case\nis left; label one"), "Failed: there is no new model. No case is left; label one."),
        (RuntimeError("1 < 2"), "Failed: there is no new model. RuntimeError: 1 < 2."),
        (KeyboardInterrupt(), "Stopped before its end: there is no new model. That was on "),
    ],
)  # fmt: skip
def test_a_training_that_failed_says_why_and_the_error_goes_on(page, error, told):
    with pytest.raises(type(error)), page.on_failure():
        raise error
    text = Parsed(page.path).text
    assert told in text
    assert "Annotators still get the model that they had." in text
    assert "can be resumed" not in text
    assert "No epoch was done yet, so there are no curves." in text


def test_a_training_that_can_be_resumed(page):
    (page.folder / STATE_FILE).touch()
    with pytest.raises(OSError, match="full"), page.on_failure():
        raise OSError("the disk is full")
    assert "The training can be resumed after its last whole epoch." in Parsed(page.path).text


def test_the_comparison_and_its_decision(page):
    for epoch in range(3):
        page.epoch_done(row(epoch))
    bad = without(label(), slice(3, 5))
    report, parsed = compare(
        page, [compared(bad, name="x"), compared(label(), bad, name="y"), compared(bad, name=EVIL)]
    )
    text = parsed.text
    decision = decide(report, page.settings.training.gate).reason
    assert (
        f"Kept, not published: annotators still get the model that they had. {decision[0].upper()}{decision[1:]}."
        in text
    )
    tumor = report.classes["tumor"]
    low, high = (f"{end:+.3f}".replace("-", "−") for end in tumor.interval)
    assert (
        f"tumor {tumor.candidate:.3f} {tumor.published:.3f} {tumor.difference:+.3f} {low} to {high}".replace(" -", " −")
        in text
    )
    assert "mean of all cases 95 % interval" in text
    assert "The rule: the mean Dice must rise, no class may fall by more than 0.01, and the share of lesions" in text
    assert "gone : the file is gone" in text
    assert "all 6 4 2 0 5 1 0" in text  # lesions: labelled, then found, missed, false of both models
    assert "lesions found 4 of 6 false 0; published model 5, false 0" in text
    assert (
        "2 of 3; stopped early, as 2 epochs in a row brought no better Dice; kept are the weights after epoch 1" in text
    )
    assert "epoch 0 (before) epoch 1 (kept) epoch 2 (last)" in text


def test_a_strict_rule_in_words(page):
    _, parsed = compare(page, [compared(label())], minimum_gain=0.02, confidence=0.9)
    assert "must rise by more than 0.02, no class" in parsed.text
    assert "the gain must be sure to 90 %." in parsed.text


def test_worst_cases_as_pictures(page):
    bad = without(label(), slice(3, 5))
    _, parsed = compare(page, [compared(bad, name="x"), compared(label(), name="y")])
    words, pictures = zip(*parsed.pictures(), strict=True)
    assert words == (
        "CT on slice 4 of x",
        "Label outlines on slice 4 of x",
        "New model outlines on slice 4 of x; liver Dice 1.00; tumor Dice 0.00",
        "Published model outlines on slice 4 of x; liver Dice 1.00; tumor Dice 1.00",
    )
    assert all(Image.open(io.BytesIO(png)).size[0] == 360 for png in pictures)
    assert "Slice 4 of 12 : where label and new model differ most; a missed lesion of 4.0 ml" in parsed.text
    assert "tumor 4.1 0.1 4.1 0.057 1.000" in parsed.text  # labelled, new, published ml; Dice
    assert "nobody looked here" not in parsed.text


def test_nothing_to_compare_with(page):
    page.ended(published=True, reason="there is no model in force", best_epoch=0)
    parsed = Parsed(page.path)
    assert "Published: annotators get this model. There is no model in force. That was decided on " in parsed.text
    assert "There was none: the sentence at the top says why." in parsed.text
    assert "No pictures: they are made while models are compared" in parsed.text


def test_cross_validation(page):
    bad = without(label(), slice(3, 5))
    cases = [compared(bad, name="x"), compared(label(), name="y")]
    report = GateReport("v7", "v6", (cases[1].comparison,), {})
    judged = (Judged("x", 2, cases[0].comparison.candidate), Judged("y", None, cases[1].comparison.candidate))
    found = CrossValidation(5, 4, judged, {EVIL: "the file is gone"}, ("x",), report)
    (page.folder / "cross_validation.json").write_text(json.dumps(found.as_dict()))
    _, parsed = compare(page, cases)
    text = parsed.text
    assert "4 further networks learned in the same way" in text
    assert "x network 2 1.000 – 0.057 – y the new model 1.000 1.000 1.000 1.000" in text
    assert f"mean 1.000 {found.dice['tumor']['mean']:.3f} lowest 1.000 0.057 highest 1.000 1.000" in text
    assert "3 of 4 lesions were found." in text
    assert "The published model has learned from x" in text
    assert f"Left out of the cross-validation {EVIL} : the file is gone" in text
    assert "In place of the new model, network 2 of the cross-validation" in text


def test_names_are_text_and_the_page_needs_nothing_else(page):
    """No script, no other file, no network, whatever a case is called."""
    bad = without(label(), slice(3, 5))
    page.epoch_done(row(0))
    _, parsed = compare(page, [compared(bad, name=EVIL)])
    assert "script" not in parsed.tags
    assert parsed.tags.isdisjoint({"link", "iframe", "object", "form", "a", "b<"})
    assert f"{EVIL} liver 1.000" in parsed.text
    assert parsed.pictures()[0][0] == f"CT on slice 4 of {EVIL}"
    attributes = parsed.attributes
    assert all(value.startswith("data:") for name, value in attributes if name in {"src", "href", "srcset", "data"})
    assert not [name for name, _ in attributes if name.startswith("on")]
    assert ("content", CONTENT_POLICY) in attributes
    assert "url(" not in page.path.read_text()


def test_without_a_tumor_class_there_are_no_lesions(checked, page):
    _, preflight = checked
    cases = tuple(replace(case, voxels={"liver": case.voxels["liver"]}) for case in preflight.cases)
    settings = Settings.model_validate({"labels": {"liver": {"index": 1}}})
    other = RunPage(page.folder, settings, replace(preflight, cases=cases), "v1", {})
    figures = [Figures({"liver": dice}, {"liver": 0.0}) for dice in (0.9, 0.8)]
    _, parsed = compare(other, [Compared(Comparison("x", *figures), *[None] * 4)])
    assert "x liver 0.900 0.800 +0.100" in parsed.text
    assert "tumor" not in parsed.text.partition("Comparison with")[2]
    assert "Lesions:" not in parsed.text
    assert "no case could" not in parsed.text


def test_a_page_that_can_not_be_written_stops_nothing(page, caplog):
    page.folder.rmdir()
    page.folder.touch()
    page.epoch_done(row(0))
    page.ended(published=True, reason="better", best_epoch=0)
    assert caplog.messages[0].startswith(f"{page.path} is not written: ")


def test_half_a_page_is_never_seen(page, monkeypatch):
    page.epoch_done(row(0))
    before = page.path.read_bytes()
    monkeypatch.setattr(WorstCases, "pictures", lambda _: 1 / 0)
    page.ended(published=True, reason="better", best_epoch=0)
    assert page.path.read_bytes() == before
    assert [path.name for path in page.folder.iterdir()] == ["report.html"]
