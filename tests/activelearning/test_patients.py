import numpy as np
import pytest

from lib.activelearning.patients import in_turn
from lib.activelearning.strategy import Choice

PASSED = "why; those ranked higher are of patients just handed out"


def turns(ranking, recent="", again=()):
    """Images are named by their patient and a number, `?` where that is unknown."""
    choices = [Choice(image, "why", 0.5, "part") for image in ranking.split()]
    patients = {image: None if image[0] == "?" else image[0] for image in ranking.split()}
    return in_turn(choices, patients, [None if patient == "?" else patient for patient in recent], again)


def order(*args, **kwargs):
    return " ".join(choice.image_id for choice in turns(*args, **kwargs))


@pytest.mark.parametrize(
    ("ranking", "recent", "expected"),
    [
        ("a1 b1 c1 d1", "", "a1 b1 c1 d1"),
        ("a1 a2 b1 a3 c1 a4", "", "a1 b1 c1 a2 a3 a4"),
        ("a1 b1 c1", "ab", "c1 a1 b1"),
        ("a1 b1 c1 d1", "abxy", "a1 b1 c1 d1"),
        ("a1 b1 c1 d1", "xyab", "c1 a1 b1 d1"),
        ("a1 a2 a3", "a", "a1 a2 a3"),
        ("b1 b2 a1 a2", "ab", "b1 a1 b2 a2"),
        ("?1 ?2 ?3", "??", "?1 ?2 ?3"),
        ("a1 ?1 a2 ?2 ?3 a3", "a", "?1 ?2 a1 ?3 a2 a3"),
        ("a1 a2 b1", "a?", "b1 a1 a2"),
        ("", "ab", ""),
    ],
)
def test_patients_of_the_last_two_images_are_passed_over_while_another_is_there(ranking, recent, expected):
    assert order(ranking, recent) == expected


def test_what_was_handed_out_before_stays_behind():
    assert order("a1 a2 b1 c1", "a", again={"b1", "c1"}) == "a1 a2 b1 c1"
    assert order("a1 b1 b2 c1", again={"b1", "b2", "c1"}) == "a1 b1 c1 b2"


def test_what_comes_before_its_place_says_why():
    found = turns("a1 a2 b1 c1", "a")
    assert [(choice.image_id, choice.reason) for choice in found] == [
        ("b1", PASSED), ("c1", PASSED), ("a1", "why"), ("a2", "why"),
    ]  # fmt: skip
    assert {(choice.score, choice.part) for choice in found} == {(0.5, "part")}


def test_nobody_is_lost_and_each_step_keeps_the_rule():
    rng = np.random.default_rng(0)
    for _ in range(30):
        ranking = [
            f"{patient}{place}" for place, patient in enumerate(rng.choice(list("abcde?"), 40, p=[0.5, *[0.1] * 5]))
        ]
        result = order(" ".join(ranking), "ab").split()
        assert sorted(result) == sorted(ranking)
        for place, image in enumerate(result):
            last = (["a", "b", *(one[0] for one in result[:place])])[-2:]
            allowed = [one for one in ranking if one not in result[:place] and (one[0] == "?" or one[0] not in last)]
            left = [one for one in ranking if one not in result[:place]]
            assert image == (allowed or left)[0]
