"""The images of a studies folder as the ledger knows them."""

import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Connection, and_, bindparam, exists, func, insert, not_, or_, select, update

from lib.errors import BadInputError, NotFoundError
from lib.store import scores
from lib.store.events import record
from lib.store.layout import FINAL
from lib.store.schema import images, labels
from lib.volume import Grid

_MOST_IN_A_LIST = 500  # of the values that one statement may hold
_LONGEST_REASON = 500


@dataclass(frozen=True)
class FileState:
    """What tells a file from its next content without reading it: suffix, bytes, time of change."""

    suffix: str
    size: int
    modified_ns: int

    @classmethod
    def of(cls, path: Path, suffix: str) -> "FileState":
        """As it is on disk now.

        Raises:
            OSError: it isn't there.
        """
        status = path.stat()
        return cls(suffix, status.st_size, status.st_mtime_ns)

    def is_of(self, path: Path) -> bool:
        """Whether a file is as it was then."""
        try:
            return FileState.of(path, self.suffix) == self
        except FileNotFoundError:
            return False


@dataclass(frozen=True)
class Image:
    """One image.

    Args:
        image_id: its name without suffix.
        file: the file when it was last looked at.
        present: whether the file was there then.
        problem: why it can't be offered, None if it can.
        excluded: the reason somebody gave for leaving it out, None if nobody did.
        labelled: whether there is a label with the tag final.
        grid: shape and affine, None until its header was read.
        info: what clients and tasks noted.
    """

    image_id: str
    file: FileState
    present: bool
    problem: str | None
    excluded: str | None
    labelled: bool
    grid: Grid | None
    info: dict[str, Any]


# A file in labels/final/ that can't be used is no label: its image waits for one.
_IS_FINAL = and_(labels.c.tag == FINAL, or_(labels.c.version_id.is_not(None), labels.c.problem.is_(None)))
_COLUMNS = (
    images.c.image_id, images.c.suffix, images.c.size, images.c.modified_ns, images.c.present, images.c.problem,
    images.c.excluded, images.c.labelled, images.c.grid, images.c.info,
)  # fmt: skip
# Statements that every request needs are built once, as that takes longer than to execute them.
_FIND = select(*_COLUMNS).where(images.c.image_id == bindparam("image_id"), images.c.present)
_FINAL_LABEL = exists().where(labels.c.image_id == images.c.image_id, _IS_FINAL)
_FIT = and_(images.c.present, images.c.problem.is_(None), images.c.excluded.is_(None))
_COUNT_LABELLED = select(func.count()).select_from(labels).where(labels.c.tag == FINAL)
_RECKON = (
    update(images)
    .where(images.c.image_id.in_(bindparam("image_ids", expanding=True)))
    .values(labelled=_FINAL_LABEL, open=and_(_FIT, not_(_FINAL_LABEL)))
)


def find(connection: Connection, image_id: str) -> Image | None:
    """An image that is there, None if it is not known or its file is gone."""
    row = connection.execute(_FIND, {"image_id": image_id}).one_or_none()
    return None if row is None else _image(row)


def is_known(connection: Connection, image_id: str) -> bool:
    """Whether the ledger has an image of this id, its file there or gone."""
    return connection.scalar(select(images.c.image_id).where(images.c.image_id == image_id)) is not None


def get(connection: Connection, image_id: str) -> Image:
    """An image that is there.

    Raises:
        NotFoundError: it is not known, or its file is gone.
    """
    image = find(connection, image_id)
    if image is None:
        msg = f"there is no image {image_id[:80]!r} in the studies folder"
        raise NotFoundError(msg)
    return image


def register(
    connection: Connection, found: Sequence[tuple[str, FileState]], infos: Mapping[str, dict[str, Any]] | None = None
) -> None:
    """Note images that the ledger doesn't know yet; all are in the pool unless they have a final label.

    Args:
        connection: a transaction.
        found: image ids and files.
        infos: what to note about each, by image id.
    """
    now = time.time()
    rows = [
        {
            "image_id": image_id,
            "suffix": state.suffix,
            "size": state.size,
            "modified_ns": state.modified_ns,
            "present": True,
            "labelled": False,
            "open": True,
            "shuffle": random.random(),
            "served_at": 0.0,
            "info": {"ts": int(now), "name": f"{image_id}{state.suffix}", **(infos or {}).get(image_id, {})},
            "added_at": now,
        }
        for image_id, state in found
    ]
    if rows:
        connection.execute(insert(images), rows)
        reckon(connection, [image_id for image_id, _ in found])


