"""How many of everything the ledger holds, for whoever watches a server: cheap enough to be asked every few seconds."""

import threading
import time
from collections import Counter
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from lib.store import images, segs, trainings
from lib.store.ledger import Ledger
from lib.store.schema import leases as leases_table
from lib.store.schema import trainings as trainings_table
from lib.store.schema import versions as versions_table

_KEPT_S = 10.0


@dataclass(frozen=True)
class Figures:
    """Counts.

    Args:
        images: by "total", "completed", "open", "excluded" and "unfit".
        leases: images in somebody's hands.
        labels: versions of labels ever made, by source.
        trainings: by "published", "kept", "failed" and "running".
        segs: "sent", "taken_in", "waiting", "refused", "not_taken_in"; empty without a PACS.
    """

    images: dict[str, int]
    leases: int
    labels: dict[str, int]
    trainings: dict[str, int]
    segs: dict[str, int]


class LedgerFigures:
    """The figures of a ledger, at most a few seconds old; safe to use from several threads.

    Args:
        ledger: to count in.
        kept_s: how old they may be.
    """

    def __init__(self, ledger: Ledger, kept_s: float = _KEPT_S) -> None:
        self._ledger, self._kept_s = ledger, kept_s
        self._lock = threading.Lock()
        self._counted_at = -float("inf")
        self._figures: Figures | None = None
        self._labels: Counter[str] = Counter()
        self._last_version = 0

    def get(self) -> Figures:
        """The figures.

        Raises:
            StorageError: the ledger can't be read.
        """
        with self._lock:
            if self._figures is None or time.monotonic() - self._counted_at > self._kept_s:
                with self._ledger.reading() as connection:
                    self._figures = self._counted(connection)
                self._counted_at = time.monotonic()
            return self._figures

    def _counted(self, connection: Connection) -> Figures:
        self._count_new_labels(connection)
        held = select(func.count()).select_from(leases_table).where(leases_table.c.expires_at > time.time())
        exchange = segs.status(self._ledger, connection) or {}
        return Figures(
            images=images.counts(connection),
            leases=int(connection.scalar(held) or 0),
            labels=dict(self._labels),
            trainings=_trainings(connection),
            segs={name: count for name, count in exchange.items() if isinstance(count, int)},
        )

    def _count_new_labels(self, connection: Connection) -> None:
        """Versions are only ever added, so that only the new ones are counted."""
        source, key = versions_table.c.source, versions_table.c.id
        query = select(source, func.count(), func.max(key)).where(key > self._last_version).group_by(source)
        for name, count, last in connection.execute(query).all():
            self._labels[name] += int(count)
            self._last_version = max(self._last_version, int(last))


def _trainings(connection: Connection) -> dict[str, int]:
    columns = trainings_table.c.succeeded, trainings_table.c.published
    query = select(*columns, func.count()).where(trainings_table.c.ended_at.is_not(None)).group_by(*columns)
    found = Counter({"published": 0, "kept": 0, "failed": 0})
    for succeeded, published, count in connection.execute(query):
        found["failed" if not succeeded else "published" if published else "kept"] += int(count)
    return {**found, "running": len(trainings.running(connection, time.time()))}
