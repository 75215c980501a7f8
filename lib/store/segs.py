"""DICOM SEGs that went to a PACS or were found in it, as rows; `seg_outbox` and `seg_inbox` do the work.

A SEG is told by its SOP Instance UID alone. One whose row has no `next_try_at` is done: stored, taken in, or refused
for good.
"""

import json
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, exists, func, insert, not_, or_, select, update

from lib.dicom_seg.write import seg_uids
from lib.store.events import record
from lib.store.layout import FINAL
from lib.store.ledger import Ledger
from lib.store.schema import events, labels, segs, versions
from lib.store.versions import Version

SENT, FOUND = "sent", "found"
BY_A_PERSON = ("client", "restored")  # sources of the versions that go to the PACS
_PACS, _ERROR = "pacs", "pacs_error"  # facts: which PACS the ledger works with, and why it can't be reached
_MOST_IN_A_LIST = 500
_DAY_S, _MONTH_S = 86_400.0, 30 * 86_400.0


@dataclass(frozen=True)
class Seg:
    """One SEG; the columns are explained in `lib.store.schema`."""

    sop_uid: str
    series_uid: str
    image_id: str
    version_id: int | None
    direction: str
    problem: str | None
    attempts: int
    next_try_at: float | None
    at: float


@dataclass(frozen=True)
class Unsent:
    """A version that is to go to the PACS and isn't there, as far as is known.

    Args:
        version_id: its key.
        next_try_at: when the PACS is to be asked again to take it; None: it was not asked yet.
        withdrawn: its label was taken back, so that it stays here unless the image gets a label again; or the image
            has other objects since.
    """

    version_id: int
    next_try_at: float | None
    withdrawn: bool


def identity_of(version: Version) -> str:
    """What tells a version from all others, also in a ledger that was made from an archive."""
    return f"{version.file} {version.sha256}"


def uids_of(version: Version) -> tuple[str, str]:
    """Series and SOP Instance UID of a version's SEG: the same at every try."""
    return seg_uids(identity_of(version))


def known(connection: Connection, sop_uids: Iterable[str]) -> dict[str, Seg]:
    """Those of these SEGs that have a row, by SOP Instance UID."""
    return _rows(connection, segs.c.sop_uid, sop_uids)


def of_series(connection: Connection, series_uids: Iterable[str]) -> dict[str, Seg]:
    """The known SEGs of these SEG series, by SOP Instance UID."""
    return _rows(connection, segs.c.series_uid, series_uids)


def unsent(connection: Connection, after: int = 0) -> list[Unsent]:
    """The versions that are to go to the PACS, the oldest first.

    Args:
        connection: to the ledger.
        after: only versions with a greater key.
    """
    there = and_(segs.c.image_id == versions.c.image_id, segs.c.version_id == versions.c.id, segs.c.direction == SENT)
    shown = exists().where(labels.c.image_id == versions.c.image_id, labels.c.tag == FINAL)
    replaced = exists().where(
        events.c.image_id == versions.c.image_id,
        events.c.kind == "image changed",
        events.c.at > versions.c.saved_at,
    )
    query = (
        select(versions.c.id, segs.c.next_try_at, and_(shown, not_(replaced)).label("shown"))
        .outerjoin(segs, there)
        .where(versions.c.id > after, versions.c.tag == FINAL, versions.c.source.in_(BY_A_PERSON))
        .where(or_(segs.c.sop_uid.is_(None), segs.c.next_try_at.is_not(None)))
        .order_by(versions.c.id)
    )
    return [Unsent(int(row.id), row.next_try_at, not row.shown) for row in connection.execute(query)]


def versions_with(connection: Connection, version_ids: Collection[int]) -> list[Version]:
    """Versions by key, the oldest first."""
    found: list[Version] = []
    for chunk in _chunks(version_ids):
        query = select(versions).where(versions.c.id.in_(chunk)).order_by(versions.c.id)
        found += [Version(**row) for row in connection.execute(query).mappings()]
    return sorted(found, key=lambda version: version.id)


