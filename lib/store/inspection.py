"""Whether an image can be offered: its header, whether its file is whole, whether it is there under another name.

Cheap enough to be done before an image is handed out: the header and three small parts of the file are read, all of
it only where another image may be the same. Nothing is read within a transaction.
"""

import errno
import hashlib
import logging
import math
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
from isal import igzip
from sqlalchemy import Connection, null, or_, select, update

from lib.errors import BadInputError, LiverLoopError, NotFoundError, StorageError
from lib.files import file_sha256
from lib.store import images, leases
from lib.store.events import SERVER
from lib.store.images import Image
from lib.store.layout import Layout
from lib.store.ledger import Ledger
from lib.store.schema import images as images_table
from lib.volume import Grid
from lib.volume_io import read_grid, read_image

logger = logging.getLogger(__name__)

_NIFTI_2_BYTES = 540  # of a header
_PART_BYTES = 65_536  # of a file's beginning, middle and end that its fingerprint is made of
_FORBIDDEN = "reading it is not permitted"
_TWIN = "has the same content as image "
_BATCH = 100  # images that are looked up at once
_PAUSE_S = 0.02  # after each image, for those who wait for the ledger or the disk


@dataclass(frozen=True)
class Inspection:
    """What an image's file says about itself.

    Args:
        grid: shape and affine by its header.
        fingerprint: hash of its size, beginning, middle and end; other fingerprints mean other contents.
    """

    grid: Grid
    fingerprint: str


def inspect(path: Path, suffix: str) -> Inspection:
    """Look at an image's file without decoding its voxels, unless its length makes it doubtful.

    Args:
        path: the file.
        suffix: its image suffix, in any case.

    Raises:
        NotFoundError: it is gone.
        BadInputError: the header can't be read or is not of a 3D volume of gray values, or the file is truncated.
    """
    grid = read_grid(path)
    if not _is_whole(path, suffix):
        read_image(path)  # says what is wrong; an unusual way of compressing is no damage
    try:
        return Inspection(grid, fingerprint_of(path))
    except FileNotFoundError as error:
        msg = f"{path.name}: there is no such file"
        raise NotFoundError(msg) from error


def is_complete(path: Path, suffix: str) -> bool:
    """Whether an image can be read to its end; False for one that is still being copied."""
    try:
        read_grid(path)
        if not _is_whole(path, suffix):
            return False
        read_image(path)
    except (LiverLoopError, OSError):
        return False
    return True


def ensure_fit(ledger: Ledger, layout: Layout, image_id: str) -> str | None:
    """Inspect an image that nobody has inspected yet, and note the result.

    Args:
        ledger: what is known.
        layout: where files lie.
        image_id: of an image in the folder.

    Returns:
        Why it can't be offered, None if it can. What may be over soon, such as a network share that doesn't answer, is
        returned and not noted.

    Raises:
        NotFoundError: no image has this id.
        StorageError: the ledger refused.
    """
    with ledger.reading() as connection:
        image = images.get(connection, image_id)
    if image.grid is not None or image.problem is not None:
        return image.problem
    return _inspected(ledger, layout, image)


def note_if_unreadable(ledger: Ledger, layout: Layout, image_id: str) -> str | None:
    """Decode an image that work failed on; if that is the image's fault, it is not offered to anybody else.

    Returns:
        Why it can't be used, None if it can.

    Raises:
        NotFoundError: no image has this id.
        StorageError: the ledger refused.
    """
    with ledger.reading() as connection:
        image = images.get(connection, image_id)
    try:
        read_image(layout.image(image_id, image.file.suffix))
    except BadInputError as error:
        if _note_problem(ledger, image, str(error)):
            with ledger.writing() as connection:
                why = f"the image can't be used: {error}"
                leases.free(connection, image_id, actor=SERVER, why=why, uncounted=True)
        return str(error)
    except NotFoundError:
        _note_gone(ledger, image)
    return None


