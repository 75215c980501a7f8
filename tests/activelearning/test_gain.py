from dataclasses import replace

import numpy as np
import pytest

from lib.activelearning.gain import Judged, fit_curve, points_of
from lib.errors import BadInputError, UnavailableError

LABELS = [10, 20, 30, 45, 60, 80]


def power(labels, rest=0.1, height=0.8, exponent=0.5):
    return 1 - rest - height * np.asarray(labels, float) ** -exponent


def campaign(labels=LABELS, spread=0.0, error=0.01, curve=power, *, same_cases=False, seed=0):
    """A version after each number of labels; each is judged with the one before, on cases as hard as ever or not."""
    rng = np.random.default_rng(seed)
    reached = curve(labels) + rng.normal(0, spread, len(labels))
    judged = []
    for number in range(1, len(labels)):
        lift = 0.0 if same_cases else rng.normal(0, 0.1)
        dice = (reached[number] + lift, reached[number - 1] + lift)
        cases = "all" if same_cases else f"set {number}"
        names = (f"v{number}", f"v{number - 1}")
        judged.append(Judged(*names, labels[number], labels[number - 1], cases, {"tumor": dice}, {"tumor": error}))
    return judged


def gain_of(judged, now=80, more=10):
    return fit_curve(points_of(judged, "tumor"), now, more)


@pytest.mark.parametrize("same_cases", [True, False], ids=["same cases", "other cases each time"])
def test_a_known_curve_is_found(same_cases):
    curve = gain_of(campaign(error=0.002, same_cases=same_cases))
    assert curve.gain == pytest.approx(power(90) - power(80), abs=0.0007)
    assert curve.interval[0] < power(90) - power(80) < curve.interval[1]
    if same_cases:
        low, middle, high = curve.band(LABELS)
        assert middle == pytest.approx(power(LABELS), abs=0.005)
        assert (low < middle).all()
        assert (middle < high).all()


def test_the_interval_holds_the_truth_as_often_as_it_says():
    truth = power(90) - power(80)
    found = [gain_of(campaign(spread=0.01, error=0.014, same_cases=True, seed=seed)).interval for seed in range(20)]
    assert sum(low <= truth <= high for low, high in found) >= 16


def test_noise_widens_the_interval_whether_it_is_told_or_seen():
    def width(**how):
        low, high = gain_of(campaign(same_cases=True, **how)).interval
        return high - low

    assert width(error=0.002) < width(error=0.01) < width(error=0.03)
    assert width(error=0.002) < width(error=0.002, spread=0.02)


def test_more_labels_bring_more_but_less_each():
    judged = campaign(error=0.002)
    ten, twenty = gain_of(judged, more=10).gain, gain_of(judged, more=20).gain
    assert ten < twenty < 2 * ten
    assert gain_of(judged, now=100).gain < ten


def test_falling_dice_gives_no_gain():
    curve = gain_of(campaign(curve=lambda labels: 0.9 - 0.002 * np.asarray(labels), error=0.005))
    assert curve.gain < -0.003
    assert curve.interval[1] < 0


def test_equal_versions_promise_nothing():
    curve = gain_of(campaign(curve=lambda labels: np.full(len(labels), 0.8)))
    assert curve.gain == pytest.approx(0, abs=0.001)
    assert curve.interval[0] < 0 < curve.interval[1]


def test_no_gain_beyond_perfection():
    curve = gain_of(campaign(curve=lambda labels: 0.9 + 0.001 * np.asarray(labels), same_cases=True))
    assert (curve.heights + curve.gains <= 1).all()
    assert curve.band([80, 200]).max() <= 1


def test_a_starter_that_learned_from_other_labels_joins_comparisons_but_is_not_on_the_curve():
    judged = [
        replace(one, against="starter", against_labels=None, dice={"tumor": (one.dice["tumor"][0], 0.3 + lift)})
        for one, lift in ((one, one.dice["tumor"][0] - power(one.labels)) for one in campaign(error=0.002))
    ]
    points = points_of(judged, "tumor")
    assert [point.labels for point in points[:2]] == [None, 20]
    assert gain_of(judged).gain == pytest.approx(power(90) - power(80), abs=0.001)


def test_a_version_counts_once_on_the_same_cases():
    assert len(points_of(campaign(same_cases=True), "tumor")) == len(LABELS)
    assert len(points_of(campaign(), "tumor")) == 2 * (len(LABELS) - 1)
    assert points_of(campaign(), "spleen") == []


def test_the_same_versions_give_the_same_gain():
    first, second = gain_of(campaign(spread=0.01)), gain_of(campaign(spread=0.01))
    assert (first.gain, first.interval) == (second.gain, second.interval)


@pytest.mark.parametrize(
    ("judged", "message"),
    [
        ([], "not enough versions yet: 0 of at least 3"),
        (campaign([10, 20]), "not enough versions yet: 2 of at least 3"),
        (
            campaign([10, 20, 20, 20]),
            "not enough versions yet: 2 of at least 3 with different numbers of labels",
        ),
        (
            # Each one against a stranger, on cases of its own.
            [replace(one, against=f"other {one.version}", against_labels=None) for one in campaign()],
            "not enough versions yet that were compared with another one which learned from fewer labels",
        ),
    ],
    ids=["none", "two", "alike", "not connected"],
)
def test_too_few_versions_are_told(judged, message):
    with pytest.raises(UnavailableError) as caught:
        gain_of(judged)
    assert str(caught.value) == message


@pytest.mark.parametrize(("now", "more"), [(0, 10), (80, 0)])
def test_impossible_questions(now, more):
    with pytest.raises(BadInputError, match=f"not {now} and {more}"):
        gain_of(campaign(), now, more)
