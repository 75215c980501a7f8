"""Diversity first, then uncertainty class by class: what suits few labels is not what suits many.

While a model knows little, the highest uncertainties are many times the same (cold start), and typical images that are
unlike each other teach it most (arXiv 2202.02794). But where most of a pool is what the model has seen already, the
typical ones teach it nothing: so images count as much as the model is uncertain about them (arXiv 2010.08666), and
those come first that show much of the rarest class. Later `class_balanced` chooses, where the score of an image counts
the less the nearer it is to what was chosen before: else one round holds many images of the one kind that the model
knows least.
"""

from collections.abc import Sequence

import numpy as np

from lib.activelearning.coverage import features
from lib.activelearning.history import History
from lib.activelearning.strategies import class_balanced, diversity
from lib.activelearning.strategy import Choice, Strategy
from lib.store.pool import Candidate

DIVERSE_SHARE = 0.1
"""Diversity chooses until the campaign has so much of its planned labels,"""
DIVERSE_LABELS = 5
"""and at least so many."""


def rank(candidates: Sequence[Candidate], history: History, rng: np.random.Generator) -> list[Choice]:
    """By diversity early in the campaign, or while there is no model, if there are embeddings; otherwise by class."""
    early = history.progress < DIVERSE_SHARE or history.labelled < DIVERSE_LABELS
    scored = any(one.scores is not None and class_balanced.knows(one.scores) for one in candidates)
    if (early or not scored) and features(candidates, history.model_version):
        return diversity.ranked(candidates, history, rng, to_learn=True)
    return class_balanced.ranked(candidates, history, rng, novel=True)


STRATEGY = Strategy(
    name="hybrid",
    description="First images typical of uncertain ones; then uncertain and unlike ones for each class",
    rank=rank,
    walks=class_balanced.WALKS,
)
