"""Which trainings there were, and which labels none of them has learned from.

Several servers may share a ledger, and the process of a training may be killed or go on without its server. Hence a
training says every few seconds that it goes on; one that has not done so for `LOST_S` was killed. The clocks of
machines that share a ledger must agree to a minute.

Every function works on a connection of `Ledger.reading` or, where it changes something, of `Ledger.writing`.
"""

import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, insert, select, true, update

from lib.errors import NotFoundError
from lib.store import versions
from lib.store.events import record
from lib.store.layout import FINAL
from lib.store.schema import trainings
from lib.store.schema import versions as versions_table

LOST_S = 180.0  # the start of a training's process, which says nothing yet, takes up to a minute on a slow disk


@dataclass(frozen=True)
class Training:
    """One training; the columns are explained in `lib.store.schema`."""

    id: int
    by_itself: bool
    started_at: float
    alive_at: float
    ended_at: float | None
    labels_up_to: int | None
    succeeded: bool | None
    result: str | None
    version: str | None
    published: bool | None

    def over_at(self, now: float) -> float | None:
        """When it ended or was last heard of, in seconds since the epoch; None while it goes on."""
        if self.ended_at is not None:
            return self.ended_at
        # By a clock that was set back, it said so in the future; that must not keep it alive for years.
        return None if abs(now - self.alive_at) < LOST_S else self.alive_at


def get(connection: Connection, training: int) -> Training:
    """One training.

    Raises:
        NotFoundError: there is none of this number.
    """
    found = _found(connection, trainings.c.id == training)
    if not found:
        msg = f"there is no training {training} in the ledger"
        raise NotFoundError(msg)
    return found[0]


def last(connection: Connection) -> Training | None:
    """The training that began last, None if there was none."""
    found = _found(connection, trainings.c.id == select(func.max(trainings.c.id)).scalar_subquery())
    return found[0] if found else None


def running(connection: Connection, now: float) -> list[Training]:
    """The trainings that go on, the first begun first."""
    return [one for one in _found(connection, trainings.c.ended_at.is_(None)) if one.over_at(now) is None]


def failures(connection: Connection, now: float) -> list[Training]:
    """The trainings that are over and came to no end since one did, the first begun first."""
    successes = select(func.coalesce(func.max(trainings.c.id), 0)).where(trainings.c.succeeded == true())
    found = _found(connection, trainings.c.id > successes.scalar_subquery())
    return [one for one in found if one.over_at(now) is not None]


def new_labels(connection: Connection) -> int:
    """How many images to train on got a final label that no training which came to its end has known.

    A label that a model made, or that was only renumbered since the site changed its classes, is no new one.
    """
    learned = select(func.max(trainings.c.labels_up_to)).where(trainings.c.succeeded == true()).scalar_subquery()
    query = select(versions_table.c.image_id).where(
        versions_table.c.tag == FINAL,
        versions_table.c.id > func.coalesce(learned, 0),
        versions_table.c.source.not_in(("model", "remapped")),
    )
    return versions.count_to_train_on(connection, FINAL, query)


def claim(connection: Connection) -> int:
    """Note that a server is about to start a training by itself; returns its number."""
    return _added(connection, by_itself=True)


def begin(connection: Connection, claimed: int | None = None) -> int:
    """Note that a training's process has begun its work.

    Args:
        connection: a transaction.
        claimed: the number that `claim` gave it; None: somebody asked for it.

    Returns:
        The training's number.

    Raises:
        NotFoundError: it has ended already, for its server gave it up, or there is none of this number.
    """
    if claimed is None:
        return _added(connection, by_itself=False)
    if not _changed(connection, claimed, alive_at=time.time()):
        msg = f"the training {claimed} has ended already or is unknown to the ledger"
        raise NotFoundError(msg)
    return claimed


def note_labels(connection: Connection, training: int) -> None:
    """Note that a training takes its labels now: those of later are new to it."""
    seen = connection.scalar(select(func.coalesce(func.max(versions_table.c.id), 0)))
    _changed(connection, training, labels_up_to=seen)


def note_alive(connection: Connection, training: int) -> None:
    """Note that a training goes on."""
    _changed(connection, training, alive_at=time.time())


def end(
    connection: Connection,
    training: int,
    result: str,
    *,
    succeeded: bool,
    version: str | None = None,
    published: bool | None = None,
) -> bool:
    """Note what became of a training.

    Args:
        connection: a transaction.
        training: its number.
        result: what became of it, in one sentence.
        succeeded: it came to its end, so that its labels are no longer new.
        version: of the model that it made.
        published: whether annotators got that.

    Returns:
        False where its end was noted before; that stays what it is.
    """
    facts = {"succeeded": succeeded, "result": result, "version": version, "published": published}
    if not _changed(connection, training, ended_at=time.time(), **facts):
        return False
    record(connection, "training ended", detail={"training": training, "succeeded": succeeded, "result": result})
    return True


def _added(connection: Connection, *, by_itself: bool) -> int:
    now = time.time()
    inserted = connection.execute(insert(trainings).values(by_itself=by_itself, started_at=now, alive_at=now))
    assert inserted.inserted_primary_key is not None  # both databases give the key
    number = int(inserted.inserted_primary_key[0])
    record(connection, "training started", detail={"training": number, "by_itself": by_itself})
    return number


def _found(connection: Connection, *where: ColumnElement[bool]) -> list[Training]:
    rows = connection.execute(select(trainings).where(*where).order_by(trainings.c.id)).mappings()
    return [Training(**row) for row in rows]


def _changed(connection: Connection, training: int, **values: Any) -> bool:
    """Change the row of a training that has not ended; False: there is none."""
    row = update(trainings).where(trainings.c.id == training, trainings.c.ended_at.is_(None))
    return connection.execute(row.values(values)).rowcount > 0
