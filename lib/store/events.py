"""What happened in the store, only ever added to: what nobody may find out by chance."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select

from lib.access.names import name_key
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


def walk(
    connection: Connection,
    *,
    since: float | None = None,
    before: float | None = None,
    user: str | None = None,
    kind: str | None = None,
) -> Iterator[Event]:
    """What happened, the oldest first, however much it is.

    Args:
        connection: to the ledger; as long as events are read.
        since: only from then on, seconds since the epoch.
        before: only before then.
        user: only what this user did, or what was done about their account; in any spelling.
        kind: only of this kind.
    """
    query = select(events).order_by(events.c.id)
    if since is not None:
        query = query.where(events.c.at >= since)
    if before is not None:
        query = query.where(events.c.at < before)
    if kind is not None:
        query = query.where(events.c.kind == kind)
    with connection.execution_options(yield_per=1000).execute(query) as result:
        for row in result.mappings():
            event = Event(**row)
            # Not by the database: SQLite knows upper and lower case of ASCII alone.
            if user is None or name_key(user) in {name_key(name) for name in _names(event)}:
                yield event


def _names(event: Event) -> list[str]:
    about = event.detail.get("user")
    return [event.actor, about] if isinstance(about, str) else [event.actor]
