"""What happened in the store, only ever added to: what nobody may find out by chance."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select

from lib.store.schema import events

SERVER = "server"  # who did what nobody asked for


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    Args:
        id: counts up.
        at: seconds since the epoch.
        kind: such as `"image vanished"`, `"label refused"`.
        image_id: of what image, None if of none.
        tag: of what label, None if of none.
        actor: client, user or `"server"`.
        detail: what else is known.
    """

    id: int
    at: float
    kind: str
    image_id: str | None
    tag: str | None
    actor: str
    detail: dict[str, Any]


def record(
    connection: Connection,
    kind: str,
    image_id: str | None = None,
    tag: str | None = None,
    *,
    actor: str = SERVER,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Note what happened, in the transaction that makes it happen."""
    connection.execute(
        insert(events).values(
            at=time.time(), kind=kind, image_id=image_id, tag=tag, actor=actor, detail=dict(detail or {})
        )
    )


def history(
    connection: Connection,
    image_id: str | None = None,
    *,
    after: int = 0,
    limit: int = 100,
    kind: str | None = None,
) -> list[Event]:
    """What happened, the newest first.

    Args:
        connection: to the ledger.
        image_id: only of this image.
        after: only events with a greater id.
        limit: at most so many.
        kind: only of this kind.
    """
    query = select(events).where(events.c.id > after).order_by(events.c.id.desc()).limit(limit)
    if image_id is not None:
        query = query.where(events.c.image_id == image_id)
    if kind is not None:
        query = query.where(events.c.kind == kind)
    return [Event(**row) for row in connection.execute(query).mappings()]
