"""What a model shows of images, and which are to be scored next.

The scores of an image are those of the model that scored it last; older ones are replaced. They stay when the image is
labelled, so that others can be compared with it. `rankings` holds those by which `lib.store.walks` finds images.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, and_, bindparam, delete, exists, func, insert, or_, select, true, update

from lib.case_scores import NO_MODEL, CaseScores
from lib.store.layout import FINAL
from lib.store.listing import chunks
from lib.store.schema import FETCHED, NOT_SCORED, images, leases, rankings, scores, versions

ENTROPY, BALD, FOREGROUND = "entropy", "bald", "foreground"
CLASS = "class:"  # and the name of a class
"""Kinds of rankings. `FOREGROUND` holds the images in which something was predicted, at their fixed random places."""

_MOST_LABELLED = 512  # with which other images are compared
_MOST_IN_A_LIST = 500  # of the values that one statement may hold
_HALF = np.dtype("<f2")
_PROFILE = ("first_slice", "slices")
_NO_PROFILE: Mapping[str, Any] = {"first_slice": 0, "slices": {}}
_BRIEF = (
    scores.c.image_id, scores.c.model_version, scores.c.scored_at, scores.c.seconds, scores.c.problem,
    scores.c.figures, scores.c.embedding,
)  # fmt: skip
_RECKON = tuple(
    update(table)
    .where(table.c.image_id.in_(bindparam("image_ids", expanding=True)))
    .values({column: exists().where(images.c.image_id == table.c.image_id, condition)})
    for table, column, condition in (
        (scores, scores.c.open, images.c.open),
        (rankings, rankings.c.fresh, and_(images.c.open, images.c.served_at == 0)),
    )
)  # built once, as that takes longer than to execute them
_OF_IMAGES = {
    profile: select(*_BRIEF, *((scores.c.profile,) if profile else ())).where(
        scores.c.image_id.in_(bindparam("image_ids", expanding=True))
    )
    for profile in (True, False)
}
_EMBEDDINGS = select(scores.c.embedding).where(
    scores.c.image_id.in_(bindparam("image_ids", expanding=True)), scores.c.embedding.is_not(None)
)
_HANDED_OUT = update(rankings).where(rankings.c.image_id == bindparam("handed_out")).values(fresh=False)


@dataclass(frozen=True)
class Scored:
    """What became of the last look of a model at an image.

    Args:
        model_version: of the model.
        scored_at: seconds since the epoch.
        seconds: that it took, None if it was a by-product.
        scores: None where the image could not be scored.
        problem: why it could not.
    """

    model_version: str
    scored_at: float
    seconds: float | None
    scores: CaseScores | None
    problem: str | None


@dataclass(frozen=True)
class Counts:
    """Images to be labelled, by who scored them last: the `current` model, an `earlier` one, or `none`."""

    current: int
    earlier: int
    none: int


def note(
    connection: Connection, image_id: str, model_version: str, found: CaseScores, seconds: float | None = None
) -> None:
    """Keep the scores of an image, in place of those before; of an image that the ledger doesn't know, nothing.

    Args:
        connection: a transaction.
        image_id: of the image.
        model_version: of the model.
        found: its scores.
        seconds: that it took, None if it was a by-product.

    Raises:
        BadInputError: a score is not finite.
    """
    note_many(connection, {image_id: found}, model_version, seconds)


def note_many(
    connection: Connection, found: Mapping[str, CaseScores], model_version: str, seconds: float | None = None
) -> None:
    """`note` for many images by their ids, with less work for each."""
    for chunk in chunks(found.items(), _MOST_IN_A_LIST):
        rows = {image_id: _row(one) for image_id, one in chunk}
        ranked = {image_id: _ranked(one) for image_id, one in chunk}
        _replace(connection, model_version, seconds, rows, ranked)


def note_problem(
    connection: Connection, image_id: str, model_version: str, problem: str, seconds: float | None = None
) -> None:
    """Keep that a model can't score an image, so that it is not tried again before there is another model.

    Args:
        connection: a transaction.
        image_id: of the image.
        model_version: of the model.
        problem: why not, in words.
        seconds: that it took to find out.
    """
    _replace(connection, model_version, seconds, {image_id: {"problem": problem}}, {image_id: {}})


def forget(connection: Connection, image_ids: Sequence[str]) -> None:
    """The content of these images is another one now, so they are to be scored as if they never were."""
    for chunk in chunks(image_ids, _MOST_IN_A_LIST):
        connection.execute(delete(scores).where(scores.c.image_id.in_(chunk)))
        connection.execute(delete(rankings).where(rankings.c.image_id.in_(chunk)))
        connection.execute(update(images).where(images.c.image_id.in_(chunk)).values(scored=False))


def note_handed_out(connection: Connection, image_id: str) -> None:
    """What `reckon` would find of an image that was handed out just now."""
    connection.execute(_HANDED_OUT, {"handed_out": image_id})


def reckon(connection: Connection, image_ids: Sequence[str]) -> None:
    """Bring the copies of what `images` says of these in line; after every change to `open` or `served_at`."""
    for chunk in chunks(image_ids, _MOST_IN_A_LIST):
        for statement in _RECKON:
            connection.execute(statement, {"image_ids": chunk})


def of_images(connection: Connection, image_ids: Sequence[str], *, profile: bool = True) -> dict[str, Scored]:
    """The last scores of images, as far as there are any.

    Args:
        connection: to the ledger.
        image_ids: of the images.
        profile: with the uncertainty of each slice, which takes long to read for many images.
    """
    found = {}
    for chunk in chunks(image_ids, _MOST_IN_A_LIST):
        for row in connection.execute(_OF_IMAGES[profile], {"image_ids": chunk}).all():
            known = None
            if row.figures is not None:
                slices = row.profile if profile else _NO_PROFILE
                known = CaseScores.from_figures({**row.figures, **slices}, _embedding(row.embedding))
            found[row.image_id] = Scored(row.model_version, row.scored_at, row.seconds, known, row.problem)
    return found


def waiting(connection: Connection, model_version: str, limit: int = 64, *, fetched: bool = False) -> list[str]:
    """Images to be labelled that a model has still to score: first those never scored, by name, then those scored by
    another model, the oldest scores first.

    Args:
        connection: to the ledger.
        model_version: of the model.
        limit: at most so many.
        fetched: only of a PACS's images that were fetched once.
    """
    never = select(images.c.image_id).where(NOT_SCORED).order_by(images.c.image_id).limit(limit)
    found = list(connection.scalars(never.where(FETCHED) if fetched else never))
    if len(found) == limit:
        return found
    again = [image_id for _, image_id in islice(merge(*_by_others(connection, model_version, limit)), limit)]
    if fetched:
        there = select(images.c.image_id).where(images.c.image_id.in_(again), FETCHED)
        still = set(connection.scalars(there))
        again = [image_id for image_id in again if image_id in still]
    return [*found, *again][:limit]


def never_seen(connection: Connection, model_version: str, limit: int = 64, *, fetched: bool = False) -> list[str]:
    """Images that were labelled before any model could tell something of them, of those with which others are compared,
    see `embeddings_of_known`; without those at which this model has looked in vain. Arguments as for `waiting`.
    """
    in_vain = or_(scores.c.model_version == NO_MODEL, scores.c.problem.is_not(None))
    unseen = or_(scores.c.image_id.is_(None), and_(scores.c.model_version != model_version, in_vain))
    fit = (images.c.present, images.c.problem.is_(None), images.c.excluded.is_(None), unseen)
    both = images.outerjoin(scores, scores.c.image_id == images.c.image_id)
    found: list[str] = []
    for chunk in chunks(_labelled(connection, _MOST_LABELLED), _MOST_IN_A_LIST):
        query = select(images.c.image_id).select_from(both).where(images.c.image_id.in_(chunk), *fit)
        found += connection.scalars(query.where(FETCHED) if fetched else query)
    return sorted(found)[:limit]


def counts(connection: Connection, model_version: str | None) -> Counts:
    """How many of the images to be labelled are scored; it looks at each, so not for requests that are to be quick."""
    per_version = select(scores.c.model_version, func.count()).where(scores.c.open).group_by(scores.c.model_version)
    found: dict[str, int] = dict(connection.execute(per_version).tuples().all())
    current = found.pop(model_version, 0) if model_version is not None else 0
    none = connection.scalar(select(func.count()).select_from(images).where(NOT_SCORED)) or 0
    return Counts(current, sum(found.values()), none)


def embeddings_of_known(connection: Connection, length: int, limit: int = _MOST_LABELLED) -> NDArray[np.float32]:
    """What the models made of images that somebody has labelled, the latest of them, or has in hands.

    Images that are labelled are scored no more, so that most embeddings are of earlier models than the one in force.

    Args:
        connection: to the ledger.
        length: of the embeddings with which they are to be compared; others are left out.
        limit: at most so many labelled images.

    Returns:
        float32 `(n, length)`.
    """
    ids = dict.fromkeys(connection.scalars(select(leases.c.image_id)))
    ids |= dict.fromkeys(_labelled(connection, limit))
    found: list[bytes] = []
    for chunk in chunks(ids, _MOST_IN_A_LIST):
        found += connection.scalars(_EMBEDDINGS, {"image_ids": chunk})
    fitting = [one for one in found if len(one) == length * _HALF.itemsize]
    # At once: there may be hundreds in each request.
    return np.frombuffer(b"".join(fitting), _HALF).astype(np.float32).reshape(len(fitting), length)


def _labelled(connection: Connection, limit: int) -> list[str]:
    """The images that got a final label last."""
    # Without a condition for the tag, for which PostgreSQL might leave the index before its first statistics.
    latest = select(versions.c.image_id, versions.c.tag).order_by(versions.c.id.desc()).limit(4 * limit)
    return list(islice(dict.fromkeys(row.image_id for row in connection.execute(latest) if row.tag == FINAL), limit))


def _replace(
    connection: Connection,
    model_version: str,
    seconds: float | None,
    rows: Mapping[str, Mapping[str, Any]],
    ranked: Mapping[str, Mapping[str, float | None]],
) -> None:
    """Write rows by their images' ids, as many as one statement may hold, and by what those images are found."""
    ids = list(rows)
    query = select(images.c.image_id, images.c.open, images.c.served_at, images.c.shuffle)
    known = connection.execute(query.where(images.c.image_id.in_(ids))).all()
    for table in (scores, rankings):
        connection.execute(delete(table).where(table.c.image_id.in_(ids)))
    common = {"model_version": model_version, "scored_at": time.time(), "seconds": seconds}
    new = [{**common, **rows[image.image_id], "image_id": image.image_id, "open": image.open} for image in known]
    entries = [
        {
            "image_id": image.image_id,
            "model_version": model_version,
            "fresh": image.open and image.served_at == 0,
            "kind": kind,
            "value": image.shuffle if value is None else value,
        }
        for image in known
        for kind, value in ranked[image.image_id].items()
    ]
    if new:
        connection.execute(insert(scores), new)
    if entries:
        connection.execute(insert(rankings), entries)
    connection.execute(update(images).where(images.c.image_id.in_(ids), ~images.c.scored).values(scored=True))


