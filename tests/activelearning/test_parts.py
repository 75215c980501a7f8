from collections import Counter

import pytest

from lib.activelearning.parts import class_shares, next_part


@pytest.mark.parametrize(
    ("classes", "shares"),
    [
        (["tumor", "liver"], {"class:liver": 1 / 3, "class:tumor": 1 / 3, "entropy": 1 / 3}),
        (["liver"], {"class:liver": 2 / 3, "entropy": 1 / 3}),
        ([], {"entropy": 1.0}),
    ],
)
def test_two_thirds_go_evenly_over_the_classes(classes, shares):
    assert class_shares(classes) == pytest.approx(shares)


def test_no_part_is_ever_more_than_one_behind_its_share():
    shares, picked = {"a": 0.5, "b": 0.3, "c": 0.2}, Counter()
    for total in range(1, 200):
        picked[next_part(shares, picked)] += 1
        assert all(abs(share * total - picked[part]) < 1 for part, share in shares.items())


def test_the_part_furthest_behind_is_next_and_other_parts_do_not_count():
    assert next_part({"a": 0.5, "b": 0.5}, {}) == "a"
    assert next_part({"a": 0.5, "b": 0.5}, {"a": 3, "b": 2, "c": 50}) == "b"
    assert next_part({"a": 0.5, "b": 0.5}, {"a": 3, "b": 4}) == "a"
