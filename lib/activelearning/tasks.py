"""MONAI Label's strategy and scoring interfaces: thin shells around `next_image`, `strategies` and `score_all`.

They use the ledger of a folder or a PACS. Over a datastore without one, which keeps no scores, there are only the
strategies that need none.
"""

import logging
from typing import Any

import numpy as np
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy

from lib.activelearning.history import History
from lib.activelearning.next_image import next_sample
from lib.activelearning.score_all import score_all
from lib.activelearning.score_keeper import ScoreKeeper
from lib.activelearning.strategies import STRATEGIES
from lib.activelearning.strategy import BY_NAME, BY_TURN
from lib.activelearning.told import told
from lib.errors import BadInputError, LiverLoopError, SettingsError
from lib.inference.device import choose_device
from lib.inference.model import ModelSource
from lib.inference.overlapped import workers_for
from lib.inference.shared import SharedSegmenter
from lib.looked_at import both_judged
from lib.metrics.overlap import Overlap
from lib.settings import Settings
from lib.store.leases import REVIEW
from lib.store.pool import Candidate
from lib.store.store import Store
from lib.volume_io import read_label

logger = logging.getLogger(__name__)


class StrategyTask(Strategy):
    """One of our strategies behind MONAI Label's interface.

    Args:
        name: of the strategy.
        source: the model in force, whose scores come first.
    """

    def __init__(self, name: str, source: ModelSource) -> None:
        self._strategy = STRATEGIES[name]
        super().__init__(self._strategy.description)
        self._source = source

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """The next image; None when nothing is left.

        Request keys for a studies folder: `client_id`, who gets the image; `skip`, see `next_sample`.

        Returns:
            `{"id", "reason", "score"}`; of a studies folder also what `lib.activelearning.told` says.

        Raises:
            BadInputError: the strategy can't be had with this datastore.
            BusyError: all images that are left are in other hands.
        """
        rng = np.random.default_rng()
        store = _store(datastore)
        if store is not None:
            return self._lease(request, store, rng)
        self._check_needs_no_ledger()
        waiting = datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels"))
        if not waiting:
            return None
        candidates = [_candidate(image, datastore.get_image_info(image)) for image in waiting]
        choice = self._strategy.rank(candidates, History(), rng)[0]
        return {"id": choice.image_id, "reason": choice.reason, "score": choice.score}

    def _lease(self, request: dict[str, Any], store: Store, rng: np.random.Generator) -> dict[str, Any] | None:
        # An app without weights hands out images as well.
        version = self._source.version if self._source.path_or_none else None
        lease = next_sample(
            store,
            self._strategy.name,
            str(request.get("client_id") or "anonymous"),
            model_version=version,
            skip=request.get("skip") or False,
            rng=rng,
        )
        return None if lease is None else told(store, lease, version)

    def _check_needs_no_ledger(self) -> None:
        if {*self._strategy.walks} <= {BY_NAME, BY_TURN}:
            return
        what = "versions of labels" if self._strategy.name == REVIEW else "scores"
        msg = f"the strategy {self._strategy.name} needs a ledger, which keeps {what}; this datastore has none"
        raise BadInputError(msg)


def strategy_tasks(settings: Settings, source: ModelSource) -> dict[str, Strategy]:
    """The strategies that `app.yaml` names, the default first.

    Raises:
        SettingsError: there is no strategy of such a name.
    """
    chosen = settings.active_learning.strategies
    unknown = [name for name in chosen if name not in STRATEGIES]
    if unknown:
        msg = (
            f"app.yaml: active_learning.strategies: there is no strategy {unknown[0]!r}; choose from "
            f"{', '.join(STRATEGIES)}"
        )
        raise SettingsError(msg)
    return {name: StrategyTask(name, source) for name in chosen}


class ScoresScoring(ScoringMethod):
    """Scores every image to be labelled with the model in force; those already scored by it are skipped.

    Args:
        settings: of the app.
        source: the model in force.
    """

    def __init__(self, settings: Settings, source: ModelSource) -> None:
        super().__init__("What the current model shows of each unlabelled image, for the strategies")
        self._settings, self._source = settings, source

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, dict[str, Any]]:
        """Score and keep; by image what came of those scored now: `{"entropy": ...}` or `{"error": reason}`.

        Raises:
            BadInputError: the datastore has no ledger.
        """
        store = _store(datastore)
        if store is None:
            msg = "scores are kept in a ledger; this datastore has none"
            raise BadInputError(msg)
        keeper = ScoreKeeper(store, self._settings)
        segmenter = SharedSegmenter(self._settings, self._source, keeper.watch)
        try:
            return score_all(store, keeper, self._source, segmenter.score, workers_for(choose_device()))
        finally:
            segmenter.close()


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


def _candidate(image_id: str, info: dict[str, Any]) -> Candidate:
    served = [_noted(info, "strategy", name).get("ts") for name in _noted(info, "strategy")]
    times = [float(at) for at in served if isinstance(at, int | float)]
    return Candidate(image_id, last_served=max(times, default=0.0))


def _noted(info: dict[str, Any], *keys: str) -> dict[str, Any]:
    """What is noted about an image under these keys; a client may have put anything there."""
    for key in keys:
        found = info.get(key)
        info = found if isinstance(found, dict) else {}
    return info
