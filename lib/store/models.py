"""An index of the model versions that lie in an app's folder: which there are, and which annotators got when.

The folder is the truth and may change without a ledger; `follow` brings the index in line with it.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, insert, select, update

from lib.store import events
from lib.store.schema import models


@dataclass(frozen=True)
class IndexedModel:
    """One model version.

    Args:
        id: the version.
        made_at: seconds since the epoch.
        parent: the version that its training started from, None for fresh weights.
        published_at: when it was last given to annotators, None if never.
        published_by: by whom.
        reason: why it was, or why it was not.
        sha256: of the weights file.
        metrics: figures by name.
    """

    id: str
    made_at: float
    parent: str | None
    published_at: float | None
    published_by: str | None
    reason: str | None
    sha256: str
    metrics: dict[str, Any]


@dataclass(frozen=True)
class Published:
    """One time that a version was given to annotators, as a folder remembers it."""

    id: str
    at: float
    by: str
    reason: str


def list_all(connection: Connection) -> list[IndexedModel]:
    """Every version that was ever seen, the newest first."""
    rows = connection.execute(select(models).order_by(models.c.made_at.desc(), models.c.id.desc())).mappings()
    return [IndexedModel(**row) for row in rows]


def follow(connection: Connection, found: Iterable[IndexedModel], published: Iterable[Published]) -> None:
    """Write down what is new, and an event for each; versions whose folder is gone stay in the index.

    Args:
        connection: a transaction.
        found: the versions there are.
        published: every publication, oldest first; those since the last one that the ledger knows become events.
    """
    known = {model.id: model for model in list_all(connection)}
    last = max((model.published_at for model in known.values() if model.published_at is not None), default=0.0)
    for model in found:
        before = known.get(model.id)
        if before is None:
            connection.execute(insert(models).values(**asdict(model)))
            detail = {"version": model.id, "parent": model.parent, "reason": model.reason}
            events.record(connection, "model added", detail=detail)
        elif before != model:
            connection.execute(update(models).where(models.c.id == model.id).values(**asdict(model)))
    for publication in published:
        if publication.at > last:
            detail = {"version": publication.id, "reason": publication.reason}
            events.record(connection, "model published", actor=publication.by, detail=detail)
