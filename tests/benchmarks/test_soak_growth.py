import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.benchmarks.soak_growth import as_json, growth

HOURS = [second / 3600 for second in range(0, 600, 5)]


@given(st.floats(-500, 500), st.floats(0, 3000))
@settings(max_examples=30, deadline=None)
def test_a_line_has_its_slope(slope, level):
    found = growth(HOURS, [level + slope * hour for hour in HOURS])
    assert found.per_hour == pytest.approx(slope, abs=1e-6)
    assert found.lower == pytest.approx(slope, abs=1e-4)
    assert found.upper == pytest.approx(slope, abs=1e-4)


def test_the_interval_holds_the_slope_where_samples_depend_on_each_other():
    """Spells of ten samples that are alike: as independent samples they would promise far too much."""
    right = 0
    for seed in range(200):
        spells = np.repeat(np.random.default_rng(seed).normal(0, 20, len(HOURS) // 10), 10)
        found = growth(HOURS, [1000 + 60 * hour + spell for hour, spell in zip(HOURS, spells, strict=True)])
        right += found.lower <= 60 <= found.upper
    assert right >= 180


def test_what_came_before_the_end_of_the_warm_up_is_left_out():
    values = [100.0 if hour < 200 / 3600 else 500.0 for hour in HOURS]
    found = growth(HOURS, values, after_h=200 / 3600)
    assert (found.per_hour, found.samples) == (0, 80)
    assert found.hours == pytest.approx(395 / 3600)
    assert growth(HOURS, values).lower > 0


def test_too_few_samples_tell_nothing():
    assert growth(HOURS[:23], [1.0] * 23) is None
    assert growth(HOURS, [1.0] * len(HOURS), after_h=1) is None
    assert growth(HOURS[:24], [1.0] * 24) is not None
    assert as_json(None) is None


def test_as_json():
    found = growth(HOURS, [2 * hour for hour in HOURS])
    assert set(as_json(found)) == {"per_hour", "lower", "upper", "samples", "hours"}