def note_content(
    connection: Connection, image_id: str, grid: Grid, fingerprint: str, sha256: str | None = None
) -> None:
    """Note what was read from an image's file; one that could not be used is back in the pool."""
    note_problem(connection, image_id, None)
    values: dict[str, Any] = {
        "grid": {"shape": list(grid.shape), "affine": np.asarray(grid.affine).tolist()},
        "fingerprint": fingerprint,
    }
    if sha256 is not None:
        values["sha256"] = sha256
    connection.execute(update(images).where(images.c.image_id == image_id).values(values))


def note_problem(connection: Connection, image_id: str, problem: str | None) -> None:
    """Take an image that can't be used out of the pool, or with None back in."""
    before = connection.scalar(select(images.c.problem).where(images.c.image_id == image_id))
    if before == problem:
        return
    connection.execute(update(images).where(images.c.image_id == image_id).values(problem=problem))
    record(connection, "image refused" if problem else "image fit", image_id, detail={"reason": problem or before})
    reckon(connection, [image_id])


def exclude(connection: Connection, image_id: str, reason: str, actor: str) -> None:
    """Leave an image out of every strategy, training and batch inference.

    Raises:
        BadInputError: no reason is given.
        NotFoundError: it is not known.
    """
    _decide(connection, image_id, "image excluded", reason, actor, excluded=reason)


def include(connection: Connection, image_id: str, reason: str, actor: str) -> None:
    """Take an excluded image back in.

    Raises:
        BadInputError: no reason is given.
        NotFoundError: it is not known.
    """
    _decide(connection, image_id, "image included", reason, actor, excluded=None)


def excluded(connection: Connection) -> dict[str, str]:
    """`{image id: reason}` of the images left out, by name."""
    query = select(images.c.image_id, images.c.excluded).where(images.c.excluded.is_not(None))
    return {image_id: str(reason) for image_id, reason in connection.execute(query.order_by(images.c.image_id))}


def unfit(connection: Connection) -> dict[str, str]:
    """`{image id: problem}` of the images that are there and can't be offered, by name."""
    query = select(images.c.image_id, images.c.problem).where(images.c.problem.is_not(None), images.c.present)
    return {image_id: str(problem) for image_id, problem in connection.execute(query.order_by(images.c.image_id))}


def note_info(connection: Connection, image_id: str, info: dict[str, Any]) -> None:
    """Add to what is noted about an image; equal keys are replaced.

    Raises:
        NotFoundError: it is not known.
    """
    known = get(connection, image_id).info
    connection.execute(update(images).where(images.c.image_id == image_id).values(info={**known, **info}))


def note_vanished(connection: Connection, image_ids: Iterable[str]) -> None:
    """The files of these images are gone; what is known of them and their labels stays."""
    for chunk in _chunks(list(image_ids)):
        connection.execute(update(images).where(images.c.image_id.in_(chunk)).values(present=False))
        for image_id in chunk:
            record(connection, "image vanished", image_id)
        reckon(connection, chunk)


def note_changed(connection: Connection, image_id: str, state: FileState) -> None:
    """The file of an image is there again, or is another one now: what was read from the old one no longer counts."""
    row = connection.execute(select(*_COLUMNS).where(images.c.image_id == image_id)).one()
    values: dict[str, Any] = {"present": True}
    if (row.suffix, row.size, row.modified_ns) != (state.suffix, state.size, state.modified_ns):
        read = ("problem", "fingerprint", "sha256", "grid")
        changed = {"suffix": state.suffix, "size": state.size, "modified_ns": state.modified_ns}
        values |= changed | dict.fromkeys(read)
        scores.forget(connection, [image_id])
    connection.execute(update(images).where(images.c.image_id == image_id).values(values))
    record(connection, "image changed" if row.present else "image is back", image_id, detail={"size": state.size})
    reckon(connection, [image_id])


def note_touched(connection: Connection, image_id: str, state: FileState) -> None:
    """The file of an image was copied or touched; its content is what it was."""
    was_there = connection.scalar(select(images.c.present).where(images.c.image_id == image_id))
    values = {"suffix": state.suffix, "size": state.size, "modified_ns": state.modified_ns, "present": True}
    connection.execute(update(images).where(images.c.image_id == image_id).values(values))
    if not was_there:
        record(connection, "image is back", image_id, detail={"size": state.size})
    reckon(connection, [image_id])


