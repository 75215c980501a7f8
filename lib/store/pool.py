"""What can be handed out, in an order, found by an index: a choice costs the same among a thousand or a million images.

Each order is a walk along a partial index of `lib.store.schema` that holds only images in the pool. The leased ones are
passed over, so that a walk gets longer by the images in people's hands, not by those in the folder.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Select, exists, select, true, tuple_, update

from lib.case_scores import CaseScores
from lib.store import leases
from lib.store.layout import FINAL
from lib.store.leases import REVIEW, Lease
from lib.store.schema import REVIEWABLE, images, labels, versions
from lib.store.schema import leases as leases_table
from lib.store.versions import Version

Order = Literal["name", "turn", "score", "review"]
ENOUGH = 64  # candidates to choose among

_OPEN = select(images.c.image_id, images.c.score, images.c.score_version, images.c.served_at, images.c.shuffle).where(
    images.c.open
)


@dataclass(frozen=True)
class Candidate:
    """An image that can be handed out.

    Args:
        image_id: of the image.
        score: how much the current model would gain by it, None while it has not been scored; for a review how much
            its final label changed, None if it was compared with nothing.
        last_served: seconds since the epoch when it was last handed out, 0 if never; for a review never means not since
            its final label was saved.
        scores: what a model shows of it; None while it has not been scored.
        model_version: which model.
        patient: a key of the patient, the same for all images of one; None where that is not known.
        stands_for: how many images of the pool this one represents, at least 1: the pool is too large to look at all,
            so that some of those looked at are a random sample of the others.
    """

    image_id: str
    score: float | None = None
    last_served: float = 0.0
    scores: CaseScores | None = field(default=None, compare=False)
    model_version: str | None = None
    patient: str | None = None
    stands_for: float = 1.0


def candidates(
    connection: Connection,
    order: Order,
    *,
    model_version: str | None = None,
    start: float = 0.0,
    fetched: bool = False,
    limit: int = ENOUGH,
) -> list[Candidate]:
    """Images that can be handed out now, the best first; expired leases must have been freed.

    Args:
        connection: to the ledger.
        order: `"name"`: those not handed out yet, by name, behind them the others, the least recently first.
            `"score"`: those not handed out yet and scored by `model_version`, the highest first. `"turn"`: those that
            waited longest since they were handed out, where the never handed out are equal. `"review"`: those with a
            final label that nobody has reviewed, the most changed first, behind them those that were handed out for
            review already, the least recently first.
        model_version: whose scores count.
        start: for `"turn"`, where among equals to begin, in [0, 1): each has a fixed random place there, so that a
            random `start` makes a random draw.
        fetched: only of a PACS's images that were fetched once; to be asked for while it is down, since no index helps.
        limit: at most so many.
    """
    only = images.c.size > 0 if fetched else true()
    if order == "review":
        return _for_review(connection, only, limit)
    if order == "turn":
        return _scored(_by_turn(connection, _OPEN.where(only), start, limit), model_version)
    if order == "name":
        walk = _OPEN.where(only).order_by(images.c.served_at, images.c.image_id)
        return _scored(_nobodys(connection, walk, limit), model_version)
    return _scored(_by_score(connection, _OPEN.where(only), model_version, limit), model_version)


def can_keep(connection: Connection, lease: Lease) -> bool:
    """Whether a leased image is still one to be labelled, or reviewed if it was leased for that."""
    condition = REVIEWABLE if lease.strategy == REVIEW else images.c.open
    return bool(connection.scalar(select(exists().where(images.c.image_id == lease.image_id, condition))))


def in_hands(connection: Connection, *, for_review: bool) -> list[Lease]:
    """Leases of images that could be handed out otherwise, the first to expire first."""
    query = (
        select(leases_table)
        .join(images, images.c.image_id == leases_table.c.image_id)
        .where(REVIEWABLE if for_review else images.c.open)
        .order_by(leases_table.c.expires_at, leases_table.c.image_id)
    )
    return [Lease(**row) for row in connection.execute(query).mappings()]


def note_final(connection: Connection, version: Version) -> None:
    """A final label was saved: it is to be reviewed unless that was the review.

    In the transaction that saves it, before its lease is freed.

    Args:
        connection: a transaction.
        version: what was saved.
    """
    if version.tag != FINAL or version.source == "remapped":  # the same label with other numbers
        return
    lease = leases.of_image(connection, version.image_id)
    reviewed = lease is not None and lease.strategy == REVIEW and lease.client_id == version.author
    place = None if reviewed else version.change or 0.0
    connection.execute(update(images).where(images.c.image_id == version.image_id).values(to_review=place))


def not_scored(connection: Connection, model_version: str, after: str = "", limit: int = 256) -> list[str]:
    """Ids of images to be labelled that a model version has not scored yet, by name from behind `after`."""
    query = select(images.c.image_id).where(
        images.c.open,
        images.c.image_id > after,
        images.c.score_version.is_distinct_from(model_version),
    )
    return list(connection.scalars(query.order_by(images.c.image_id).limit(limit)))


def _for_review(connection: Connection, only: ColumnElement[bool], limit: int) -> list[Candidate]:
    walk = select(images.c.image_id, images.c.to_review).where(REVIEWABLE, only).order_by(images.c.to_review.desc())
    rows = _nobodys(connection, walk, limit)
    final = (
        select(labels.c.image_id, versions.c.change)
        .join(versions, versions.c.id == labels.c.version_id)
        .where(labels.c.tag == FINAL, labels.c.image_id.in_([row.image_id for row in rows]))
    )
    changes: dict[str, float | None] = {row.image_id: row.change for row in connection.execute(final)}
    return [Candidate(row.image_id, changes.get(row.image_id), max(0.0, -row.to_review)) for row in rows]


# The next two walks begin at a place and are cut off here, instead of asking for `served_at = ...` and the like: before
# its first statistics, PostgreSQL takes what equals something for few rows, and would fetch and sort them all.


def _by_score(connection: Connection, waiting: Select[Any], model_version: str | None, limit: int) -> list[Any]:
    if model_version is None:
        return []
    walk = waiting.where(images.c.score_version >= model_version)
    walk = walk.order_by(images.c.score_version, images.c.served_at, images.c.score.desc())
    found = _nobodys(connection, walk, limit)
    return [row for row in found if row.score_version == model_version and row.served_at == 0]


def _by_turn(connection: Connection, waiting: Select[Any], start: float, limit: int) -> list[Any]:
    walk = waiting.order_by(images.c.served_at, images.c.shuffle)
    oldest = [row.served_at for row in _nobodys(connection, walk, 1)]
    if not oldest:
        return []
    place = tuple_(images.c.served_at, images.c.shuffle)

    def equals(begin: float) -> list[Any]:
        found = _nobodys(connection, walk.where(place >= tuple_(*oldest, begin)), limit)
        return [row for row in found if row.served_at == oldest[0]]

    behind = equals(start)
    around = [row for row in equals(0.0) if row.shuffle < start] if len(behind) < limit else []
    return [*behind, *around][:limit]


def _nobodys(connection: Connection, walk: Select[Any], limit: int) -> list[Any]:
    """The first rows of a walk whose images are not leased.

    The leased ones are left out here, as joining them would make PostgreSQL leave the index, too.
    """
    held = set(connection.scalars(select(leases_table.c.image_id)))
    rows = connection.execute(walk.limit(limit + len(held)))
    return [row for row in rows if row.image_id not in held][:limit]


def _scored(rows: Iterable[Any], model_version: str | None) -> list[Candidate]:
    return [
        Candidate(row.image_id, row.score if row.score_version == model_version else None, row.served_at)
        for row in rows
    ]
