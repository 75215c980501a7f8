import pytest

from lib.activelearning.quality import SENTENCES
from lib.activelearning.words import sentences
from lib.case_scores import CaseScores, Span

LIVER, TUMOR = Span("liver", 12, 30, 0.6), Span("tumor", 41, 48, 0.8)
OTHERS = [Span("tumor", 3, 5, 0.1), Span("tumor", 60, 63, 0.1)]
BOTH = "tumor border uncertain on slices 41-48, liver border uncertain on slices 12-30"
FOUND = {"liver": 1500.0, "tumor": 3.0}


def said(spans=(), lesions=0, ml=None, flags=()):
    ml = FOUND if ml is None else ml
    return sentences(CaseScores(0.1, dict.fromkeys(ml, 0.1), ml=ml, lesions=lesions, spans=tuple(spans), flags=flags))


@pytest.mark.parametrize(
    ("spans", "lesions", "expected"),
    [
        ([TUMOR], 2, "tumor border uncertain on slices 41-48, two lesion candidates"),
        ([TUMOR, LIVER], 1, f"{BOTH}, one lesion candidate"),
        ([TUMOR, *OTHERS], 0, "tumor border uncertain on slices 3-5 and 41-48"),
        ([Span("liver", 0, 0, 1.0)], 0, "liver border uncertain on slice 0"),
        ([Span("liver", 7, 7, 0.5), Span("liver", 2, 2, 0.4)], 0, "liver border uncertain on slices 2 and 7"),
        ([], 12, "12 lesion candidates"),
    ],
    ids=["tumor", "both", "several places", "one slice", "two slices", "many lesions"],
)
def test_places_and_lesions(spans, lesions, expected):
    assert said(spans, lesions) == (expected,)


def test_a_class_that_was_not_predicted_has_no_border():
    assert said([TUMOR], ml={"liver": 1500.0, "tumor": 0.0}) == ("perhaps tumor on slices 41-48",)


def test_names_of_classes_are_those_of_the_labels():
    assert said([Span("left kidney", 3, 9, 0.5)], ml={"left kidney": 1.0}) == (
        "left kidney border uncertain on slices 3-9",
    )


def test_flags_follow_in_sentences():
    assert said([LIVER], flags=("noisy", "liver_cut", "of_a_later_version")) == (
        "liver border uncertain on slices 12-30",
        SENTENCES["noisy"],
        SENTENCES["liver_cut"],
        "of a later version",
    )


def test_nothing_to_say():
    assert said() == ()