def note_sent(connection: Connection, version: Version) -> bool:
    """A version's SEG is in the PACS.

    Returns:
        False where that was known.
    """
    series_uid, sop_uid = uids_of(version)
    before = known(connection, [sop_uid]).get(sop_uid)
    if before is not None and before.direction == SENT and before.next_try_at is None:
        return False
    values = _values(series_uid, version.image_id, SENT, version_id=version.id)
    _put(connection, sop_uid, before, values)
    record(
        connection, "label stored in the PACS", version.image_id, version.tag,
        detail={"version": version.number, "sop_uid": sop_uid},
    )  # fmt: skip
    return True


def note_refused(connection: Connection, version: Version, reason: str, wait_s: float, factor: float) -> bool:
    """The PACS did not take a version's SEG, or none could be made; it is tried again, each time later.

    Args:
        connection: a transaction.
        version: which.
        reason: in words.
        wait_s: until the second try.
        factor: by which that grows with each further one, up to a day.

    Returns:
        False where that is nothing new.
    """
    series_uid, sop_uid = uids_of(version)
    before = known(connection, [sop_uid]).get(sop_uid)
    if before is not None and before.direction == SENT and before.next_try_at is None:
        return False  # another server was luckier
    attempts = before.attempts if before else 0
    at = time.time() + min(wait_s * factor ** min(attempts, 20), _DAY_S)
    values = _values(
        series_uid, version.image_id, SENT, version_id=version.id, problem=reason, attempts=attempts + 1, at=at
    )
    _put(connection, sop_uid, before, values)
    if before is not None and before.problem == reason:
        return False
    record(
        connection, "label not stored in the PACS", version.image_id, version.tag,
        detail={"version": version.number, "reason": reason},
    )  # fmt: skip
    return True


def note_taken_in(connection: Connection, sop_uid: str, series_uid: str, version: Version) -> bool:
    """A SEG became a version, in the transaction that adds it.

    Returns:
        False where another was first; the version is then one too many.
    """
    before = known(connection, [sop_uid]).get(sop_uid)
    if before is not None and (before.version_id is not None or before.direction == SENT):
        return False
    _put(connection, sop_uid, before, _values(series_uid, version.image_id, FOUND, version_id=version.id))
    return True


def note_not_taken_in(
    connection: Connection, sop_uid: str, series_uid: str, image_id: str, reason: str | None, wait_s: float | None
) -> bool:
    """A SEG can't be taken in, or not yet.

    Args:
        connection: a transaction.
        sop_uid: which.
        series_uid: of the SEG.
        image_id: the series that it was made for, empty if that is not known.
        reason: in words; None: it only waits.
        wait_s: until it is looked at again, four times longer after each further try, up to a month; None: never.

    Returns:
        Whether there is something new to tell.
    """
    before = known(connection, [sop_uid]).get(sop_uid)
    if before is not None and before.next_try_at is None:
        return False  # another was first
    attempts = before.attempts if before else 0
    at = None if wait_s is None else time.time() + min(wait_s * 4.0 ** min(attempts, 20), _MONTH_S)
    values = _values(series_uid, image_id, FOUND, problem=reason, attempts=attempts + 1, at=at)
    _put(connection, sop_uid, before, values)
    if reason is None or (before is not None and before.problem == reason):
        return False
    detail = {"reason": reason, "sop_uid": sop_uid}
    record(connection, "SEG not taken in", image_id or None, detail=detail)
    return True


def look_again(connection: Connection, image_ids: Collection[str]) -> None:
    """Images have other objects than before: SEGs that were found for them may fit now.

    Those that could not be used are looked at again, and those whose versions are the labels now, which no longer
    count; what somebody took back or replaced stays so.

    Args:
        connection: a transaction.
        image_ids: of the images.
    """
    shown = exists().where(labels.c.version_id == segs.c.version_id, labels.c.problem.is_not(None))
    for chunk in _chunks(image_ids):
        found = (segs.c.image_id.in_(chunk), segs.c.direction == FOUND, or_(segs.c.version_id.is_(None), shown))
        connection.execute(update(segs).where(*found).values(version_id=None, next_try_at=0.0))


def note_pacs(ledger: Ledger, name: str) -> None:
    """With which PACS the ledger works."""
    with ledger.reading() as connection:
        if ledger.fact(connection, _PACS) == name:
            return
    with ledger.writing() as connection:
        ledger.set_fact(connection, _PACS, name)


