"""Who has which image: one annotator at a time, until a label is saved or the time is over.

Every function works on a connection of `Ledger.reading` or, where it changes something, of `Ledger.writing`. As writers
come one at a time, what a transaction finds free stays free until its end.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    CursorResult,
    bindparam,
    delete,
    exists,
    insert,
    select,
    tuple_,
    update,
)

from lib.case_scores import Span
from lib.store import scores
from lib.store.events import SERVER, record
from lib.store.schema import events, images, leases, picks

HANDED_OUT = "image handed out"  # the event
REVIEW = "review"  # the one strategy that hands out images which have a final label
# Built once, as that takes longer than to execute them.
_LEASES = select(leases).order_by(leases.c.acquired_at, leases.c.image_id)
_HELD_BY = _LEASES.where(leases.c.client_id == bindparam("client_id"))
_PICKED = select(picks.c.part, picks.c.count).where(picks.c.strategy == bindparam("by")).order_by(picks.c.part)
_HAS_EXPIRED = select(exists().where(leases.c.expires_at <= bindparam("now")))


@dataclass(frozen=True)
class Lease:
    """An image in somebody's hands.

    Args:
        image_id: of the image.
        client_id: whose it is.
        strategy: by which it was chosen.
        reason: why, in words.
        score: by which it was chosen, None if by none.
        acquired_at: seconds since the epoch.
        renewed_at: the same, when its holder last worked on it.
        expires_at: the same.
        part: of the strategy which chose it, empty if it has none.
        slices: worth looking at.
    """

    image_id: str
    client_id: str
    strategy: str
    reason: str
    score: float | None
    acquired_at: float
    renewed_at: float
    expires_at: float
    part: str = ""
    slices: tuple[Span, ...] = ()

    def described(self) -> dict[str, Any]:
        """As JSON: times in ISO format, and for how many seconds it goes on."""
        times = {key: iso_time(getattr(self, key)) for key in ("acquired_at", "renewed_at", "expires_at")}
        slices = [asdict(span) for span in self.slices]
        return {**asdict(self), **times, "slices": slices, "seconds": round(max(0.0, self.expires_at - time.time()), 1)}


def iso_time(at: float) -> str:
    """Seconds since the epoch as UTC in ISO format, to the millisecond."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def acquire(
    connection: Connection,
    image_id: str,
    client_id: str,
    *,
    strategy: str,
    reason: str,
    score: float | None,
    seconds: float,
    part: str = "",
    slices: Sequence[Span] = (),
) -> Lease:
    """Give an image that nobody has to a client, and note when, so that it comes last should it come back.

    Args:
        connection: a transaction.
        image_id: of the image.
        client_id: who gets it.
        strategy: by which it was chosen.
        reason: why, in words.
        score: by which it was chosen.
        seconds: how long it is kept unless renewed.
        part: of the strategy, to be counted, see `picked`.
        slices: worth looking at.
    """
    now = time.time()
    lease = Lease(image_id, client_id, strategy, reason, score, now, now, now + seconds, part, tuple(slices))
    spans = [asdict(span) for span in slices] or None
    connection.execute(insert(leases).values({**asdict(lease), "slices": spans}))
    served: dict[str, float] = {"served_at": now}
    if strategy == REVIEW:
        served["to_review"] = -now  # behind those that were not handed out yet, and those handed out before
    connection.execute(update(images).where(images.c.image_id == image_id).values(served))
    scores.note_handed_out(connection, image_id)
    _count_pick(connection, strategy, part)
    detail = {"strategy": strategy, "reason": reason, "score": score} | ({"part": part} if part else {})
    record(connection, HANDED_OUT, image_id, actor=client_id, detail=detail)
    return lease


def picked(connection: Connection, strategy: str) -> dict[str, int]:
    """By part of a strategy, how many images it has chosen."""
    return dict(connection.execute(_PICKED, {"by": strategy}).tuples().all())


