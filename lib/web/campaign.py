"""How the labelling campaign stands, for clients: worked out anew at most twice a minute."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from lib.activelearning.campaign import campaign_of
from lib.errors import LiverLoopError
from lib.store.store import Store
from lib.training.gate_history import gate_history
from lib.training.registry import Registry

logger = logging.getLogger(__name__)

_KEPT_S = 30.0


def campaign_stats(store: Store, registry: Registry) -> dict[str, Any]:
    """What clients show of the campaign, see `lib.activelearning.campaign.Campaign.short`.

    Raises:
        StorageError: the ledger can't be read.
    """
    versions = registry.list()
    in_force = next((version.id for version in versions if version.is_published), None)
    return campaign_of(store, gate_history(versions), in_force, corrections_only=True).short()


class CampaignStats:
    """The same, at most half a minute old; safe to use from several threads.

    Args:
        store: of the labels.
        registry: gives the app's model versions.
        kept_s: how old it may be.
    """

    def __init__(self, store: Store, registry: Callable[[], Registry], kept_s: float = _KEPT_S) -> None:
        self._store, self._registry, self._kept_s = store, registry, kept_s
        self._lock = threading.Lock()
        self._found_at = -float("inf")
        self._found: dict[str, Any] = {}

    def told(self) -> dict[str, Any]:
        """`{"campaign": ...}` for `/info`; empty while the ledger can't be read, which is told elsewhere."""
        with self._lock:
            if time.monotonic() - self._found_at > self._kept_s:
                try:
                    self._found = {"campaign": campaign_stats(self._store, self._registry())}
                except LiverLoopError as error:
                    logger.warning("how the campaign stands is not known: %s", error)
                    return {}
                self._found_at = time.monotonic()
            return self._found
