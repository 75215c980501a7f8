from dataclasses import replace

import numpy as np
import pytest

from lib.activelearning.coverage import Coverage, Novelty, distances, embeddings, features, has_embedding, known
from lib.activelearning.history import History
from lib.case_scores import CaseScores
from lib.store.pool import Candidate


def image(*embedding):
    found = np.array(embedding, np.float32) if embedding else None
    return Candidate("image", scores=CaseScores(0.1, {}, embedding=found))


def test_distances_are_of_directions_from_0_to_2():
    rows = np.array([[1, 0], [0, 3], [-2, 0], [0, 0]], np.float32)
    assert distances(rows[:2], rows) == pytest.approx(np.array([[0, 1, 2, 1], [1, 0, 1, 1]]))
    assert distances(rows, np.zeros((0, 2))).shape == (4, 0)


def test_embeddings_of_the_model_in_force_are_compared_or_else_most_and_others_are_zero():
    pool = [image(1, 2), image(3, 4), image(1, 2, 3), image(0, 0), image(float("nan"), 1), image(), Candidate("none")]
    assert features(pool, None) == features(pool, "v1") == 2
    assert features(pool[2:4], "v1") == 3
    assert features(pool[3:], "v1") == features([], "v1") == 0
    just_published = [*pool, replace(image(1, 2, 3), model_version="v1"), replace(image(1, 2), model_version="v0")]
    assert features(just_published, "v1") == 3
    assert features([*pool, replace(image(), model_version="v1")], "v1") == 2
    assert [has_embedding(one.scores, 2) for one in pool] == [True, True, *[False] * 5]
    assert not has_embedding(None, 0)
    assert embeddings(pool, 2).tolist() == [[1, 2], [3, 4], *[[0, 0]] * 5]


def test_of_what_is_known_only_embeddings_of_the_same_length_count():
    rows = np.array([[1, 2], [0, 0], [float("nan"), 1], [3, 4]], np.float32)
    assert known(History(embeddings=rows), 2).tolist() == [[1, 2], [3, 4]]
    assert known(History(embeddings=rows), 3).shape == (0, 3)
    assert known(History(), 2).shape == (0, 2)


def test_gains_are_those_of_counting_anew():
    rng = np.random.default_rng(0)
    own, taken, weights = rng.normal(size=(30, 8)), rng.normal(size=(3, 8)), rng.integers(1, 9, 30).astype(float)
    coverage = Coverage(own, taken, weights)
    for index in rng.permutation(30)[:12]:
        coverage.take(int(index))
        taken = np.concatenate([taken, own[[index]]])
        anew = Coverage(own, taken, weights)
        assert coverage.nearest == pytest.approx(anew.nearest)
        assert coverage.gains == pytest.approx(anew.gains, abs=1e-9)
    assert coverage.nearest[index] == pytest.approx(0)


def test_novelty_is_the_distance_to_the_nearest_known_one_and_the_usual_one_without_an_embedding():
    turned = np.array([0.0, 0.5, 1.0, 1.5])
    own = np.concatenate([np.stack([np.cos(turned), np.sin(turned)], axis=1), np.zeros((1, 2))])
    nothing = Novelty(own, np.zeros((0, 2)))
    assert nothing.nearest.tolist() == [2.0] * 5
    novelty = Novelty(own, own[[0]])
    far = 1 - np.cos(turned)
    assert novelty.nearest == pytest.approx([*far, np.median(far)])
    novelty.take(4)  # tells nothing
    assert novelty.nearest == pytest.approx([*far, np.median(far)])
    novelty.take(3)
    near = 1 - np.cos([0.0, 0.5, 0.5, 0.0])
    # What was taken is at no distance, which is not usual among those that are left.
    assert novelty.nearest == pytest.approx([*near, np.median(near[:3])], abs=1e-9)
    for index in (0, 1, 2):
        novelty.take(index)
    assert novelty.nearest == pytest.approx([0, 0, 0, 0, near[2]], abs=1e-9)
    assert Novelty(own[4:], own[:2]).nearest.tolist() == [2.0]
