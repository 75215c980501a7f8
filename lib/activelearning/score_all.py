"""Scores of all images that wait for a label, for somebody who asks for that instead of waiting for an idle server."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lib.activelearning.score_keeper import ScoreKeeper
from lib.errors import LiverLoopError, StorageError
from lib.inference.model import ModelSource
from lib.store import scores
from lib.store.store import Store

logger = logging.getLogger(__name__)

_PAGE = 64


def score_all(
    store: Store, keeper: ScoreKeeper, source: ModelSource, segment: Callable[[str], object], at_once: int
) -> dict[str, dict[str, Any]]:
    """Score every image to be labelled that the model in force has not scored yet, fetched if need be.

    Args:
        store: of the images.
        keeper: of their scores.
        source: of the model in force.
        segment: segments a file, watched by the keeper's watch; called from several threads.
        at_once: how many images are in work at a time, so that the network need not wait for a disk.

    Returns:
        By image `{"entropy": ..., "bald": ...}`, or `{"error": reason}`.

    Raises:
        ModelError: the model can't be used.
        StorageError: disk, ledger or PACS refused; what was scored until then is kept.
    """
    outcome: dict[str, dict[str, Any]] = {}

    def score(image_id: str) -> str | None:
        try:
            path = store.images.path(image_id)
        except StorageError:
            raise
        except LiverLoopError as error:  # the store has noted it
            return str(error)
        return keeper.score(image_id, path, version, segment)

    with ThreadPoolExecutor(at_once, "score") as threads:
        while True:
            version = source.version
            total = len(outcome) + _count(store, version)
            found = keeper.waiting(version, _PAGE + sum("error" in one for one in outcome.values()))
            page = [one for one in found if "error" not in outcome.get(one, {})][:_PAGE]
            if not page:
                failed = sum("error" in one for one in outcome.values())
                logger.info("scored %d images, %d could not be; no other waits", len(outcome) - failed, failed)
                return outcome
            for image_id, problem in zip(page, threads.map(score, page), strict=True):
                outcome[image_id] = {"error": problem} if problem else _scores_of(store, image_id)
                logger.info("scored %d of %d: %s %s", len(outcome), total, image_id, outcome[image_id])


def _count(store: Store, version: str) -> int:
    with store.ledger.reading() as connection:
        counts = scores.counts(connection, version)
    return counts.earlier + counts.none


def _scores_of(store: Store, image_id: str) -> dict[str, Any]:
    with store.ledger.reading() as connection:
        known = scores.of_images(connection, [image_id], profile=False).get(image_id)
    return {"entropy": known.scores.entropy, "bald": known.scores.bald} if known and known.scores else {}
