import numpy as np
import pytest

from lib.activelearning.history import History
from lib.activelearning.strategies import STRATEGIES, class_balanced, diversity
from lib.activelearning.strategies.hybrid import rank
from lib.case_scores import CaseScores
from lib.store.pool import Candidate


def pool(*, with_embeddings=True):
    rows = np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32)
    return [
        Candidate(
            f"{number:02}",
            scores=CaseScores(
                0.1 + number % 5, {"tumor": 0.1 + number / 100}, embedding=row if with_embeddings else None
            ),
            model_version="v1",
        )
        for number, row in enumerate(rows)
    ]


def by(name, candidates, history):
    rng = np.random.default_rng(4)
    if name == "diversity":
        return diversity.ranked(candidates, history, rng, to_learn=True)
    if name == "class_balanced":
        return class_balanced.ranked(candidates, history, rng, novel=True)
    return STRATEGIES[name].rank(candidates, history, rng)


@pytest.mark.parametrize(
    ("labelled", "planned", "chooses"),
    [
        (0, 100, "diversity"), (9, 100, "diversity"), (10, 100, "class_balanced"), (99, 1000, "diversity"),
        (4, 20, "diversity"), (5, 20, "class_balanced"), (5, 5, "class_balanced"), (200, 100, "class_balanced"),
    ],
)  # fmt: skip
def test_diversity_chooses_for_a_tenth_of_the_campaign_and_five_labels_then_the_classes_in_turn(
    labelled, planned, chooses
):
    history = History("v1", labelled, planned)
    assert rank(pool(), history, np.random.default_rng(4)) == by(chooses, pool(), history)


def test_without_embeddings_uncertainty_chooses_from_the_beginning():
    history, candidates = History("v1"), pool(with_embeddings=False)
    assert rank(candidates, history, np.random.default_rng(4)) == by("class_balanced", candidates, history)


def test_the_twin_of_a_labelled_image_comes_last():
    candidates = pool()
    best = max(candidates, key=lambda one: one.scores.classes["tumor"])
    history = History("v1", 100, embeddings=best.scores.embedding[None])
    assert class_balanced.rank(candidates, history, np.random.default_rng(4))[0].image_id == best.image_id
    assert by("hybrid", candidates, history)[-1].image_id == best.image_id
    assert "; distance to the nearest one before it " in by("hybrid", candidates, history)[0].reason
