"""What can be handed out: candidates from walks through the pool, with all that a strategy may look at.

A choice costs the same among a thousand or a million images, see `lib.store.walks`.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, exists, not_, select, true, update

from lib.case_scores import CaseScores
from lib.store import leases, scores, walks
from lib.store.layout import FINAL
from lib.store.leases import REVIEW, Lease
from lib.store.listing import chunks
from lib.store.patients import PATIENT_ID, Patients
from lib.store.schema import FETCHED, REVIEWABLE, images, labels, versions
from lib.store.schema import leases as leases_table
from lib.store.versions import Version
from lib.store.walks import Drawn

NAME, TURN, FOR_REVIEW, FOREGROUND, HIGHEST = "name", "turn", "review", "foreground", "highest:"
HIGHEST_OF_EACH_CLASS = f"{HIGHEST}{scores.CLASS}*"
ENOUGH = 16  # candidates of a walk in an order; a hundred together are read in some milliseconds
_FEW = 8  # at least, of each class; where there are many, all together give about as many as two would
SAMPLE = 48  # of a walk that draws at random
_MOST_IN_A_LIST = 500  # of the values that one statement may hold
_FREE_PLACE = {
    for_review: select(images.c.served_at, images.c.to_review).where(
        images.c.image_id == bindparam("image_id"),
        REVIEWABLE if for_review else images.c.open,
        not_(exists().where(leases_table.c.image_id == images.c.image_id)),
    )
    for for_review in (True, False)
}  # built once, as that takes longer than to execute them


@dataclass(frozen=True)
class Candidate:
    """An image that can be handed out.

    Args:
        image_id: of the image.
        score: for a review how much its final label changed, None if it was compared with nothing.
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
    chosen: Sequence[str],
    *,
    model_version: str | None = None,
    start: float = 0.0,
    fetched: bool = False,
    patients: Patients | None = None,
    limit: int = ENOUGH,
    sample: int = SAMPLE,
) -> list[Candidate]:
    """Images that can be handed out now, each once; expired leases must have been freed.

    Walks are `"name"`, `"turn"`, `"review"`, `"foreground"`, `"highest:<kind>"` and `"highest:class:*"`, which is that
    of every class; see the functions of `lib.store.walks`, and `lib.store.scores` for kinds.

    Args:
        connection: to the ledger.
        chosen: the walks; first come those of the first walk, the best first.
        model_version: whose scores count; those of other models where it has too few.
        start: for walks that draw at random, where to begin, in [0, 1): each image has a fixed random place there, so
            that a random `start` makes a random draw.
        fetched: only of a PACS's images that were fetched once; to be asked for while it is down, since no index helps.
        patients: to tell whose images they are; without, that is not known.
        limit: at most so many of a walk in an order.
        sample: at most so many of a walk that draws at random.

    Returns:
        Candidates. Those that were drawn stand for others, so that what they stand for, and all others for themselves,
        is about the number of images that can be handed out.
    """
    only = FETCHED if fetched else true()
    held = walks.in_hands(connection)
    if FOR_REVIEW in chosen:
        return _for_review(connection, walks.for_review(connection, only, limit, held), patients)
    # Who is found twice is as likely to be found as by the walk that leaves fewer out.
    stands_for: dict[str, float] = {}
    for walk in chosen:
        for found in _walked(connection, walk, only, model_version, start, limit, sample, held):
            for image_id in found.image_ids:
                stands_for[image_id] = min(found.stands_for, stands_for.get(image_id, found.stands_for))
    known = _looked_up(connection, stands_for, only, patients)
    return [known[image_id] for image_id in stands_for if image_id in known]


def can_keep(connection: Connection, lease: Lease) -> bool:
    """Whether a leased image is still one to be labelled, or reviewed if it was leased for that."""
    condition = REVIEWABLE if lease.strategy == REVIEW else images.c.open
    return bool(connection.scalar(select(exists().where(images.c.image_id == lease.image_id, condition))))


def free_place(connection: Connection, image_id: str, *, for_review: bool) -> dict[str, Any] | None:
    """Where an image stands among those that wait, for `put_back`; None where it can't be handed out, to be labelled or
    reviewed. Expired leases must have been freed.
    """
    row = connection.execute(_FREE_PLACE[for_review], {"image_id": image_id}).one_or_none()
    return None if row is None else row._asdict()


def in_hands(connection: Connection, *, for_review: bool) -> list[Lease]:
    """Leases of images that could be handed out otherwise, the first to expire first."""
    query = (
        select(leases_table)
        .join(images, images.c.image_id == leases_table.c.image_id)
        .where(REVIEWABLE if for_review else images.c.open)
        .order_by(leases_table.c.expires_at, leases_table.c.image_id)
    )
    return [leases.of_row(row._asdict()) for row in connection.execute(query)]


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


def put_back(connection: Connection, image_id: str, place: Mapping[str, Any]) -> None:
    """Let an image that could not be handed out wait where it did before."""
    connection.execute(update(images).where(images.c.image_id == image_id).values(dict(place)))
    scores.reckon(connection, [image_id])


def _walked(
    connection: Connection,
    walk: str,
    only: ColumnElement[bool],
    model_version: str | None,
    start: float,
    limit: int,
    sample: int,
    held: Collection[str],
) -> Iterator[Drawn]:
    if walk == NAME:
        yield Drawn(walks.by_name(connection, only, limit, held))
    elif walk == TURN:
        yield walks.by_turn(connection, only, start, sample, held)
    elif walk == FOREGROUND:
        yield walks.with_foreground(connection, model_version, start, sample, held)
    elif walk == HIGHEST_OF_EACH_CLASS:
        kinds = walks.classes(connection)
        few = min(limit, max(_FEW, 2 * limit // max(1, len(kinds))))
        for kind in kinds:
            yield Drawn(walks.highest(connection, kind, model_version, few, held))
    else:
        yield Drawn(walks.highest(connection, walk.removeprefix(HIGHEST), model_version, limit, held))


def _looked_up(
    connection: Connection, stands_for: Mapping[str, float], only: ColumnElement[bool], patients: Patients | None
) -> dict[str, Candidate]:
    """What is known of images, by their keys alone."""
    scored = scores.of_images(connection, list(stands_for), profile=False)
    columns = (images.c.image_id, images.c.served_at, PATIENT_ID)
    found = {}
    for chunk in chunks(stands_for, _MOST_IN_A_LIST):
        query = select(*columns).where(images.c.image_id.in_(chunk), images.c.open, only)
        for row in connection.execute(query).all():
            known = scored.get(row.image_id)
            found[row.image_id] = Candidate(
                row.image_id,
                last_served=row.served_at,
                scores=known.scores if known else None,
                model_version=known.model_version if known and known.scores else None,
                patient=patients.key(row.image_id, row.patient_id) if patients else None,
                stands_for=stands_for[row.image_id],
            )
    return found


def _for_review(connection: Connection, places: Mapping[str, float], patients: Patients | None) -> list[Candidate]:
    final = (
        select(labels.c.image_id, versions.c.change)
        .join(versions, versions.c.id == labels.c.version_id)
        .where(labels.c.tag == FINAL, labels.c.image_id.in_(list(places)))
    )
    changes: dict[str, float | None] = {row.image_id: row.change for row in connection.execute(final)}
    whose = patients.keys(connection, list(places)) if patients else {}
    return [Candidate(one, changes.get(one), max(0.0, -place), patient=whose.get(one)) for one, place in places.items()]
