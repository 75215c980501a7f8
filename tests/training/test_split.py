"""Sides are decided once, by patient, and nobody ever changes over."""

from hypothesis import given
from hypothesis import strategies as st

from lib.training.split import divide, left_out_in_turn, position

NAMES = st.sets(st.text(min_size=1, max_size=12), max_size=30)
FRACTIONS = st.floats(0, 0.9)


@given(NAMES, NAMES, FRACTIONS, FRACTIONS)
def test_nobody_changes_sides(first, second, one_fraction, another):
    before = divide(first, one_fraction, "salt")
    after = divide(first | second, another, "salt", before)
    assert after.keys() == first | second
    assert before.items() <= after.items()


@given(NAMES, FRACTIONS)
def test_neither_side_is_empty_where_both_are_asked_for(patients, fraction):
    sides = set(divide(patients, fraction).values())
    if fraction > 0 and len(patients) > 1:
        assert sides == {"training", "validation"}
    elif fraction == 0:
        assert "validation" not in sides


def test_the_share_of_validation_is_met_in_the_long_run():
    sides = list(divide(map(str, range(2000)), 0.2, "salt").values())
    assert 0.17 < sides.count("validation") / len(sides) < 0.23


def test_the_salt_makes_another_division():
    patients = [str(number) for number in range(200)]
    assert divide(patients, 0.5, "one") != divide(patients, 0.5, "two")
    assert divide(patients, 0.5, "one") == divide(reversed(patients), 0.5, "one")
    assert 0 <= position("a", "") < 1


def test_with_everybody_decided_nothing_is_made_up():
    assert divide(["a", "b"], 0.5, decided={"a": "training", "b": "training"}) == {"a": "training", "b": "training"}


@given(st.dictionaries(st.text(min_size=1, max_size=6), st.sampled_from("abcdefgh"), max_size=20), st.integers(2, 6))
def test_each_case_is_left_out_once_and_with_all_of_its_patient(patients, most):
    parts = left_out_in_turn(patients, most)
    everybody = set(patients.values())
    if len(everybody) < 2:
        assert not parts
        return
    assert sorted(case for part in parts for case in part) == sorted(patients)
    assert len(parts) == min(most, len(everybody))
    sides = [{patients[case] for case in part} for part in parts]
    assert sum(map(len, sides)) == len(everybody)  # nobody is in two parts
    assert all(side < everybody for side in sides)  # somebody is left to learn from
    assert max(map(len, sides)) - min(map(len, sides)) <= 1
