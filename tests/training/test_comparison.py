import json

import numpy as np
import pytest

from lib.errors import BadInputError
from lib.labels import NOT_LOOKED_AT
from lib.metrics.lesions import Detection
from lib.metrics.lits import evaluate_case
from lib.training.comparison import (
    Comparison,
    Figures,
    GateReport,
    bootstrap_intervals,
    figures_of,
    paired_differences,
    regions_of,
    signed,
)

NAMES = {"liver": 1, "tumor": 2}


def row(*values):
    """A volume of one row of voxels."""
    return np.array(values, np.uint8).reshape(1, 1, -1)


def blobs(seed, classes=3):
    """A volume with connected pieces of every class."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, classes, (4, 5, 3)).astype(np.uint8).repeat(2, 0).repeat(2, 1)


# Figures of one segmentation


def test_figures_counted_by_hand():
    figures = figures_of(row(1, 1, 2, 2, 0, 0), row(1, 1, 1, 2, 2, 0), 0.5, NAMES)
    assert figures.dice == {"liver": pytest.approx(8 / 9), "tumor": 0.5}  # the liver holds its tumors
    assert figures.volume_error_ml == {"liver": 0.5, "tumor": 0}
    assert figures.found == Detection(1, 0, 0)
    assert figures.detected == Detection(0, 1, 1)  # IoU 1/3
    assert figures.as_dict()["lesions"] == {"reference": 1, "predicted": 1, "found": 1, "detected": 0}


@pytest.mark.parametrize(
    ("label", "segmented", "dice", "error"),
    [
        ((0, 0), (0, 0), {"liver": 1, "tumor": 1}, {"liver": 0, "tumor": 0}),
        ((1, 1), (0, 0), {"liver": 0, "tumor": 1}, {"liver": -2, "tumor": 0}),
        ((0, 0), (2, 0), {"liver": 0, "tumor": 0}, {"liver": 1, "tumor": 1}),
        ((2, 2), (2, 2), {"liver": 1, "tumor": 1}, {"liver": 0, "tumor": 0}),
    ],
)
def test_classes_that_are_missing_on_one_side_or_both(label, segmented, dice, error):
    figures = figures_of(row(*label), row(*segmented), 1, NAMES)
    assert figures.dice == dice
    assert figures.volume_error_ml == error


@pytest.mark.parametrize("seed", range(5))
def test_figures_are_those_of_the_challenge(seed):
    label, segmented = blobs(seed), blobs(seed + 100)
    figures = figures_of(label, segmented, 0.024, NAMES)
    scores = evaluate_case(label, segmented, (2, 3, 4))
    assert figures.dice["liver"] == pytest.approx(scores.liver_dice)
    assert figures.dice["tumor"] == pytest.approx(scores.as_dict()["lesion_dice_per_case"])
    assert (figures.found, figures.detected) == scores.detection
    expected = scores.as_dict()["liver_ml_prediction"] - scores.as_dict()["liver_ml_reference"]
    assert figures.volume_error_ml["liver"] == pytest.approx(expected)


def test_what_nobody_looked_at_is_in_no_figure():
    label, segmented = blobs(1), blobs(2)
    partial = label.copy()
    partial[:, :, :3] = NOT_LOOKED_AT
    seen = figures_of(label[:, :, 3:], segmented[:, :, 3:], 0.5, NAMES)
    assert figures_of(partial, segmented, 0.5, NAMES) == seen != figures_of(label, segmented, 0.5, NAMES)


def test_figures_do_not_depend_on_the_direction_of_the_axes():
    label, segmented = blobs(1), blobs(2)
    turned = [array.transpose(2, 0, 1)[::-1] for array in (label, segmented)]
    assert figures_of(*turned, 1, NAMES).dice == figures_of(label, segmented, 1, NAMES).dice


def test_tumor_and_liver_are_known_by_name_and_other_classes_are_themselves():
    assert regions_of({"tumor": 1, "liver": 2}) == {"tumor": (1,), "liver": (2, 1)}
    assert regions_of({"Leber": 1, "spleen": 2, "hepatic lesion": 3}) == {
        "Leber": (1, 3), "spleen": (2,), "hepatic lesion": (3,),
    }  # fmt: skip
    figures = figures_of(row(1, 2, 2, 0), row(1, 2, 0, 0), 1, {"spleen": 1, "kidney": 2})
    assert figures.dice == {"spleen": 1, "kidney": pytest.approx(2 / 3)}
    assert (figures.found, figures.detected, figures.as_dict()["lesions"]) == (None, None, None)


def test_arrays_of_different_shapes():
    with pytest.raises(BadInputError, match=r"^label \(1, 1, 2\) and segmentation \(1, 1, 3\) must have one shape$"):
        figures_of(row(1, 1), row(1, 1, 1), 1, NAMES)


# Paired differences


def test_two_cases_by_hand():
    # Drawn means are 0, 1/2 and 1 with probabilities 1/4, 1/2 and 1/4.
    assert bootstrap_intervals([[0.0], [1.0]], 0.95, seed=0).tolist() == [[0, 1]]
    assert bootstrap_intervals([[0.0], [1.0]], 0.4, seed=0).tolist() == [[0.5, 0.5]]


def test_one_case_is_its_own_interval():
    (paired,) = paired_differences([[0.61]], [[0.52]], 0.95, seed=3)
    assert paired.interval == (paired.difference, paired.difference)
    assert paired.difference == pytest.approx(0.09)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("cases", [1, 2, 5, 40])
def test_intervals_hold_the_mean_turn_with_the_order_and_repeat(seed, cases):
    rng = np.random.default_rng(seed)
    candidate, published = rng.random((2, cases, 3))
    forward = paired_differences(candidate, published, 0.95, seed)
    backward = paired_differences(published, candidate, 0.95, seed)
    for one, other in zip(forward, backward, strict=True):
        low, high = one.interval
        assert low - 1e-12 <= one.difference <= high + 1e-12
        assert one.difference == pytest.approx(one.candidate - one.published)
        assert other.difference == -one.difference
        assert other.interval == pytest.approx((-high, -low), abs=1e-12)
    assert paired_differences(candidate, published, 0.95, seed) == forward


def test_more_confidence_and_fewer_cases_widen_an_interval():
    differences = np.random.default_rng(0).normal(0, 1, (50, 1))

    def width(rows, confidence):
        low, high = bootstrap_intervals(rows, confidence, 0)[0]
        return high - low

    assert width(differences, 0.5) < width(differences, 0.9) < width(differences, 0.99)
    assert width(differences, 0.95) < width(differences[:10], 0.95)
    # Mean of 50 draws of unit variance: about 1.96 standard errors to either side.
    assert width(differences, 0.95) == pytest.approx(2 * 1.96 * differences.std() / np.sqrt(50), rel=0.1)


def test_a_constant_gain_has_no_spread():
    assert bootstrap_intervals(np.full((7, 2), 0.25), 0.95, 1) == pytest.approx(np.full((2, 2), 0.25))


@pytest.mark.parametrize("differences", [np.zeros((0, 2)), np.zeros(3), [[np.nan]], [[np.inf]]])
def test_differences_that_are_none(differences):
    with pytest.raises(BadInputError, match=r"^differences must be finite numbers of at least one case"):
        bootstrap_intervals(differences, 0.95, 0)


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_a_confidence_that_is_none(confidence):
    with pytest.raises(BadInputError, match=f"^the confidence must lie between 0 and 1, not {confidence}$"):
        bootstrap_intervals([[0.1]], confidence, 0)


# The report


def small_report():
    better = Figures(
        {"liver": 0.9, "tumor": 0.6}, {"liver": 12.0, "tumor": -1.0}, Detection(2, 1, 1), Detection(1, 2, 2)
    )
    worse = Figures(
        {"liver": 0.9, "tumor": 0.4}, {"liver": -30.0, "tumor": 2.5}, Detection(1, 4, 2), Detection(0, 5, 3)
    )
    cases = (Comparison("a", better, worse), Comparison("b", better, better))
    return GateReport("new-1", "old-1", cases, {"c": "c.nii: the file is empty"}, 0.9, seed=4)


def test_means_and_lesions_of_a_report():
    report = small_report()
    assert list(report.classes) == ["liver", "tumor"]
    assert report.classes["liver"].difference == 0
    assert report.classes["tumor"].candidate == pytest.approx(0.6)
    assert report.classes["tumor"].published == pytest.approx(0.5)
    assert report.overall.difference == pytest.approx(0.05)
    assert report.found == (Detection(4, 2, 2), Detection(3, 5, 3))
    assert report.detected == (Detection(2, 4, 4), Detection(1, 7, 5))


def test_a_report_is_plain_json_and_its_short_form_has_no_cases():
    report = small_report()
    full = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert full == report.as_dict()
    assert [case["name"] for case in full["cases"]] == ["a", "b"]
    assert full["cases"][0]["published"]["volume_error_ml"] == {"liver": -30.0, "tumor": 2.5}
    assert full["lesions"] == {
        "candidate": {"reference": 6, "predicted": 6, "found": 4, "detected": 2},
        "published": {"reference": 6, "predicted": 8, "found": 3, "detected": 1},
    }
    assert report.short() == full | {"cases": ["a", "b"]}
    assert (full["confidence"], full["seed"], full["resamples"]) == (0.9, 4, 2000)
    assert full["left_out"] == {"c": "c.nii: the file is empty"}


def test_a_report_without_cases():
    report = GateReport("new", "old", (), {"c": "gone"})
    assert (report.classes, report.overall, report.found) == ({}, None, None)
    assert report.as_dict()["lesions"] is None
    assert report.as_table().splitlines()[1:] == ["left out: c: gone"]


def test_the_table():
    assert small_report().as_table() == "\n".join(
        [
            "case  class  new Dice  published  difference  new ml  published ml",
            "a     liver     0.900      0.900      +0.000   +12.0         -30.0",
            "a     tumor     0.600      0.400      +0.200    -1.0          +2.5",
            "b     liver     0.900      0.900      +0.000   +12.0         +12.0",
            "b     tumor     0.600      0.600      +0.000    -1.0          -1.0",
            "mean  liver     0.900      0.900      +0.000                        90 % interval +0.000 to +0.000",
            "mean  tumor     0.600      0.500      +0.100                        90 % interval +0.000 to +0.200",
            "lesions found: 4, published 3, of 6; not in the label: 2, published 5",
            "left out: c: c.nii: the file is empty",
        ]
    )


def test_a_zero_has_no_minus():
    assert [signed(value) for value in (-0.0001, 0.0, 0.0126, -0.5)] == ["+0.000", "+0.000", "+0.013", "-0.500"]
