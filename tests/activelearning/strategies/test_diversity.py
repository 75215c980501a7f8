from dataclasses import replace

import numpy as np
import pytest

from lib.activelearning.coverage import ONE_BY_ONE
from lib.activelearning.history import History
from lib.activelearning.strategies.diversity import rank, ranked
from lib.case_scores import CaseScores
from lib.store.pool import Candidate

SIZES = {"head": 40, "body": 15, "tail": 6, "rare": 3}


def rng(seed=0):
    return np.random.default_rng(seed)


def image(name, embedding, stands_for=1.0):
    scores = CaseScores(0.1, {}, embedding=np.asarray(embedding, np.float32))
    return Candidate(name, scores=scores, model_version="v1", stands_for=stands_for)


def group(name, centre, size, spread=0.06):
    """Images around a direction."""
    around = rng(len(name)).normal(size=(size, len(centre))) * spread
    return [image(f"{name} {number}", centre + shift) for number, shift in enumerate(around)]


@pytest.fixture(scope="module")
def pool():
    centres = dict(zip(SIZES, np.eye(16), strict=False))
    groups = [one for name, centre in centres.items() for one in group(name, centre, SIZES[name])]
    return [*groups, image("outlier", -np.ones(16))]


def names(ranking):
    return [choice.image_id for choice in ranking]


def test_the_first_is_typical_of_the_largest_group_and_each_group_is_soon_covered(pool):
    ranking = rank(pool, History("v1"), rng())
    assert ranking[0].score is None
    assert ranking[0].reason == (
        "the most typical of the images looked at; there is none labelled yet to compare them with"
    )
    kinds = [name.split()[0] for name in names(ranking)]
    assert kinds[:3] == ["head", "body", "tail"]
    assert set(kinds[:5]) == {*SIZES, "outlier"}
    assert ranking[1].reason.startswith("unlike all ranked before it (distance ")


def test_groups_that_have_labels_wait(pool):
    known = np.eye(16, dtype=np.float32)[[0, 1]] * 7  # of any length
    ranking = rank(pool, History("v1", 2, embeddings=known), rng())
    assert [name.split()[0] for name in names(ranking)[:3]] == ["tail", "rare", "outlier"]
    chosen = pool_embedding(pool, ranking[0].image_id)
    assert ranking[0].score == pytest.approx(1 - max(chosen[:2]) / np.linalg.norm(chosen), abs=1e-5)
    assert ranking[0].reason == (
        f"unlike all 2 images labelled or in work (distance {ranking[0].score:.2g}), and typical of 5 images"
    )


def pool_embedding(pool, name):
    return next(one.scores.embedding for one in pool if one.image_id == name)


def test_each_choice_brings_all_images_nearest_to_a_known_one(pool):
    """What the incremental sums choose is what trying out every image would; only the order of the last is rougher."""
    rows = np.stack([one.scores.embedding / np.linalg.norm(one.scores.embedding) for one in pool])
    between = np.clip(1 - rows @ rows.T, 0, 2)
    nearest = np.full(len(pool), 2.0)
    index = {one.image_id: place for place, one in enumerate(pool)}
    for name in names(rank(pool, History("v1"), rng()))[:ONE_BY_ONE]:
        left = np.minimum(nearest[:, None], between).sum(0)
        assert left[index[name]] == pytest.approx(left.min(), abs=1e-4)
        nearest = np.minimum(nearest, between[:, index[name]])


def test_an_image_that_stands_for_many_weighs_as_many():
    many, few = image("many", [0, -1], stands_for=30.0), [image(f"few{n}", [(n - 2) / 50, 1]) for n in range(5)]
    assert rank([many, *few], History("v1"), rng())[0].image_id == "many"
    assert rank([image("one", [0, -1]), *few], History("v1"), rng())[0].image_id == "few2"


def test_images_without_an_embedding_come_last_at_random(pool):
    without = [Candidate(f"none{n}", scores=CaseScores(0.1, {}), model_version="v1") for n in range(9)]
    orders = {tuple(names(rank([*pool, *without], History("v1"), rng(seed)))[-9:]) for seed in range(3)}
    assert len(orders) == 3
    assert {frozenset(order) for order in orders} == {frozenset(one.image_id for one in without)}
    assert rank(without, History("v1"), rng())[0].reason == (
        "drawn at random: none has features to compare of the current model yet"
    )


def test_images_scored_by_an_earlier_model_are_to_be_unlike_those_before_them():
    current = [image("now", [1, 0])]
    earlier = [image("like it", [1, 0.1]), image("like it too", [1, -0.1]), image("unlike it", [0, 1])]
    earlier = [replace(one, model_version="v0") for one in earlier]
    ranking = rank([*current, *earlier], History("v1"), rng())
    assert names(ranking)[:2] == ["now", "unlike it"]
    assert ranking[1].reason == "unlike all ranked before it (distance 1); scored by an earlier model"


