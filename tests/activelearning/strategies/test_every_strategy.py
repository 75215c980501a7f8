"""What holds for each strategy there is, and will be."""

import re
from dataclasses import replace

import numpy as np
import pytest

from lib.activelearning.history import History
from lib.activelearning.strategies import STRATEGIES
from lib.activelearning.strategy import BY_NAME, BY_TURN, FOR_REVIEW
from lib.case_scores import CaseScores
from lib.store.pool import Candidate

USING_SCORES = [name for name, one in STRATEGIES.items() if not {*one.walks} <= {BY_NAME, BY_TURN, FOR_REVIEW}]
NAN = float("nan")


def rng(seed=0):
    return np.random.default_rng(seed)


def scored(image_id, entropy=0.1, version="v1", features=(1.0, 0.0), **more):
    embedding = None if features is None else np.array(features, np.float32)
    classes = {"liver": entropy / 2, "hepatic_vessels": entropy / 4}
    scores = CaseScores(entropy, classes, bald=entropy / 8, ml={"liver": 900.0}, lesions=1, embedding=embedding)
    return Candidate(image_id, scores=scores, model_version=version, **more)


def bent(candidate, **scores):
    return replace(candidate, scores=replace(candidate.scores, **scores))


FRESH = [scored(f"now{n}", 0.1 + n / 50, features=(np.cos(n), np.sin(n))) for n in range(6)]
OLD = [scored(f"earlier{n}", 0.8, "v0", (np.cos(n), -np.sin(n)), stands_for=2e5) for n in range(3)]
UNSCORED = [Candidate(f"unscored{n}", patient="p", stands_for=2e4) for n in range(3)]
SERVED = [scored("again1", 0.9, last_served=9.0), Candidate("again0", 0.3, last_served=7.0)]
ODD = [
    bent(scored("odd0"), entropy=NAN, bald=NAN, classes={"liver": NAN, "hepatic_vessels": NAN}),
    bent(scored("odd1"), classes={}, bald=None, ml={}, lesions=0),
    scored("odd2", features=None),
    scored("odd3", 0.0, features=(0.0, 0.0)),
    scored("odd4", features=(1.0, 2.0, 3.0), version=None),
    scored("odd5", float("inf"), features=(NAN, 1.0)),
]
POOL = [*OLD, *ODD, *UNSCORED, *SERVED, *FRESH]
HISTORIES = {
    "at first": History(),
    "early": History("v1", 3, embeddings=np.eye(2, dtype=np.float32)),
    "late": History("v1", 90, picked={"entropy": 30, "class:liver": 40, "diversity": 10}),
    "other network": History("v1", 3, embeddings=np.eye(5, dtype=np.float32)),
}
STEPS = [(name, when) for name in STRATEGIES for when in HISTORIES]


@pytest.mark.parametrize(("name", "when"), STEPS, ids=[f"{name}, {when}" for name, when in STEPS])
def test_all_are_ranked_once_with_a_reason_and_nothing_but_the_seed_matters(name, when):
    before = list(POOL)
    for seed in range(3):
        ranking = STRATEGIES[name].rank(POOL, HISTORIES[when], rng(seed))
        assert sorted(choice.image_id for choice in ranking) == sorted(one.image_id for one in POOL)
        assert ranking == STRATEGIES[name].rank(POOL[::-1], HISTORIES[when], rng(seed))
        for choice in ranking:
            assert " " in choice.reason
            assert len(choice.reason) <= 200
            assert not re.search(r"\b(nan|inf|None)\b", choice.reason)
            assert choice.score is None or np.isfinite(choice.score)
            assert choice.part
    assert before == POOL


@pytest.mark.parametrize("name", STRATEGIES)
def test_what_was_handed_out_comes_last_and_the_least_recent_first(name):
    ranking = STRATEGIES[name].rank(POOL, HISTORIES["late"], rng())
    assert [choice.image_id for choice in ranking[-2:]] == ["again0", "again1"]
    again = STRATEGIES[name].rank(SERVED, HISTORIES["late"], rng())
    assert [choice.image_id for choice in again] == ["again0", "again1"]
    if name != "review":
        assert again[0].reason == "handed out before and not labelled since, and no image is left that was not"


@pytest.mark.parametrize("name", USING_SCORES)
def test_scores_of_the_model_in_force_come_first_then_earlier_ones_then_none(name):
    for when in ("early", "late"):
        ranking = STRATEGIES[name].rank([*UNSCORED, *OLD, *FRESH], HISTORIES[when], rng())
        kinds = [choice.image_id.rstrip("0123456789") for choice in ranking]
        assert kinds == ["now"] * 6 + ["earlier"] * 3 + ["unscored"] * 3
        said = [choice.reason.endswith("; scored by an earlier model") for choice in ranking]
        assert said == [kind == "earlier" for kind in kinds]


@pytest.mark.parametrize("name", STRATEGIES)
def test_without_any_scores(name):
    pool = [Candidate(name) for name in "abcd"]
    first = {STRATEGIES[name].rank(pool, History(), rng(seed))[0].image_id for seed in range(40)}
    assert first == ({"a"} if name in ("first", "review") else {"a", "b", "c", "d"})
    if name in USING_SCORES:
        assert "at random" in STRATEGIES[name].rank(pool, History(), rng())[0].reason


@pytest.mark.parametrize("name", STRATEGIES)
def test_of_one_and_of_none(name):
    for only in (Candidate("only"), scored("only"), scored("only", features=None, stands_for=9.0)):
        for history in HISTORIES.values():
            assert [choice.image_id for choice in STRATEGIES[name].rank([only], history, rng())] == ["only"]
    assert STRATEGIES[name].rank([], History(), rng()) == []


def test_each_is_described_in_a_line():
    assert list(STRATEGIES) == sorted(STRATEGIES)
    for name, strategy in STRATEGIES.items():
        assert strategy.name == name
        assert 20 < len(strategy.description) < 110
        assert "\n" not in strategy.description
        assert strategy.walks
        assert strategy.or_else
