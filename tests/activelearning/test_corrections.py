import pytest

from lib.activelearning.corrections import by_version, last_of_each, lately, mean_dice
from lib.store.campaign import SavedLabel


def saved(image, dice, author="ann", at=0.0, version="v1"):
    return SavedLabel(image, 1, author, at, None, version, dice)


def corrected(*dice):
    return [saved(f"c{at}", {"tumor": one}, at=float(at)) for at, one in enumerate(dice)]


def test_the_last_ten_count():
    found = lately(corrected(*[0.4] * 10, *[0.96, 0.98] * 5), "tumor")
    assert found is not None
    assert (found.cases, found.dice, found.before) == (10, pytest.approx(0.97), pytest.approx(0.4))
    assert found.is_little
    assert 0.96 <= found.interval[0] < 0.97 < found.interval[1] <= 0.98


@pytest.mark.parametrize(
    ("dice", "little"),
    [([0.99] * 9, False), ([0.99] * 10, True), ([0.94] * 10, False), ([0.5, *[0.99] * 10], True)],
    ids=["too few", "little", "much", "much before"],
)
def test_what_is_little(dice, little):
    assert lately(corrected(*dice), "tumor").is_little is little


def test_equal_cases_have_no_spread_and_one_has_no_interval():
    assert lately(corrected(0.5, 0.5), "tumor").interval == (0.5, 0.5)
    assert lately(corrected(0.5), "tumor").interval is None


def test_a_class_that_neither_has_is_not_counted():
    ones = [*corrected(0.5), saved("x", {"liver": 0.9}), saved("y", None)]
    assert lately(ones, "tumor").cases == 1
    assert mean_dice(ones, "liver") == 0.9
    assert lately(ones, "vessel") is mean_dice(ones, "vessel") is None


def test_each_annotator_counts_once_per_case():
    first, again, other, none = (
        saved("a", {"liver": 0.1}, at=1.0),
        saved("a", {"liver": 0.2}, at=3.0),
        saved("a", {"liver": 0.3}, author="bob", at=2.0),
        saved("b", None),
    )
    assert last_of_each([first, other, again, none]) == [other, again]


def test_by_version_in_the_order_of_use():
    ones = [saved("a", {"liver": 1.0}, version=version) for version in ("v2", "v1", "v2", None)]
    assert {version: len(found) for version, found in by_version(ones).items()} == {"v2": 2, "v1": 1, "": 1}
    assert next(iter(by_version(ones))) == "v2"