def test_a_copy_of_what_is_labelled_comes_last_and_says_so(pool):
    known = pool_embedding(pool, "head 3")[None]
    last = rank(
        [one for one in pool if one.image_id in ("head 3", "rare 1")], History("v1", 1, embeddings=known), rng()
    )
    assert names(last) == ["rare 1", "head 3"]
    assert last[1].reason == "of what is left the least like the one image labelled or in work, but nearly the same"


def uncertain(candidate, entropy):
    return replace(candidate, scores=replace(candidate.scores, entropy=entropy))


def test_by_uncertainty_a_few_images_that_the_model_does_not_know_come_before_many_that_it_does(pool):
    told = [uncertain(one, 2.0 if one.image_id.startswith("rare") else 0.02) for one in pool]
    assert names(rank(told, History("v1"), rng()))[0].startswith("head")
    first = ranked(told, History("v1"), rng(), to_learn=True)[0]
    assert first.image_id.startswith("rare")
    assert first.reason == (
        "the most typical of the images looked at; there is none labelled yet to compare them with; "
        f"{2.0 * 65 / (3 * 2.0 + 62 * 0.02):.1f} times as uncertain as images usually are"
    )


@pytest.mark.parametrize("entropies", ["none", "the same", "zero"])
def test_by_uncertainty_that_no_model_has_told_all_images_count_as_much(pool, entropies):
    told = [uncertain(one, {"none": None, "the same": 0.3, "zero": 0.0}[entropies]) for one in pool]
    assert ranked(told, History("v1"), rng(), to_learn=True) == rank(told, History("v1"), rng())


def test_an_image_without_an_entropy_counts_as_usual_ones(pool):
    told = [uncertain(one, None if one.image_id.startswith("rare") else 0.5) for one in pool]
    assert ranked(told, History("v1"), rng(), to_learn=True) == rank(told, History("v1"), rng())


def test_to_learn_what_shows_as_much_of_the_rarest_class_as_half_of_all_images_comes_first(pool):
    def showing(one, tumor):
        return replace(one, scores=replace(one.scores, ml={"liver": 1500.0, "tumor": tumor, "unseen": 900.0}))

    some = [one for number, one in enumerate(pool) if number % 2 == 0]
    told = [showing(one, 20.0 if one in some else 1.0) for one in pool]
    ranking = names(ranked(told, History("v1"), rng(), to_learn=True))
    assert set(ranking[: len(some)]) == {one.image_id for one in some}
    assert ranking[0].startswith("head")
    assert names(rank(told, History("v1"), rng())) == names(rank(pool, History("v1"), rng()))
    # An image that stands for many weighs as many: then most show little, and little is as much as half of all show.
    many = [showing(replace(one, stands_for=1.0 if one in some else 9.0), 20.0 if one in some else 1.0) for one in pool]
    assert set(names(ranked(many, History("v1"), rng(), to_learn=True))[: len(some)]) != set(ranking[: len(some)])


@pytest.mark.parametrize("ml", [{}, {"liver": 0.0, "tumor": 0.0}])
def test_where_the_model_sees_nothing_none_comes_first(pool, ml):
    told = [replace(one, scores=replace(one.scores, entropy=None, ml=ml)) for one in pool]
    assert ranked(told, History("v1"), rng(), to_learn=True) == rank(pool, History("v1"), rng())


def test_uncertainty_is_told_beside_that_of_all_images_that_the_candidates_stand_for(pool):
    told = [uncertain(pool[0], 0.6), *(replace(uncertain(one, 0.1), stands_for=100.0) for one in pool[1:3])]
    ranking = {one.image_id: one for one in ranked(told, History("v1"), rng(), to_learn=True)}
    assert ranking[pool[0].image_id].reason.endswith(
        f"; {0.6 / (20.6 / 201):.1f} times as uncertain as images usually are"
    )


def test_behind_those_chosen_one_by_one_the_others_keep_their_order():
    kinds = np.eye(2 * ONE_BY_ONE)
    pool = [image(f"{place:02}", kind, stands_for=100.0 - place) for place, kind in enumerate(kinds)]
    assert names(rank(pool[::-1], History("v1"), rng())) == [one.image_id for one in pool]


def test_all_are_ranked_once_whatever_their_number(pool):
    for count in (1, ONE_BY_ONE - 1, ONE_BY_ONE, ONE_BY_ONE + 1, len(pool)):
        assert sorted(names(rank(pool[:count], History("v1"), rng()))) == sorted(one.image_id for one in pool[:count])
