"""What a model made for each client, kept to tell later what was corrected in it."""

import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection, delete, insert, select

from lib.files import atomic_write
from lib.store import images, versions
from lib.store.door import checked_identifier
from lib.store.layout import ORIGINAL, STORED, Layout
from lib.store.ledger import Ledger
from lib.store.schema import presegmentations
from lib.volume_io import is_packed, read_label, suffix_of, write_label


def keep(ledger: Ledger, layout: Layout, image_id: str, client_id: str, model_version: str, path: Path) -> None:
    """Keep an automatic result, as it was sent unless that takes much room; a newer one for the same client and image
    takes its place.

    Args:
        ledger: what is known.
        layout: where files lie.
        image_id: of an image in the folder.
        client_id: who got it.
        model_version: of the model that made it.
        path: the label as it was sent.

    Raises:
        NotFoundError: no image has this id.
        BadInputError: it can't be read as a label.
        StorageError: the disk or the ledger refused.
    """
    packed = is_packed(path)
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}Z{suffix_of(path) if packed else STORED}"
    file = Path(checked_identifier(image_id, "image id")) / name
    target = layout.presegmentations / file
    if packed:  # whoever waits for it need not wait for another form of it
        with atomic_write(target) as temporary:
            shutil.copyfile(path, temporary)
    else:
        write_label(target, read_label(path))
    key = (presegmentations.c.image_id == image_id, presegmentations.c.client_id == client_id)
    row = {"image_id": image_id, "client_id": client_id, "model_version": model_version}
    with ledger.writing() as connection:
        images.get(connection, image_id)
        old = connection.scalar(select(presegmentations.c.file).where(*key))
        connection.execute(delete(presegmentations).where(*key))
        connection.execute(insert(presegmentations).values(**row, file=file.as_posix(), made_at=time.time()))
    if old is not None:  # made by a machine and superseded
        (layout.presegmentations / old).unlink(missing_ok=True)


def find(connection: Connection, layout: Layout, image_id: str, client_id: str) -> tuple[Path, str | None] | None:
    """What a correction started from and the model version that made it.

    The last result this client got for the image, else the stored label `original`, which clients load by themselves.
    """
    key = (presegmentations.c.image_id == image_id, presegmentations.c.client_id == client_id)
    row = connection.execute(select(presegmentations).where(*key)).one_or_none()
    if row is not None:
        return layout.presegmentations / row.file, row.model_version
    original = versions.current(connection, image_id, ORIGINAL)
    return (layout.versions / original.file, original.model_version) if original else None
