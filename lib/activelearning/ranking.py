"""The pool as a strategy ranks it: what is read from the ledger for that, and the rule for all strategies."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Connection

from lib.activelearning.coverage import features
from lib.activelearning.history import History
from lib.activelearning.patients import APART, in_turn
from lib.activelearning.strategy import Choice, Strategy
from lib.case_scores import NO_MODEL
from lib.store import images, leases, pool, scores
from lib.store.patients import Patients
from lib.store.pool import Candidate
from lib.store.splits import SALT
from lib.store.store import Store

_MOST_AT_HAND = 1000  # images that were fetched once, to find among them some that still are here


@dataclass(frozen=True)
class Ranking:
    """Images that can be handed out, the best first.

    Args:
        choices: each image once.
        candidates: by image id.
    """

    choices: Sequence[Choice]
    candidates: Mapping[str, Candidate]


def rank_pool(
    store: Store,
    strategy: Strategy,
    *,
    model_version: str | None,
    at_hand: Callable[[str], bool] | None,
    rng: np.random.Generator,
) -> Ranking:
    """Rank what a strategy looks at, without keeping others from writing; expired leases must have been freed.

    Args:
        store: the studies folder.
        strategy: which one.
        model_version: the model in force; None while there is none, when scores are what the images alone tell.
        at_hand: whether an image need not be fetched, where only such ones are wanted.
        rng: for random choices.

    Raises:
        StorageError: the ledger can't be read.
    """
    model_version = model_version or NO_MODEL
    with store.ledger.reading() as connection:
        patients = _patients(store, connection)
        found = _candidates(connection, strategy, patients, model_version, at_hand, float(rng.random()))
        if not found:
            return Ranking([], {})
        history = _history(connection, store, strategy, model_version, features(found, model_version))
        last = leases.last_handed_out(connection, APART)
        whose = patients.keys(connection, last)
    candidates = {one.image_id: one for one in found}
    choices = in_turn(
        strategy.rank(found, history, rng),
        {one.image_id: one.patient for one in found},
        [whose.get(image_id) for image_id in reversed(last)],
        again={one.image_id for one in found if one.last_served},
    )
    return Ranking(choices, candidates)


def _patients(store: Store, reading: Connection) -> Patients:
    pattern = store.settings.training.patient_pattern
    salt = store.ledger.fact(reading, SALT)
    if salt is not None:
        return Patients(pattern, salt)
    with store.ledger.writing() as connection:  # the first choice of all
        return Patients.of(store.ledger, connection, pattern)


def _candidates(
    connection: Connection,
    strategy: Strategy,
    patients: Patients,
    model_version: str,
    at_hand: Callable[[str], bool] | None,
    start: float,
) -> list[Candidate]:
    most = {} if at_hand is None else {"limit": _MOST_AT_HAND, "sample": _MOST_AT_HAND}
    for walks in (strategy.walks, strategy.or_else):
        found = pool.candidates(
            connection, walks, model_version=model_version, start=start, fetched=at_hand is not None,
            patients=patients, **most,
        )  # fmt: skip
        if at_hand is not None:
            found = [one for one in found if at_hand(one.image_id)]
        if found:
            return found
    return []


def _history(connection: Connection, store: Store, strategy: Strategy, model_version: str, length: int) -> History:
    return History(
        model_version=model_version,
        labelled=images.count_labelled(connection),
        planned=store.settings.active_learning.planned_labels,
        picked=leases.picked(connection, strategy.name),
        embeddings=scores.embeddings_of_known(connection, length),
    )
