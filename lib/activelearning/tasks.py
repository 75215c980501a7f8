"""MONAI Label's strategy and scoring interfaces: thin shells around `strategies` and `uncertainty`."""

import logging
import time
from typing import Any

import numpy as np
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy

from lib.activelearning.strategies import DESCRIPTIONS, STRATEGIES, Candidate
from lib.activelearning.uncertainty import uncertainty_score
from lib.errors import LiverLoopError
from lib.inference.device import choose_device
from lib.inference.model import ModelSource
from lib.metrics.overlap import Overlap
from lib.settings import Settings
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
        super().__init__(DESCRIPTIONS[name])
        self._choose = STRATEGIES[name]
        self._source = source
        self._rng = np.random.default_rng()

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """The next image as `{"id", "reason", "score"}`; None when all are labelled."""
        images = datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels"))
        if not images:
            return None
        version = self._source.version
        candidates = [_candidate(image, datastore.get_image_info(image), version) for image in images]
        choice = self._choose(candidates, self._rng)
        return {"id": choice.image_id, "reason": choice.reason, "score": choice.score}


class UncertaintyScoring(ScoringMethod):
    """Scores every unlabelled image with the model in force; those already scored by it are skipped."""

    def __init__(self, settings: Settings, source: ModelSource) -> None:
        super().__init__("How unsure the current model is of each unlabelled image")
        self._settings = settings
        self._source = source

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, float]:
        """Score and store; returns `{image id: score}` of those scored now."""
        model = self._source.get(choose_device(_device(request)))
        chosen = self._settings.active_learning
        images = sorted(datastore.get_unlabeled_images())
        scores: dict[str, float] = {}
        for position, image_id in enumerate(images, start=1):
            known = datastore.get_image_info(image_id).get(SCORE_KEY) or {}
            if known.get("model_version") == model.version:
                continue
            try:
                volume = read_image(datastore.get_image_uri(image_id))
            except LiverLoopError as error:
                logger.warning("not scored: %s", error)
                continue
            scores[image_id] = uncertainty_score(
                model.network,
                volume.axial(),
                self._settings.blend_channels(),
                passes=chosen.dropout_passes,
                slices=chosen.slices_per_score,
                precision=self._settings.inference.precision,
            )
            stored = {"score": scores[image_id], "model_version": model.version, "ts": int(time.time())}
            datastore.update_image_info(image_id, {SCORE_KEY: stored})
            logger.info("scored %d/%d: %s %.5f", position, len(images), image_id, scores[image_id])
        return scores


class DiceScoring(ScoringMethod):
    """Dice of each class between the submitted label and the pre-segmentation."""

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
                reference, prediction = (read_label(uri).array for uri in uris)
                scores = {n: Overlap.of(reference == i, prediction == i).dice for n, i in self._labels.items()}
            except LiverLoopError as error:
                logger.warning("no Dice for %s: %s", image_id, error)
                continue
            result[image_id] = scores
            datastore.update_image_info(image_id, {"dice": scores})
            logger.info("%s: Dice %s", image_id, ", ".join(f"{n} {v:.4f}" for n, v in scores.items()))
        return result


def _candidate(image_id: str, info: dict[str, Any], version: str) -> Candidate:
    score = info.get(SCORE_KEY) or {}
    served = [entry.get("ts", 0) for entry in (info.get("strategy") or {}).values()]
    return Candidate(
        image_id,
        score.get("score") if score.get("model_version") == version else None,
        max(served, default=0),
    )


def _device(request: dict[str, Any]) -> str | None:
    device = request.get("device")
    first = device[0] if isinstance(device, list) and device else device
    return str(first) if first else None
