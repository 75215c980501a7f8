"""Take over what MONAI Label's own store has noted about a studies folder, or an earlier version of ours.

Files are found by looking through the folder; what `datastore_v2.json` adds are notes, the most important of them what
the values of each label mean. The file is left as it is.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, select, update

from lib.errors import BadInputError
from lib.store.images import FileState
from lib.store.layout import Layout
from lib.store.ledger import Ledger
from lib.store.listing import chunks, unfit_name
from lib.store.schema import images, labels
from lib.volume_io import suffix_of

logger = logging.getLogger(__name__)

_TABLE = "datastore_v2.json"
_ADOPTED = "adopted"  # the fact that holds the hash of the file that was taken over last
_CHUNK = 500  # images whose notes are written at once

_Noted = tuple[str, dict[str, Any], dict[str, dict[str, Any]]]  # image, notes about it, notes about its label by tag


def adopt(ledger: Ledger, layout: Layout) -> int:
    """Note what `datastore_v2.json` says about known images and about labels that wait to be taken in.

    Does nothing where there is no such file, or where it is the one that was taken over last. Interrupted, it begins
    anew the next time. Facts `name` and `description` get the data set's.

    Args:
        ledger: what is known; the folder has been looked through.
        layout: where files lie.

    Returns:
        How many images and labels got notes.

    Raises:
        BadInputError: the file is damaged.
        StorageError: the ledger refused.
    """
    path = layout.studies / _TABLE
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return 0
    sha256 = hashlib.sha256(content).hexdigest()
    with ledger.reading() as connection:
        if ledger.fact(connection, _ADOPTED) == sha256:
            return 0
    try:
        table = json.loads(content, parse_constant=lambda _: None)  # NaN, which is not JSON but written all the same
        del content
        facts = {key: str(table.get(key) or "") for key in ("name", "description")}
        noted = list(_noted(table))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        msg = (
            f"{path} is damaged; move it away: images and labels are found again without it, only notes about "
            "them are lost"
        )
        raise BadInputError(msg) from error
    count = 0
    for chunk in chunks(noted, _CHUNK):
        with ledger.writing() as connection:
            count += _note_images(connection, chunk) + _note_labels(connection, layout, chunk)
    with ledger.writing() as connection:
        for key, value in facts.items():
            ledger.set_fact(connection, key, value)
        ledger.set_fact(connection, _ADOPTED, sha256)
    logger.info("%s is adopted: notes about %d images and labels", _TABLE, count)
    return count


def _noted(table: Any) -> Iterator[_Noted]:
    for image_id, entry in table.get("objects", {}).items():
        if unfit_name(image_id, "image id") is None:  # no file of such a name is known either
            tags = {tag: _info(label) for tag, label in entry.get("labels", {}).items()}
            yield image_id, _info(entry.get("image", {})), tags


def _info(entry: Any) -> dict[str, Any]:
    return dict(entry.get("info") or {})


def _note_images(connection: Connection, chunk: list[_Noted]) -> int:
    infos = {image_id: info for image_id, info, _ in chunk if info}
    count = 0
    query = select(images.c.image_id, images.c.info).where(images.c.image_id.in_(infos))
    for image_id, known in connection.execute(query).all():
        info = {**known, **infos[image_id]}
        if info != known:
            connection.execute(update(images).where(images.c.image_id == image_id).values(info=info))
            count += 1
    return count


def _note_labels(connection: Connection, layout: Layout, chunk: list[_Noted]) -> int:
    infos = {image_id: tags for image_id, _, tags in chunk if tags}
    count = 0
    for row in connection.execute(select(labels).where(labels.c.image_id.in_(infos))).mappings().all():
        info = infos[row["image_id"]].get(row["tag"])
        if info and info != row["info"] and _is_to_be_taken_in(layout, row):
            # A problem may have come from not knowing what the values mean.
            values: dict[str, Any] = {"info": info}
            if row["version_id"] is None:
                values |= {"problem": None, "shown_size": None, "shown_modified_ns": None}
            key = (labels.c.image_id == row["image_id"], labels.c.tag == row["tag"])
            connection.execute(update(labels).where(*key).values(values))
            count += 1
    return count


def _is_to_be_taken_in(layout: Layout, row: Mapping[Any, Any]) -> bool:
    """Whether the label is no version yet, or another program has written over the one that is shown."""
    if row["version_id"] is None:
        return True
    shown = FileState(row["suffix"], row["shown_size"], row["shown_modified_ns"])
    files = layout.shown_files(row["image_id"], row["tag"])
    return row["shown_size"] is not None and any(FileState.of(path, suffix_of(path)) != shown for path in files)