def note_found(ledger: Ledger, layout: Layout, image: Image, found: Inspection, sha256: str | None = None) -> bool:
    """Note what an image is, and which of several with one content is not needed; False where it changed meanwhile.

    Args:
        ledger: what is known.
        layout: where files lie.
        image: as the ledger had it when its file was looked at.
        found: in the file.
        sha256: of the file; None: read where another may be the same.

    Raises:
        StorageError: the ledger refused.
    """
    path = layout.image(image.image_id, image.file.suffix)
    own = sha256
    hashes: dict[str, str | None] = {}
    while True:
        with ledger.reading() as connection:
            alike = _alike(connection, image, found.fingerprint)
        if alike and own is None:
            own = file_sha256(path)
        hashes = {name: _sha256(layout, name, suffix, known) for name, suffix, known in alike}
        with ledger.writing() as connection:
            if not _is_still(connection, image):
                return False
            if _alike(connection, image, found.fingerprint) != alike:
                continue  # another one was inspected at the same time
            images.note_content(connection, image.image_id, found.grid, found.fingerprint, own)
            for name, sha256 in hashes.items():
                connection.execute(update(images_table).where(images_table.c.image_id == name).values(sha256=sha256))
            same = [name for name, sha256 in hashes.items() if sha256 == own]
            if same:
                first, *others = _by_age(connection, [image.image_id, *same])
                for other in others:
                    images.note_problem(connection, other, f"{_TWIN}{first!r}")
            return True


def inspect_all(ledger: Ledger, layout: Layout, stop: threading.Event) -> None:
    """Inspect every image that was not inspected yet or could not be opened, one by one, until done or stopped.

    Raises:
        StorageError: the ledger refused.
    """
    last = ""
    while not stop.is_set():
        problem = images_table.c.problem
        query = select(images_table.c.image_id).where(
            images_table.c.image_id > last,
            images_table.c.present,
            images_table.c.fingerprint.is_(None),
            or_(problem.is_(None), problem.startswith(_FORBIDDEN, autoescape=True)),
        )
        with ledger.reading() as connection:
            batch = list(connection.scalars(query.order_by(images_table.c.image_id).limit(_BATCH)))
        if not batch:
            return
        for image_id in batch:
            with suppress(NotFoundError):  # went meanwhile
                with ledger.reading() as connection:
                    image = images.get(connection, image_id)
                _inspected(ledger, layout, image)
            if stop.wait(_PAUSE_S):
                return
        last = batch[-1]


