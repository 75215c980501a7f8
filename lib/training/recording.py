"""A training as the ledger sees it: that it goes on, what it learns from, what became of it."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lib.errors import LiverLoopError, StorageError
from lib.store import trainings
from lib.store.layout import FINAL
from lib.store.ledger import Ledger
from lib.store.store import Store

logger = logging.getLogger(__name__)

BY_ITSELF = "training_by_itself"  # in a training's request: the number that the server gave it in the ledger
_EVERY_S = 15.0


@contextmanager
def recorded(
    store: Store, claimed: int | None, on_begin: Callable[[int], object] | None = None
) -> Iterator[dict[str, Any]]:
    """Keep a training in the ledger while the block runs.

    The labels that it learns from are those that the studies folder holds when the block begins.

    Args:
        store: of the studies folder.
        claimed: the number that a server gave it which starts it by itself; None: somebody asked for it.
        on_begin: called with the training's number in the ledger.

    Yields:
        Gets `version`, `published` and `reason` of what came out before the block ends.

    Raises:
        NotFoundError: the server has given up the training of this number.
        StorageError: the ledger can't be written.
    """
    with store.ledger.writing() as connection:
        number = trainings.begin(connection, claimed)
    if on_begin:
        on_begin(number)
    over = threading.Event()
    # A thread, since nothing else comes by regularly: reading a case or comparing models may take minutes.
    pulse = threading.Thread(target=_beat, args=(store.ledger, number, over), name="training-goes-on", daemon=True)
    pulse.start()
    outcome: dict[str, Any] = {}
    try:
        store.take_in(FINAL)  # labels that lie in the folder are learned from, too
        with store.ledger.writing() as connection:
            trainings.note_labels(connection, number)
        yield outcome
    except BaseException as error:
        _end(store.ledger, number, _reason(error), succeeded=False)
        raise
    else:
        verdict = "published" if outcome["published"] else "kept, not published"
        result = f"model {outcome['version']} {verdict}: {outcome['reason']}"
        _end(store.ledger, number, result, succeeded=True, version=outcome["version"], published=outcome["published"])
    finally:
        over.set()
        pulse.join()


def _reason(error: BaseException) -> str:
    """Why a training failed, on one line."""
    if not isinstance(error, Exception):  # Ctrl-C, exit
        return "it was interrupted"
    said = " ".join(str(error).split())
    if isinstance(error, LiverLoopError) and said:
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _end(ledger: Ledger, number: int, result: str, **facts: Any) -> None:
    """The model is what it is, whether that can be written down or not."""
    try:
        with ledger.writing() as connection:
            trainings.end(connection, number, result, **facts)
    except StorageError as error:
        logger.warning("the end of training %d is not in the ledger: %s", number, error)


def _beat(ledger: Ledger, number: int, over: threading.Event) -> None:
    while not over.wait(_EVERY_S):
        try:
            with ledger.writing() as connection:
                trainings.note_alive(connection, number)
        except StorageError as error:
            logger.warning("that training %d goes on is not in the ledger: %s", number, error)
