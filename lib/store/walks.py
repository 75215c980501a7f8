"""Walks through the pool: which images come first in some order, found by an index.

Each is a walk along a partial index of `lib.store.schema` that holds only images in the pool, so that it takes as long
among a thousand images as among a million. The leased ones are passed over, so that a walk gets longer by the images
in people's hands, not by those in the folder.

Walks begin at a place and are cut off here, instead of asking for `served_at = ...` and the like: before its first
statistics, PostgreSQL takes what equals something for few rows, and would fetch and sort them all. For the same reason
nothing is joined: images that an index of another table leads to are looked up by their keys.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, select, true, tuple_

from lib.store.schema import REVIEWABLE, images, leases, rankings
from lib.store.scores import CLASS, FOREGROUND

_FRESH = rankings.c.fresh == true()
_OPEN = images.c.open == true()


@dataclass(frozen=True)
class Drawn:
    """What a walk found.

    Args:
        image_ids: in the order of the walk.
        stands_for: how many images each represents: 1, more in a random sample.
    """

    image_ids: list[str]
    stands_for: float = 1.0

    @classmethod
    def of(cls, places: Sequence[tuple[float, str]], start: float, limit: int) -> "Drawn":
        """A sample: the first `limit` behind `start`, of all that have their fixed random places there and around.

        How many each stands for follows from the part of all places that they take, so that nobody has to count.
        """
        ids = [image_id for _, image_id in places[:limit]]
        if len(ids) < limit:
            return cls(ids)
        width = (places[limit - 1][0] - start) % 1.0
        return cls(ids, max(1.0, (1 - 1 / limit) / width) if width else 1.0)


def in_hands(connection: Connection) -> set[str]:
    """The leased images, which are the `held` of a walk."""
    return set(connection.scalars(select(leases.c.image_id)))


def by_name(connection: Connection, only: ColumnElement[bool], limit: int, held: Collection[str]) -> list[str]:
    """Those not handed out yet, by name, behind them the others, the least recently first."""
    walk = select(images.c.image_id).where(_OPEN, only).order_by(images.c.served_at, images.c.image_id)
    return [row.image_id for row in _nobodys(connection, walk, limit, held)]


def by_turn(
    connection: Connection, only: ColumnElement[bool], start: float, limit: int, held: Collection[str]
) -> Drawn:
    """A random sample of those that waited longest since they were handed out, where the never handed out are equal."""
    walk = select(images.c.image_id, images.c.served_at, images.c.shuffle).where(_OPEN, only)
    walk = walk.order_by(images.c.served_at, images.c.shuffle)
    oldest = [row.served_at for row in _nobodys(connection, walk, 1, held)]
    if not oldest:
        return Drawn([])
    place = tuple_(images.c.served_at, images.c.shuffle)

    def equals(begin: float) -> list[tuple[float, str]]:
        found = _nobodys(connection, walk.where(place >= tuple_(*oldest, begin)), limit, held)
        return [(row.shuffle, row.image_id) for row in found if row.served_at == oldest[0]]

    behind = equals(start)
    around = [one for one in equals(0.0) if one[0] < start] if len(behind) < limit else []
    return Drawn.of([*behind, *around], start, limit)


def for_review(
    connection: Connection, only: ColumnElement[bool], limit: int, held: Collection[str]
) -> dict[str, float]:
    """`{image id: place}` of those with a final label that nobody has reviewed, the most changed first, behind them
    those that were handed out for review already, the least recently first.
    """
    walk = select(images.c.image_id, images.c.to_review).where(REVIEWABLE, only).order_by(images.c.to_review.desc())
    return {row.image_id: row.to_review for row in _nobodys(connection, walk, limit, held)}


def highest(
    connection: Connection, kind: str, model_version: str | None, limit: int, held: Collection[str]
) -> list[str]:
    """Those with the highest score of a kind, not handed out yet; where a model has scored fewer than `limit`, behind
    them those with the highest score by any other.
    """
    found: list[str] = []
    if model_version is not None:
        rows = _ranked(connection, kind, (model_version,), limit + len(held))
        found = [image_id for _, image_id in rows if image_id not in held][:limit]
    if len(found) < limit:
        others = (
            _ranked(connection, kind, (version,), limit + len(held))
            for version in _versions(connection, kind)
            if version != model_version
        )
        best = merge(*others, key=lambda row: -row[0])
        rest = islice((image_id for _, image_id in best if image_id not in held), limit - len(found))
        found += rest
    return found


def with_foreground(
    connection: Connection, model_version: str | None, start: float, limit: int, held: Collection[str]
) -> Drawn:
    """A random sample of those in which a model saw something, not handed out yet; where it saw that in fewer than
    `limit`, and of those in which any other did.
    """

    def places(version: str) -> list[tuple[float, str]]:
        most = limit + len(held)
        behind = _ranked(connection, FOREGROUND, (version, start), most, ascending=True)
        around: list[tuple[float, str]] = []
        if len(behind) < most:
            around = _ranked(connection, FOREGROUND, (version, -1.0), most, ascending=True)
            around = [one for one in around if one[0] < start]
        return [one for one in (*behind, *around) if one[1] not in held]

    found = [] if model_version is None else places(model_version)
    if len(found) < limit:
        others = [version for version in _versions(connection, FOREGROUND) if version != model_version]
        each = [found, *(places(version) for version in others)]
        found = list(merge(*each, key=lambda one: (one[0] < start, one)))
    return Drawn.of(found, start, limit)


def classes(connection: Connection) -> list[str]:
    """The kinds of rankings that are of a class, such as `"class:tumor"`, by name."""
    found: list[str] = []
    while True:
        walk = select(rankings.c.kind).where(_FRESH, rankings.c.kind > (found[-1] if found else CLASS))
        kind = connection.scalar(walk.order_by(rankings.c.kind).limit(1))
        if kind is None or not kind.startswith(CLASS):
            return found
        found.append(kind)


def _ranked(
    connection: Connection, kind: str, place: tuple[Any, ...], limit: int, *, ascending: bool = False
) -> list[tuple[float, str]]:
    """`[(value, image id), ...]` of a ranking from a place on, which is a version and maybe a value."""
    columns = (rankings.c.kind, rankings.c.model_version, rankings.c.value, rankings.c.image_id)
    walk = select(*columns).where(_FRESH).limit(limit)
    here, begin = tuple_(*columns[: 1 + len(place)]), tuple_(kind, *place)
    if ascending:
        walk = walk.where(here >= begin).order_by(*columns)
    else:
        walk = walk.where(here <= begin).order_by(*(column.desc() for column in columns))
    rows = connection.execute(walk).all()
    return [(row.value, row.image_id) for row in rows if (row.kind, row.model_version) == (kind, place[0])]


def _versions(connection: Connection, kind: str) -> Iterator[str]:
    """The models with a ranking of a kind; there are few."""
    version = rankings.c.model_version
    walk = select(version).where(_FRESH, rankings.c.kind == kind).order_by(version).limit(1)
    behind = connection.scalar(walk)
    while behind is not None:
        yield behind
        # Not as a pair with the kind: from that SQLite would go through all those of the version before.
        behind = connection.scalar(walk.where(version > behind))


def _nobodys(connection: Connection, walk: Select[Any], limit: int, held: Collection[str]) -> list[Any]:
    """The first rows of a walk whose images are not leased."""
    rows = connection.execute(walk.limit(limit + len(held))).all()
    return [row for row in rows if row.image_id not in held][:limit]
