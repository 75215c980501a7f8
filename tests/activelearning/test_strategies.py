import numpy as np
import pytest

from lib.activelearning.strategies import (
    DESCRIPTIONS,
    STRATEGIES,
    Choice,
    first,
    random,
    review,
    uncertainty,
)
from lib.case_scores import CaseScores
from lib.store.pool import Candidate


def rng(seed=0):
    return np.random.default_rng(seed)


POOL = [Candidate("c", 0.2), Candidate("a", 0.5, last_served=7.0), Candidate("b")]
SERVED = [Candidate("a", last_served=7.0), Candidate("b", last_served=5.0)]


def test_first_goes_by_name_among_those_not_handed_out_yet():
    assert first(POOL, rng()) == Choice("b", "first unlabelled image by name")
    assert first(SERVED, rng()) == Choice(
        "b", "handed out before and not labelled since, and no image is left that was not"
    )


def test_random_takes_those_that_waited_longest_and_all_of_them_sometimes():
    chosen = {random(POOL, rng(seed)).image_id for seed in range(50)}
    assert chosen == {"b", "c"}
    assert random(POOL, rng()).reason == "drawn at random from the unlabelled images not handed out yet"
    assert random(SERVED, rng()) == Choice(
        "b", "drawn from the unlabelled images that waited longest since they were handed out"
    )


def test_random_is_fair():
    pool = [Candidate(str(number)) for number in range(4)]
    generator = rng()
    counts = np.bincount([int(random(pool, generator).image_id) for _ in range(2000)])
    assert counts.min() > 420


def test_uncertainty_takes_the_highest_score_of_those_not_handed_out_yet():
    choice = uncertainty([*POOL, Candidate("d", scores=CaseScores(0.3, {}))], rng())
    assert choice == Choice("d", "of the scored images, the model is least sure of this one (score 0.3000)", 0.3)


def test_uncertainty_falls_back_to_random_and_says_so():
    pool = [Candidate("b"), Candidate("a"), Candidate("c", 0.5, last_served=1.0)]
    choice = uncertainty(pool, rng())
    assert choice.image_id == random(pool, rng()).image_id
    assert choice.score is None
    assert choice.reason.endswith("; none has an uncertainty score of the current model yet")


def test_review_takes_the_most_changed_that_was_not_handed_out_for_that():
    assert review(POOL, rng()) == Choice(
        "c", "of the labels that nobody has reviewed, the most changed (lowest Dice 0.80)", 0.2
    )
    assert review(POOL[1:], rng()) == Choice(
        "b", "a label that nobody has reviewed and that could be compared with nothing"
    )
    assert review(POOL[1:2], rng()).image_id == "a"


def test_a_score_of_zero_is_a_score():
    assert uncertainty([Candidate("a"), Candidate("b", scores=CaseScores(0.0, {}))], rng()).image_id == "b"


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategies_depend_on_nothing_but_candidates_and_the_generator(name):
    strategy, before = STRATEGIES[name], list(POOL)
    for seed in range(10):
        choice = strategy(POOL, rng(seed))
        assert choice == strategy(POOL, rng(seed))
        assert choice.image_id == strategy(POOL[::-1], rng(seed)).image_id  # a folder has no order
        assert choice.image_id in {candidate.image_id for candidate in POOL}
        assert " " in choice.reason
    assert before == POOL


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_single_candidate(name):
    assert STRATEGIES[name]([Candidate("only")], rng()).image_id == "only"


def test_each_strategy_is_described():
    assert set(DESCRIPTIONS) == set(STRATEGIES)
