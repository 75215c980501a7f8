"""`entropy` and `bald`, which take the highest of one score, and `review`, `first` and `random`, which need none."""

import numpy as np
import pytest

from lib.activelearning.history import History
from lib.activelearning.strategies import STRATEGIES
from lib.activelearning.strategy import Choice
from lib.case_scores import CaseScores
from lib.store.pool import Candidate


def rank(name, candidates, seed=0):
    return STRATEGIES[name].rank(candidates, History("v1"), np.random.default_rng(seed))


def images(name, **values):
    """Images with a score of a kind; one with both scores high is not to win by the other."""
    other = {"entropy": "bald", "bald": "entropy"}[name]
    return [
        Candidate(key, scores=CaseScores(**{name: value, other: 1 - value}, classes={}), model_version="v1")
        for key, value in values.items()
    ]


@pytest.mark.parametrize("name", ["entropy", "bald"])
def test_the_highest_comes_first_and_zero_is_a_score(name):
    values = {chr(ord("a") + place): value for place, value in enumerate([0.0, 0.25, 0.5, 0.125])}
    ranking = rank(name, [*images(name, **values), Candidate("e")])
    assert [choice.image_id for choice in ranking] == ["c", "b", "d", "a", "e"]
    assert [choice.score for choice in ranking] == [0.5, 0.25, 0.125, 0.0, None]
    assert {choice.part for choice in ranking[:4]} == {name}
    assert ranking[4].reason == "drawn at random: has no " + {"entropy": "", "bald": "dropout "}[name] + (
        "scores yet, and others have"
    )


def test_reasons_say_which_place():
    entropy, bald = (rank(name, images(name, a=0.5, b=0.25, c=0.1, d=0.05)) for name in ("entropy", "bald"))
    assert entropy[0].reason == "the highest uncertainty (mean entropy 0.5) of the images scored"
    assert entropy[1].reason == "the 2nd highest uncertainty (mean entropy 0.25) of the images scored"
    assert (
        bald[2].reason
        == "the 3rd highest disagreement of the model with itself under dropout (0.1) of the images scored"
    )
    many = rank("entropy", images("entropy", **{f"i{n:02}": 1 - n / 100 for n in range(30)}))
    assert [many[place].reason.split()[1] for place in (3, 10, 11, 12, 20, 21)] == [
        "4th", "11th", "12th", "13th", "21st", "22nd",
    ]  # fmt: skip


def test_without_dropout_passes_bald_draws_at_random():
    pool = [Candidate(name, scores=CaseScores(0.5, {}), model_version="v1") for name in "abc"]
    assert {rank("bald", pool, seed)[0].image_id for seed in range(30)} == set("abc")
    assert rank("bald", pool)[0].reason == "drawn at random: none has dropout scores of the current model yet"


def test_first_goes_by_name():
    pool = [Candidate("c"), Candidate("a", last_served=7.0), Candidate("b")]
    assert rank("first", pool) == [
        Choice("b", "first unlabelled image by name", part="first"),
        Choice("c", "next unlabelled image by name", part="first"),
        Choice("a", "handed out before and not labelled since", part="again"),
    ]


def test_random_is_fair_and_counts_what_images_stand_for():
    first = [rank("random", [Candidate(str(n)) for n in range(4)], seed)[0].image_id for seed in range(800)]
    assert np.bincount([int(name) for name in first]).min() > 160
    pool = [Candidate("0"), Candidate("1", stands_for=4.0)]
    assert 130 < sum(rank("random", pool, seed)[0].image_id == "1" for seed in range(200)) < 185
    assert rank("random", pool)[0].reason == "drawn at random from the unlabelled images not handed out yet"


def test_review_takes_the_most_changed_that_was_not_handed_out_for_that():
    pool = [Candidate("b"), Candidate("a", 0.5, last_served=7.0), Candidate("c", 0.2), Candidate("d", 0.1)]
    assert rank("review", pool) == [
        Choice("c", "of the labels that nobody has reviewed, the most changed (lowest Dice 0.80)", 0.2, "review"),
        Choice("d", "a label that was changed (lowest Dice 0.90)", 0.1, "review"),
        Choice(
            "b",
            "a label that nobody has reviewed and that began with no segmentation to compare it with",
            None,
            "review",
        ),
        Choice("a", "a label that was changed (lowest Dice 0.50)", 0.5, "review"),
    ]