def fingerprints(connection: Connection, image_ids: Sequence[str]) -> dict[str, str]:
    """`{image id: fingerprint}` of those that were inspected."""
    found: dict[str, str] = {}
    for chunk in _chunks(image_ids):
        query = select(images.c.image_id, images.c.fingerprint).where(images.c.image_id.in_(chunk))
        found |= {row.image_id: row.fingerprint for row in connection.execute(query) if row.fingerprint is not None}
    return found


def same_content(connection: Connection, fingerprint: str) -> str | None:
    """An image that is there and has this fingerprint; whether its content is the same needs a full comparison."""
    query = select(images.c.image_id).where(images.c.fingerprint == fingerprint, images.c.present)
    return connection.scalar(query.order_by(images.c.added_at, images.c.image_id).limit(1))


def reckon(connection: Connection, image_ids: Sequence[str]) -> None:
    """Bring `labelled` and `open` in line with what they follow from; after every change to that."""
    for chunk in _chunks(image_ids):
        connection.execute(_RECKON, {"image_ids": chunk})
        scores.reckon(connection, chunk)


def names(connection: Connection, *, labelled: bool | None = None, open_only: bool = False) -> list[str]:
    """Ids of the images that are there, by name.

    Args:
        connection: to the ledger.
        labelled: only those with, or without, a final label; excluded ones then don't count.
        open_only: only those that wait to be labelled: neither unfit nor excluded.
    """
    query = select(images.c.image_id).where(images.c.present).order_by(images.c.image_id)
    if labelled is not None:
        query = query.where(images.c.labelled == labelled, images.c.excluded.is_(None))
    if open_only:
        query = query.where(images.c.open)
    return list(connection.scalars(query))


def patient_ids(connection: Connection, image_ids: Sequence[str]) -> dict[str, str]:
    """`{image id: DICOM patient id}` of the images that have one noted."""
    found = {}
    for chunk in _chunks(image_ids):
        for row in connection.execute(select(images.c.image_id, images.c.info).where(images.c.image_id.in_(chunk))):
            if row.info.get("PatientID"):
                found[row.image_id] = str(row.info["PatientID"])
    return found


def progress(connection: Connection) -> dict[str, int]:
    """How many images are there (`total`) and how many of them have a final label (`completed`)."""
    final = select(func.count()).select_from(labels).join(images, images.c.image_id == labels.c.image_id)
    return {
        "total": _count(connection) - _count(connection, ~images.c.present),
        "completed": int(connection.scalar(final.where(_IS_FINAL, images.c.present)) or 0),
    }


def count_labelled(connection: Connection) -> int:
    """How many images ever got a final label, gone ones among them; by an index alone, so for quick requests."""
    return int(connection.scalar(_COUNT_LABELLED) or 0)


def counts(connection: Connection) -> dict[str, int]:
    """`progress`, and how many images wait (`open`), are left out (`excluded`) or can't be used (`unfit`)."""
    return progress(connection) | {
        "open": _count(connection, images.c.open),
        "excluded": _count(connection, images.c.excluded.is_not(None)),
        "unfit": _count(connection, images.c.problem.is_not(None), images.c.present),
    }


def _decide(connection: Connection, image_id: str, kind: str, reason: str, actor: str, *, excluded: str | None) -> None:
    """What somebody decides about an image, with the reason they give."""
    get(connection, image_id)
    if not reason.strip() or len(reason) > _LONGEST_REASON:
        msg = f"a reason of 1 to {_LONGEST_REASON} characters is needed; say why in a few words"
        raise BadInputError(msg)
    connection.execute(update(images).where(images.c.image_id == image_id).values(excluded=excluded))
    record(connection, kind, image_id, actor=actor, detail={"reason": reason})
    reckon(connection, [image_id])


def _count(connection: Connection, *conditions: Any) -> int:
    return int(connection.scalar(select(func.count()).select_from(images).where(*conditions)) or 0)


def _image(row: Any) -> Image:
    grid = Grid(tuple(row.grid["shape"]), np.array(row.grid["affine"])) if row.grid else None
    state = FileState(row.suffix, row.size, row.modified_ns)
    return Image(row.image_id, state, row.present, row.problem, row.excluded, row.labelled, grid, row.info or {})


def _chunks(values: Sequence[str]) -> Iterable[Sequence[str]]:
    return (values[start : start + _MOST_IN_A_LIST] for start in range(0, len(values), _MOST_IN_A_LIST))
