"""MONAI Label's strategy and scoring interfaces: thin shells around `next_image`, `strategies` and `uncertainty`.

They use the ledger of a folder or a PACS; over a datastore without one, what that notes about images.
"""

import logging
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy

from lib.activelearning.history import History
from lib.activelearning.next_image import next_sample
from lib.activelearning.strategies import STRATEGIES
from lib.activelearning.uncertainty import uncertainty_score
from lib.errors import BadInputError, LiverLoopError
from lib.inference.device import choose_device
from lib.inference.model import Model, ModelSource
from lib.looked_at import both_judged
from lib.metrics.overlap import Overlap
from lib.settings import Settings
from lib.store import images, pool
from lib.store.leases import REVIEW
from lib.store.pool import Candidate
from lib.store.store import Store
from lib.volume import Volume
from lib.volume_io import read_image, read_label

logger = logging.getLogger(__name__)
SCORE_KEY = "uncertainty"


class StrategyTask(Strategy):
    """One of our strategies behind MONAI Label's interface.

    Args:
        name: of the strategy.
        source: the model in force; scores of other versions do not count.
    """

    def __init__(self, name: str, source: ModelSource) -> None:
        super().__init__(STRATEGIES[name].description)
        self._name = name
        self._source = source
        self._rng = np.random.default_rng()

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """The next image; None when nothing is left.

        Request keys for a studies folder: `client_id`, who gets the image; `skip`, see `next_sample`.

        Returns:
            `{"id", "reason", "score"}`; of a studies folder `strategy` and `lease` as well.

        Raises:
            BadInputError: the strategy can't be had with this datastore.
            BusyError: all images that are left are in other hands.
        """
        store = _store(datastore)
        if store is not None:
            return self._lease(request, store)
        if self._name == REVIEW:
            msg = "the strategy review needs a ledger, which keeps versions of labels; this datastore has none"
            raise BadInputError(msg)
        waiting = datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels"))
        if not waiting:
            return None
        version = self._source.version
        candidates = [_candidate(image, datastore.get_image_info(image), version) for image in waiting]
        choice = STRATEGIES[self._name].rank(candidates, History(version), self._rng)[0]
        return {"id": choice.image_id, "reason": choice.reason, "score": choice.score}

    def _lease(self, request: dict[str, Any], store: Store) -> dict[str, Any] | None:
        lease = next_sample(
            store,
            self._name,
            str(request.get("client_id") or "anonymous"),
            # An app without weights hands out images as well.
            model_version=self._source.version if self._source.path_or_none else None,
            skip=request.get("skip") or False,
            rng=self._rng,
        )
        if lease is None:
            return None
        return {
            "id": lease.image_id,
            "reason": lease.reason,
            "score": lease.score,
            "strategy": lease.strategy,
            "lease": lease.described(),
        }


class UncertaintyScoring(ScoringMethod):
    """Scores every image to be labelled with the model in force; those already scored by it are skipped."""

    def __init__(self, settings: Settings, source: ModelSource) -> None:
        super().__init__("How unsure the current model is of each unlabelled image")
        self._settings = settings
        self._source = source

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, float]:
        """Score and store; returns `{image id: score}` of those scored now."""
        model = self._source.get(choose_device(_device(request)))
        store = _store(datastore)
        scores: dict[str, float] = {}
        for image_id in _not_scored(store, datastore, model.version):
            try:
                scores[image_id] = self._score(model, read_image(datastore.get_image_uri(image_id)))
                _note_score(store, datastore, image_id, scores[image_id], model.version)
            except LiverLoopError as error:
                logger.warning("not scored: %s", error)
                continue
            logger.info("scored %d: %s %.5f", len(scores), image_id, scores[image_id])
        return scores

    def _score(self, model: Model, volume: Volume) -> float:
        chosen = self._settings.active_learning
        return uncertainty_score(
            model.network,
            volume.axial(),
            self._settings.blend_channels(),
            passes=chosen.dropout_passes,
            slices=chosen.slices_per_score,
            precision=self._settings.inference.precision,
        )


class DiceScoring(ScoringMethod):
    """Dice of each class between the submitted label, where somebody looked at it, and the pre-segmentation."""

    def __init__(self, settings: Settings) -> None:
        super().__init__("Dice per class of the submitted label against the pre-segmentation")
        self._labels = settings.label_indices()

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, dict[str, float]]:
        """Compare tags `y` (default final) and `y_pred` (default original) and store the result with the image."""
        tags = request.get("y") or DefaultLabelTag.FINAL, request.get("y_pred") or DefaultLabelTag.ORIGINAL
        result: dict[str, dict[str, float]] = {}
        for image_id in datastore.list_images():
            uris = [datastore.get_label_uri(image_id, tag) for tag in tags]
            if not all(uris):
                continue
            try:
                reference, prediction = both_judged(*(read_label(uri).array for uri in uris))
                scores = {n: Overlap.of(reference == i, prediction == i).dice for n, i in self._labels.items()}
            except LiverLoopError as error:
                logger.warning("no Dice for %s: %s", image_id, error)
                continue
            result[image_id] = scores
            datastore.update_image_info(image_id, {"dice": scores})
            logger.info("%s: Dice %s", image_id, ", ".join(f"{n} {v:.4f}" for n, v in scores.items()))
        return result


def _store(datastore: Datastore) -> Store | None:
    """The store of a folder or a PACS; None behind a datastore of another kind."""
    return getattr(datastore, "store", None)


def _not_scored(store: Store | None, datastore: Datastore, version: str) -> Iterator[str]:
    """The images to be labelled that this model version has not scored, by name."""
    if store is None:
        for image_id in sorted(datastore.get_unlabeled_images()):
            if _noted(datastore.get_image_info(image_id), SCORE_KEY).get("model_version") != version:
                yield image_id
        return
    after = ""
    while True:
        with store.ledger.reading() as connection:
            page = pool.not_scored(connection, version, after)
        if not page:
            return
        yield from page
        after = page[-1]


def _note_score(store: Store | None, datastore: Datastore, image_id: str, score: float, version: str) -> None:
    """Keep a score where strategies look for it, and where clients can read it."""
    stored = {SCORE_KEY: {"score": score, "model_version": version, "ts": int(time.time())}}
    if store is None:
        datastore.update_image_info(image_id, stored)
        return
    with store.ledger.writing() as connection:
        images.note_info(connection, image_id, stored)
        images.note_score(connection, image_id, score, version)


def _candidate(image_id: str, info: dict[str, Any], version: str) -> Candidate:
    score = _noted(info, SCORE_KEY)
    value = score.get("score") if score.get("model_version") == version else None
    served = [_noted(info, "strategy", name).get("ts") for name in _noted(info, "strategy")]
    times = [float(at) for at in served if isinstance(at, int | float)]
    return Candidate(image_id, float(value) if isinstance(value, int | float) else None, max(times, default=0.0))


def _noted(info: dict[str, Any], *keys: str) -> dict[str, Any]:
    """What is noted about an image under these keys; a client may have put anything there."""
    for key in keys:
        found = info.get(key)
        info = found if isinstance(found, dict) else {}
    return info


def _device(request: dict[str, Any]) -> str | None:
    device = request.get("device")
    first = device[0] if isinstance(device, list) and device else device
    return str(first) if first else None
