from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from lib.activelearning.coverage import ONE_BY_ONE
from lib.activelearning.history import History
from lib.activelearning.strategies.class_balanced import rank, ranked
from lib.activelearning.strategy import Choice
from lib.case_scores import CaseScores
from lib.store.pool import Candidate


def image(name, tumor=0.01, liver=0.02, entropy=0.05, stands_for=1.0, **scores):
    found = CaseScores(entropy, {"liver": liver, "tumor": tumor}, **scores)
    return Candidate(name, scores=found, model_version="v1", stands_for=stands_for)


def rng(seed=0):
    return np.random.default_rng(seed)


def late(**more):
    return History("v1", 100, **more)


FOR_TUMOR = {"class:liver": 1, "entropy": 1}
POOL = [image(f"{number:02}", *rng(number).random(3)) for number in range(40)]


def test_thirty_choices_go_evenly_over_the_classes_and_entropy():
    parts = Counter(choice.part for choice in rank(POOL, History("v1", 10), rng())[:30])
    assert parts == {"class:liver": 10, "class:tumor": 10, "entropy": 10}


def test_with_one_class_two_thirds_are_by_class():
    pool = [Candidate(str(n), scores=CaseScores(0.1, {"tumor": n}), model_version="v1") for n in range(30)]
    assert Counter(choice.part for choice in rank(pool, late(), rng())) == {"class:tumor": 20, "entropy": 10}


def test_choices_before_count_and_those_of_other_parts_do_not():
    history = late(picked={"class:liver": 4, "class:tumor": 2, "entropy": 4, "diversity": 50, "random": 9})
    assert [choice.part for choice in rank(POOL, history, rng())[:3]] == ["class:tumor", "class:tumor", "class:liver"]


def test_at_the_end_of_the_campaign_the_highest_score_of_a_part_wins():
    pool = [image("tumor", tumor=0.9), image("liver", liver=0.9), image("entropy", entropy=0.9), image("other")]
    assert rank(pool, late(), rng())[:3] == [
        Choice("liver", "the highest liver uncertainty of 4 images", 0.9, "class:liver"),
        Choice("tumor", "the highest tumor uncertainty of 4 images", 0.9, "class:tumor"),
        Choice("entropy", "the highest uncertainty of 4 images", 0.9, "entropy"),
    ]


def chances(pool, labelled, draws):
    """How often each image comes first by its share of the tumor's uncertainty."""
    generator, history = rng(), History("v1", labelled, picked=FOR_TUMOR)
    first = Counter(rank(pool, history, generator)[0].image_id for _ in range(draws))
    return {name: count / draws for name, count in first.items()}


def test_at_first_the_chance_of_an_image_is_proportional_to_its_score():
    found = chances([image("low", 0.01), image("high", 0.03)], 0, 400)
    assert found["high"] == pytest.approx(0.75, abs=0.05)


@pytest.mark.parametrize(("labelled", "expected"), [(25, 0.967), (50, 1.0)])
def test_chance_gets_less_over_the_campaign(labelled, expected):
    # Among two the chance is that of scores to the power of beta: 10 ** 0.5 after a quarter, 10 after a half.
    assert chances([image("low", 0.01), image("high", 0.03)], labelled, 200)["high"] == pytest.approx(
        expected, abs=0.03
    )


@pytest.mark.parametrize(("labelled", "beta"), [(0, 1.0), (25, 100**0.25)])
def test_what_stands_for_others_has_the_chance_of_all_of_them(labelled, beta):
    pool = [image("top", 0.4), *(image(f"sample{n}", 0.1, stands_for=2.0) for n in range(4))]
    expected = 0.4**beta / (0.4**beta + 8 * 0.1**beta)
    assert chances(pool, labelled, 400)["top"] == pytest.approx(expected, abs=0.05)


def test_images_without_tumor_are_no_errors_and_hardly_ever_drawn_for_it():
    pool = [image(f"none{n}", 0.0) for n in range(9)] + [image("some", 1e-4)]
    assert chances(pool, 0, 50) == {"some": 1.0}