def _row(found: CaseScores) -> dict[str, Any]:
    figures = found.figures()
    return {
        "profile": {key: figures.pop(key) for key in _PROFILE},
        "figures": figures,
        "embedding": None if found.embedding is None else found.embedding.astype(_HALF).tobytes(),
    }


def _ranked(found: CaseScores) -> dict[str, float | None]:
    """`{kind: value}`; None stands for the image's fixed random place."""
    known = {ENTROPY: found.entropy, BALD: found.bald}
    ranked: dict[str, float | None] = {kind: value for kind, value in known.items() if value is not None}
    ranked |= {f"{CLASS}{name}": value for name, value in found.classes.items()}
    if found.has_foreground:
        ranked[FOREGROUND] = None
    return ranked


def _by_others(connection: Connection, model_version: str, limit: int) -> Iterable[list[tuple[float, str]]]:
    """For each other model that scored images to be labelled: when, and which, the oldest first."""
    walk = select(scores.c.model_version, scores.c.scored_at, scores.c.image_id).where(scores.c.open == true())
    walk = walk.order_by(scores.c.model_version, scores.c.scored_at, scores.c.image_id).limit(limit)
    behind: str | None = None
    while True:
        # Cut off here instead of asking for one version, see `lib.store.walks`.
        rows = connection.execute(walk if behind is None else walk.where(scores.c.model_version > behind)).all()
        if not rows:
            return
        behind = str(rows[0].model_version)
        if behind != model_version:
            yield [(row.scored_at, row.image_id) for row in rows if row.model_version == behind]


def _embedding(stored: bytes | None) -> NDArray[np.float32] | None:
    return None if stored is None else np.frombuffer(stored, _HALF).astype(np.float32)
