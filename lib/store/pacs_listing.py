"""The series of a PACS as images of the ledger: listed page by page, in short transactions, whatever their number.

An image of a PACS is one of its CT series and has the Series Instance UID as its id. It is `present` while the PACS has
it; its file is there only where it was fetched (`lib.store.pacs_images`).
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import date, timedelta
from typing import Any

from sqlalchemy import Connection, insert, select, update

from lib.dicomweb.answers import Series
from lib.dicomweb.client import Pacs
from lib.store import images, segs
from lib.store.images import FileState
from lib.store.inspection import release_twins
from lib.store.layout import STORED
from lib.store.ledger import Ledger
from lib.store.listing import chunks
from lib.store.schema import images as images_table
from lib.store.schema import series as series_table

logger = logging.getLogger(__name__)

NOT_FETCHED = FileState(STORED, 0, 0)
_CHUNK = 200  # series that are noted at once
_RECENT_DAYS = 3  # of studies that are looked for often


def walk(
    ledger: Ledger,
    pacs: Pacs,
    progress: Callable[[int], object] | None = None,
) -> int:
    """List all CT series, and note those that are gone.

    What a whole listing did not name is asked for by itself, since a listing skips some while others come and go.

    Args:
        ledger: what is known.
        pacs: which is asked.
        progress: called again and again with the number of series so far; what it raises ends the walk.

    Returns:
        How many series there are.

    Raises:
        UnavailableError: the PACS can't be asked; what was listed before is noted.
        StorageError: the ledger refused.
    """
    begun = time.time()
    count = _note_all(ledger, pacs.find_series("CT"), progress)
    _note_gone(ledger, pacs, begun, lambda: progress(count) if progress is not None else None)
    return count


def poll(ledger: Ledger, pacs: Pacs) -> int:
    """List the CT series of the last days' studies; returns how many there are. Raises as `walk`."""
    return _note_all(ledger, pacs.find_series("CT", first_date=date.today() - timedelta(days=_RECENT_DAYS)))


def note_listed(ledger: Ledger, found: Sequence[Series]) -> int:
    """Note series as the PACS lists them now; returns how many are new.

    A series that could not be read is tried again once its number of objects is another.

    Raises:
        StorageError: the ledger refused.
    """
    by_id = {one.series_uid: one for one in found}
    now = time.time()
    with ledger.writing() as connection:
        query = select(
            images_table.c.image_id, images_table.c.present, images_table.c.problem, images_table.c.info
        ).where(images_table.c.image_id.in_(by_id))
        known = {row.image_id: row for row in connection.execute(query)}
        query = select(series_table).where(series_table.c.image_id.in_(by_id))
        listed = {row.image_id: row for row in connection.execute(query)}
        new = [image_id for image_id in by_id if image_id not in known]
        images.register(
            connection,
            [(image_id, NOT_FETCHED) for image_id in new],
            {image_id: _info(by_id[image_id]) for image_id in new},
        )
        _add(connection, [one for one in by_id.values() if one.series_uid not in listed], now)
        unchanged, other = [], []
        for image_id, row in known.items():
            one, before = by_id[image_id], listed.get(image_id)
            info = {**row.info, **_info(one)}
            if info != row.info:
                connection.execute(update(images_table).where(images_table.c.image_id == image_id).values(info=info))
            if not row.present:
                _note_back(connection, image_id)
            if before is None or (before.instances, before.study_uid) == (one.instances, one.study_uid):
                unchanged.append(image_id)
                continue
            values = {"instances": one.instances, "study_uid": one.study_uid, "listed_at": now}
            connection.execute(update(series_table).where(series_table.c.image_id == image_id).values(values))
            if row.problem is not None and before.instances is not None:
                images.note_problem(connection, image_id, None)
            other.append(image_id)
        segs.look_again(connection, other)
        if unchanged:
            of_these = series_table.c.image_id.in_(unchanged)
            connection.execute(update(series_table).where(of_these).values(listed_at=now))
    return len(new)


def studies_with_images(connection: Connection, study_uids: Collection[str]) -> set[str]:
    """Those of these studies that hold an image which is there."""
    found: set[str] = set()
    for chunk in chunks(study_uids, _CHUNK):
        query = (
            select(series_table.c.study_uid)
            .join(images_table, images_table.c.image_id == series_table.c.image_id)
            .where(series_table.c.study_uid.in_(chunk), images_table.c.present)
        )
        found.update(connection.scalars(query))
    return found


def note_gone(ledger: Ledger, image_ids: Sequence[str]) -> None:
    """The PACS no longer has these series; labels and their versions stay.

    Raises:
        StorageError: the ledger refused.
    """
    with ledger.writing() as connection:
        query = select(images_table.c.image_id).where(images_table.c.image_id.in_(image_ids), images_table.c.present)
        there = list(connection.scalars(query))
        release_twins(connection, there)
        images.note_vanished(connection, there)


def _note_all(ledger: Ledger, found: Iterable[Series], progress: Callable[[int], object] | None = None) -> int:
    count = 0
    for chunk in chunks(found, _CHUNK):
        note_listed(ledger, chunk)
        count += len(chunk)
        if progress is not None:
            progress(count)
    return count


def _note_gone(ledger: Ledger, pacs: Pacs, begun: float, alive: Callable[[], object]) -> None:
    """Ask for each series that is there by the ledger and was not listed since; `alive` is called for each."""
    query = (
        select(series_table.c.image_id, series_table.c.study_uid)
        .join(images_table, images_table.c.image_id == series_table.c.image_id)
        .where(images_table.c.present, series_table.c.listed_at < begun)
        .order_by(series_table.c.image_id)
        .limit(_CHUNK)
    )
    after = ""
    while True:
        with ledger.reading() as connection:
            page = connection.execute(query.where(series_table.c.image_id > after)).all()
        if not page:
            return
        there, gone = [], []
        for image_id, study_uid in page:
            alive()
            found = pacs.series(study_uid, image_id)
            if found is None or found.modality not in ("", "CT"):
                gone.append(image_id)
            else:
                there.append(found)
        note_listed(ledger, there)
        note_gone(ledger, gone)
        after = page[-1].image_id


def _info(one: Series) -> dict[str, Any]:
    """What clients and the division by patients want to know of a series, as MONAI Label's own store names it."""
    return {
        "PatientID": one.patient_id,
        "StudyInstanceUID": one.study_uid,
        "SeriesInstanceUID": one.series_uid,
        "Modality": one.modality,
        "StudyDate": one.study_date,
        "StudyDescription": one.study_description,
        "SeriesDescription": one.description,
        "instances": one.instances,
    }


def _add(connection: Connection, found: Sequence[Series], now: float) -> None:
    rows = [
        {
            "image_id": one.series_uid,
            "study_uid": one.study_uid,
            "key": None,
            "instances": one.instances,
            "listed_at": now,
        }
        for one in found
    ]
    if rows:
        connection.execute(insert(series_table), rows)


def _note_back(connection: Connection, image_id: str) -> None:
    columns = (images_table.c.suffix, images_table.c.size, images_table.c.modified_ns)
    row = connection.execute(select(*columns).where(images_table.c.image_id == image_id)).one()
    images.note_touched(connection, image_id, FileState(*row))