def note_reachable(ledger: Ledger, problem: str | None) -> bool:
    """Why the PACS can't be reached, or with None that it can.

    Returns:
        Whether that is new.
    """
    with ledger.reading() as connection:
        before = _error(ledger, connection)
    if (before and before["reason"]) == problem:
        return False
    with ledger.writing() as connection:
        ledger.set_fact(connection, _ERROR, json.dumps({"at": time.time(), "reason": problem}) if problem else "")
    return True


def status(ledger: Ledger, connection: Connection) -> dict[str, Any] | None:
    """How the exchange with the PACS stands; None where the ledger works with none.

    Returns:
        `pacs`: its host; `sent`, `taken_in`: SEGs; `waiting`: versions that are to be sent, `refused`: how many of
        them the PACS has refused; `not_taken_in`: SEGs that could not be used; `unreachable`: why the PACS can't be
        reached, if so; `last_error`: why the last SEG was refused, by the PACS or by us.
    """
    name = ledger.fact(connection, _PACS)
    if name is None:
        return None
    # A version that is in the PACS has a row without a problem, one that was refused one with it.
    stored = and_(segs.c.version_id.is_not(None), segs.c.next_try_at.is_(None))
    found = {
        "sent": and_(segs.c.direction == SENT, stored),
        "taken_in": and_(segs.c.direction == FOUND, stored),
        "not_taken_in": and_(segs.c.direction == FOUND, segs.c.problem.is_not(None)),
    }
    counts = {
        key: int(connection.scalar(select(func.count()).select_from(segs).where(condition)) or 0)
        for key, condition in found.items()
    }
    waiting = [one for one in unsent(connection) if not one.withdrawn]
    last = select(segs.c.problem).where(segs.c.problem.is_not(None)).order_by(segs.c.at.desc()).limit(1)
    error = _error(ledger, connection)
    return {
        "pacs": name,
        **counts,
        "waiting": len(waiting),
        "refused": sum(one.next_try_at is not None for one in waiting),
        "unreachable": error and error["reason"],
        "last_error": connection.scalar(last),
    }


def status_text(figures: dict[str, Any]) -> str:
    """`status` in words."""
    text = f"{figures['sent']} labels stored, {figures['waiting']} waiting"
    if figures["refused"]:
        text += f" ({figures['refused']} refused so far)"
    text += f"; {figures['taken_in']} SEGs taken in, {figures['not_taken_in']} not usable"
    if figures["unreachable"]:
        return f"{text}; not reachable: {figures['unreachable']}"
    return f"{text}; last problem: {figures['last_error']}" if figures["last_error"] else text


def _error(ledger: Ledger, connection: Connection) -> dict[str, Any] | None:
    text = ledger.fact(connection, _ERROR)
    return json.loads(text) if text else None


def _rows(connection: Connection, column: Any, values: Iterable[str]) -> dict[str, Seg]:
    found: dict[str, Seg] = {}
    for chunk in _chunks(list(values)):
        for row in connection.execute(select(segs).where(column.in_(chunk))).mappings():
            found[row["sop_uid"]] = Seg(**row)
    return found


def _chunks(values: Collection[Any]) -> Iterable[list[Any]]:
    ordered = list(values)
    return (ordered[start : start + _MOST_IN_A_LIST] for start in range(0, len(ordered), _MOST_IN_A_LIST))


def _values(
    series_uid: str,
    image_id: str,
    direction: str,
    *,
    version_id: int | None = None,
    problem: str | None = None,
    attempts: int = 1,
    at: float | None = None,
) -> dict[str, Any]:
    return {
        "series_uid": series_uid,
        "image_id": image_id,
        "version_id": version_id,
        "direction": direction,
        "problem": problem,
        "attempts": attempts,
        "next_try_at": at,
        "at": time.time(),
    }


def _put(connection: Connection, sop_uid: str, before: Seg | None, values: dict[str, Any]) -> None:
    """Add or replace a row; writers come one at a time, so that `before` is still true."""
    if before is None:
        connection.execute(insert(segs).values(sop_uid=sop_uid, **values))
    else:
        connection.execute(update(segs).where(segs.c.sop_uid == sop_uid).values(values))