def test_reasons_say_by_what_with_how_much_chance_and_how_high():
    pool = [image(f"{n}", n / 100, stands_for=1.0 if n > 7 else 150.0) for n in range(10)]
    early = {choice.image_id: choice for choice in rank(pool, History("v1", 0, picked=FOR_TUMOR), rng(5))}
    drawn = next(choice for choice in early.values() if choice.part == "class:tumor" and choice.image_id in "1234567")
    lower = 100 * 150 * int(drawn.image_id) // (8 * 150 + 2)
    assert drawn.reason == (
        "drawn by tumor uncertainty, early in the campaign with much chance: "
        f"higher than in {lower}% of about 1,200 images"
    )
    assert rank(pool, late(picked=FOR_TUMOR), rng())[0].reason == "the highest tumor uncertainty of about 1,200 images"
    later = rank(pool, late(picked=FOR_TUMOR), rng())
    second = [choice for choice in later if choice.part == "class:tumor"][1]
    assert second.reason == "drawn by tumor uncertainty: higher than in 99% of about 1,200 images"


def test_the_highest_of_a_sample_is_not_said_to_be_the_highest_of_all():
    pool = [image(name, score, stands_for=50.0) for name, score in (("a", 0.1), ("b", 0.2))]
    assert rank(pool, late(picked=FOR_TUMOR), rng())[0].reason == (
        "drawn by tumor uncertainty: higher than in 50% of about 100 images"
    )


def test_what_is_unlike_all_chosen_before_counts_more():
    angles = {"a": 0.0, "near a": 0.1, "b": 0.5, "c": 1.0, "d": 1.5}
    pool = [
        image(name, 0.9 - place / 10, embedding=np.array([np.cos(angle), np.sin(angle)], np.float32))
        for place, (name, angle) in enumerate(angles.items())
    ]
    history = late(picked=Counter({"class:liver": 99, "entropy": 99}))
    assert [one.image_id for one in rank(pool, history, rng())] == list(angles)
    ranking = ranked(pool, history, rng(), novel=True)
    assert [one.image_id for one in ranking] == ["a", "d", "b", "c", "near a"]
    assert ranking[0].reason == "the highest tumor uncertainty of 5 images"
    assert ranking[1].reason.endswith(f" of 5 images; distance to the nearest one before it {1 - np.cos(1.5):.3f}")

    earlier = [replace(one, model_version="v0") for one in pool[1:]]
    others = ranked([pool[0], *earlier], history, rng(), novel=True)
    assert [one.image_id for one in others] == ["a", "d", "b", "c", "near a"]

    known = late(picked=history.picked, embeddings=np.array([[0.0, 2.0]], np.float32))
    pool.append(image("twin of what is labelled", 0.99, embedding=np.array([0.0, 1.0], np.float32)))
    ranking = ranked(pool, known, rng(), novel=True)
    assert (ranking[0].image_id, ranking[-1].image_id) == ("a", "twin of what is labelled")


def test_an_image_without_an_embedding_is_as_far_as_usual_ones():
    pool = [
        image("near", 0.9, embedding=np.array([1.0, 0.1], np.float32)),
        image("unknown", 0.8),
        image("far", 0.7, embedding=np.array([0.0, 1.0], np.float32)),
    ]
    history = late(picked=Counter({"class:liver": 99, "entropy": 99}), embeddings=np.array([[1.0, 0.0]], np.float32))
    assert ranked(pool, history, rng(), novel=True)[0].image_id == "far"
    assert not any(
        "distance" in one.reason for one in ranked(pool, history, rng(), novel=True) if "unk" in one.image_id
    )
    assert [one.image_id for one in ranked(pool[:2], history, rng(), novel=True)] == ["near", "unknown"]
    assert [one.image_id for one in ranked(pool[1:], history, rng(), novel=True)] == ["unknown", "far"]


def test_behind_those_chosen_one_by_one_the_others_keep_their_order():
    pool = [image(f"{place:02}", *[0.5**place] * 3) for place in range(2 * ONE_BY_ONE)]
    names = [one.image_id for one in pool]
    assert [one.image_id for one in rank(pool[::-1], late(), rng())] == names
    # Of the second half, those that are like what was chosen before them come last.
    kinds = np.eye(2 * ONE_BY_ONE, dtype=np.float32)
    for place in (ONE_BY_ONE, ONE_BY_ONE + 2):
        kinds[place] = kinds[place - ONE_BY_ONE]
    pool = [replace(one, scores=replace(one.scores, embedding=kind)) for one, kind in zip(pool, kinds, strict=True)]
    expected = [*names[:ONE_BY_ONE], names[ONE_BY_ONE + 1], *names[ONE_BY_ONE + 3 :]]
    ranking = [one.image_id for one in ranked(pool, late(), rng(), novel=True)]
    assert ranking[: len(expected)] == expected
