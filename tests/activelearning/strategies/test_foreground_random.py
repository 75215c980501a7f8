from collections import Counter

import numpy as np

from lib.activelearning.history import History
from lib.activelearning.strategies.foreground_random import rank
from lib.case_scores import CaseScores
from lib.store.pool import Candidate


def image(name, liver=0.0, lesions=0, version="v1", stands_for=1.0):
    scores = CaseScores(0.1, {}, ml={"liver": liver, "tumor": float(lesions)}, lesions=lesions)
    return Candidate(name, scores=scores, model_version=version, stands_for=stands_for)


LIVERS = [image(f"liver{n:02}", 900.0) for n in range(18)]
TUMORS = [image(f"tumor{n}", 900.0, 2) for n in range(2)]
EMPTY = [image(f"empty{n}") for n in range(5)]


def kinds(candidates, seed=0, **history):
    ranking = rank(candidates, History("v1", **history), np.random.default_rng(seed))
    return [(choice.image_id.rstrip("0123456789"), choice.part) for choice in ranking]


def test_every_second_draw_is_among_images_with_a_tumor():
    ranking = kinds([*LIVERS, *TUMORS], seed=1)
    assert [part for _, part in ranking[:4]] == ["lesion", "foreground", "lesion", "foreground"]
    assert {kind for kind, part in ranking if part == "lesion"} == {"tumor"}
    assert kinds([*LIVERS, *TUMORS], picked={"lesion": 1})[0][1] == "foreground"


def test_the_other_half_is_among_all_with_something_in_them():
    later = {"picked": {"lesion": 1}}
    first = Counter(kinds([*LIVERS[:3], *TUMORS], seed, **later)[0][0] for seed in range(300))
    assert 90 < first["tumor"] < 150  # 2 of 5
    weighed = [image("liver", 9.0, stands_for=9.0), TUMORS[0]]
    first = Counter(kinds(weighed, seed, **later)[0][0] for seed in range(300))
    assert 255 < first["liver"] < 290  # 9 of 10


def test_images_in_which_nothing_is_seen_come_behind_all_others():
    unscored, earlier = [Candidate("unscored")], [image("earlier", 5.0, 1, "v0")]
    for seed in range(5):
        order = [kind for kind, _ in kinds([*EMPTY, *unscored, *earlier, *LIVERS, *TUMORS], seed)]
        assert set(order[:20]) == {"liver", "tumor"}
        assert order[20:] == ["earlier", "unscored", *["empty"] * 5]
    assert {kind for kind, _ in kinds(EMPTY)} == {"empty"}


def test_without_tumors_all_with_a_liver_have_their_turn():
    assert {part for _, part in kinds(LIVERS)} == {"foreground"}