def last_handed_out(connection: Connection, count: int = 2) -> list[str]:
    """Ids of the images that were handed out last, to anybody, the last one first; an image may be there twice."""
    place = tuple_(events.c.kind, events.c.id)
    # Cut off here, see `lib.store.walks`.
    walk = select(events.c.kind, events.c.image_id).where(place <= tuple_(HANDED_OUT, 2**63 - 1))
    rows = connection.execute(walk.order_by(events.c.kind.desc(), events.c.id.desc()).limit(count))
    return [row.image_id for row in rows if row.kind == HANDED_OUT]


def of_image(connection: Connection, image_id: str) -> Lease | None:
    """Who has an image, None if nobody."""
    found = _select(connection, leases.c.image_id == image_id)
    return found[0] if found else None


def held_by(connection: Connection, client_id: str, strategy: str | None = None) -> list[Lease]:
    """What a client has, by one strategy or by any, the first acquired first."""
    held = _rows(connection.execute(_HELD_BY, {"client_id": client_id}))
    return [lease for lease in held if strategy in {None, lease.strategy}]


def list_all(connection: Connection) -> list[Lease]:
    """Every lease, the first acquired first; there are no more than annotators ask for."""
    return _select(connection)


def renew(connection: Connection, image_id: str, client_id: str, seconds: float) -> bool:
    """Let a client keep an image for so many seconds from now; False if it is not the client's."""
    now = time.time()
    query = update(leases).where(leases.c.image_id == image_id, leases.c.client_id == client_id)
    return bool(connection.execute(query.values(renewed_at=now, expires_at=now + seconds)).rowcount)


def free(
    connection: Connection,
    image_id: str,
    *,
    actor: str,
    why: str,
    kind: str = "lease freed",
    uncounted: bool = False,
) -> Lease | None:
    """Take an image back.

    Args:
        connection: a transaction.
        image_id: of the image.
        actor: who does that.
        why: in words.
        kind: of the event.
        uncounted: its choice no longer counts in `picked`, as nobody could be given the image.

    Returns:
        What ended, None if nobody had the image.
    """
    lease = of_image(connection, image_id)
    if lease is None:
        return None
    connection.execute(delete(leases).where(leases.c.image_id == image_id))
    detail = {"client_id": lease.client_id, "strategy": lease.strategy, "why": why}
    record(connection, kind, image_id, actor=actor, detail=detail)
    if uncounted:
        here = (picks.c.strategy == lease.strategy, picks.c.part == lease.part, picks.c.count > 0)
        connection.execute(update(picks).where(*here).values(count=picks.c.count - 1))
    return lease


def has_expired(connection: Connection) -> bool:
    """Whether the time of any lease is over."""
    return bool(connection.scalar(_HAS_EXPIRED, {"now": time.time()}))


def expire(connection: Connection) -> int:
    """Take back every image whose time is over; returns how many."""
    over = _select(connection, leases.c.expires_at <= time.time())
    for lease in over:
        free(connection, lease.image_id, actor=SERVER, why="its time was over", kind="lease expired")
    return len(over)


def of_row(row: Mapping[str, Any]) -> Lease:
    """The lease that a row of the table is."""
    return Lease(**{**row, "slices": tuple(Span(**span) for span in row["slices"] or ())})


def _count_pick(connection: Connection, strategy: str, part: str) -> None:
    here = (picks.c.strategy == strategy, picks.c.part == part)
    if not connection.execute(update(picks).where(*here).values(count=picks.c.count + 1)).rowcount:
        connection.execute(insert(picks).values(strategy=strategy, part=part, count=1))


def _select(connection: Connection, *conditions: ColumnElement[bool]) -> list[Lease]:
    return _rows(connection.execute(_LEASES.where(*conditions)))


def _rows(found: CursorResult[Any]) -> list[Lease]:
    return [of_row(row._asdict()) for row in found]