def fingerprint_of(path: Path) -> str:
    """Hash of a file's size, beginning, middle and end: milliseconds whatever its size.

    Raises:
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        parts = hashlib.sha256(size.to_bytes(8, "little"))
        for start in (0, (size - _PART_BYTES) // 2, size - _PART_BYTES):
            file.seek(max(start, 0))
            parts.update(file.read(_PART_BYTES))
    return parts.hexdigest()


def release_twins(connection: Connection, image_ids: Sequence[str]) -> None:
    """Let images be inspected again that were refused as being the same as these, which go or change now."""
    of_these = select(images_table.c.fingerprint).where(images_table.c.image_id.in_(image_ids))
    twins = select(images_table.c.image_id).where(
        images_table.c.fingerprint.in_(of_these),
        images_table.c.problem.startswith(_TWIN, autoescape=True),
        images_table.c.image_id.not_in(image_ids),
    )
    for image_id in list(connection.scalars(twins)):
        images.note_problem(connection, image_id, None)
        unread = {"grid": null(), "fingerprint": null()}
        connection.execute(update(images_table).where(images_table.c.image_id == image_id).values(unread))


def _inspected(ledger: Ledger, layout: Layout, image: Image) -> str | None:
    """Inspect an image whatever is known of it, see `ensure_fit`."""
    while True:
        try:
            found = inspect(layout.image(image.image_id, image.file.suffix), image.file.suffix)
            noted = note_found(ledger, layout, image, found)
        except StorageError:
            raise
        except NotFoundError as error:
            _note_gone(ledger, image)
            return str(error)
        except (BadInputError, OSError) as error:
            problem = str(error)
            cause = error if isinstance(error, OSError) else error.__cause__
            if isinstance(cause, OSError) and cause.errno:  # of the system, not of a reader that finds no image
                if cause.errno not in {errno.EACCES, errno.EPERM}:
                    return f"it can't be read now: {cause.strerror}"
                problem = f"{_FORBIDDEN}; change its permissions, then touch the file or start again"
            noted = _note_problem(ledger, image, problem)
        with ledger.reading() as connection:
            image = images.get(connection, image.image_id)
        if noted:
            if image.problem is not None:
                logger.warning("the image %s is not offered: %s", image.image_id, image.problem)
            return image.problem


def _note_problem(ledger: Ledger, image: Image, problem: str) -> bool:
    """False where the image changed meanwhile."""
    with ledger.writing() as connection:
        if not _is_still(connection, image):
            return False
        images.note_problem(connection, image.image_id, problem)
        return True


def _note_gone(ledger: Ledger, image: Image) -> None:
    with ledger.writing() as connection:
        if _is_still(connection, image):
            release_twins(connection, [image.image_id])
            images.note_vanished(connection, [image.image_id])


def _alike(connection: Connection, image: Image, fingerprint: str) -> list[tuple[str, str, str | None]]:
    """Name, suffix and hash of the other images that may have the same content."""
    columns = (images_table.c.image_id, images_table.c.suffix, images_table.c.sha256)
    query = select(*columns).where(
        images_table.c.fingerprint == fingerprint,
        images_table.c.present,
        images_table.c.image_id != image.image_id,
    )
    return [(name, suffix, sha256) for name, suffix, sha256 in connection.execute(query.order_by(columns[0]))]


def _by_age(connection: Connection, image_ids: Sequence[str]) -> list[str]:
    """The labelled ones first, so that no work is asked for again, then those that came first."""
    query = select(images_table.c.image_id).where(images_table.c.image_id.in_(image_ids))
    order = (images_table.c.labelled.desc(), images_table.c.added_at, images_table.c.image_id)
    return list(connection.scalars(query.order_by(*order)))


def _is_still(connection: Connection, image: Image) -> bool:
    current = images.find(connection, image.image_id)
    return current is not None and current.file == image.file


def _sha256(layout: Layout, image_id: str, suffix: str, known: str | None) -> str | None:
    """Of the whole file; None where it is gone meanwhile."""
    with suppress(FileNotFoundError):
        return known or file_sha256(layout.image(image_id, suffix))
    return None


def _is_whole(path: Path, suffix: str) -> bool:
    """Whether a NIfTI file's length is what its header announces; of a compressed one the length when unpacked."""
    suffix = suffix.lower()
    if suffix == ".nrrd":
        return True
    try:
        opened: Any = igzip.open(path, "rb") if suffix == ".nii.gz" else path.open("rb")
        with opened as file:
            start = file.read(_NIFTI_2_BYTES)
        is_second = _NIFTI_2_BYTES in {int.from_bytes(start[:4], order) for order in ("little", "big")}
        kind: Any = nib.Nifti2Header if is_second else nib.Nifti1Header
        header = kind(start[: kind.template_dtype.itemsize], check=False)
        expected = header.get_data_offset() + math.prod(header.get_data_shape()) * header.get_data_dtype().itemsize
        with path.open("rb") as file:
            if suffix == ".nii":
                return file.seek(0, 2) >= expected
            file.seek(-4, 2)  # gzip ends with the length before packing, modulo 2**32
            return int.from_bytes(file.read(4), "little") == expected % 2**32
    except FileNotFoundError as error:
        msg = f"{path.name}: there is no such file"
        raise NotFoundError(msg) from error
