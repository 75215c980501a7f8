"""Everything the ledger holds about each image, page by page: for what must look at all of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import merge
from itertools import groupby, islice
from typing import Any

from sqlalchemy import Connection, Table, select

from lib.store import schema
from lib.store.versions import Shown, Version

_PAGE = 500  # images; one statement may hold about so many values
_TABLES = (schema.images, schema.versions, schema.labels, schema.presegmentations, schema.leases)

Row = Mapping[str, Any]


@dataclass
class Records:
    """The rows about one image; all are empty where the ledger doesn't know it.

    Args:
        image_id: whose.
        image: the image's own row.
        versions: of all tags, by tag and number.
        labels: what each tag shows, by tag.
        presegmentations: the last automatic result of each client, by client.
        lease: who has the image.
    """

    image_id: str
    image: Row | None = None
    versions: list[Version] = field(default_factory=list)
    labels: list[Shown] = field(default_factory=list)
    presegmentations: list[Row] = field(default_factory=list)
    lease: Row | None = None

    @property
    def is_known(self) -> bool:
        """Whether the ledger holds anything about the image."""
        return bool(self.image or self.versions or self.labels or self.presegmentations or self.lease)

    def of_tag(self, tag: str) -> list[Version]:
        """The versions of one tag, by number."""
        return [version for version in self.versions if version.tag == tag]

    def shown(self, tag: str) -> Shown | None:
        """What a tag shows, None if nothing."""
        return next((label for label in self.labels if label.tag == tag), None)


def ids_after(connection: Connection, after: str = "", limit: int = _PAGE) -> list[str]:
    """The next image ids that any table holds, by name; an image may have versions or a lease and no row of its own.

    Args:
        connection: to the ledger.
        after: only ids behind this one.
        limit: at most so many.
    """

    def of(table: Table) -> Iterator[str]:
        column = table.c.image_id
        query = select(column).where(column > after).distinct().order_by(column).limit(limit)
        return iter(list(connection.scalars(query)))

    ordered = merge(*(of(table) for table in _TABLES))
    return [image_id for image_id, _ in islice(groupby(ordered), limit)]


def of_images(connection: Connection, image_ids: Sequence[str]) -> list[Records]:
    """What the ledger holds about up to a page of images, in the order asked for."""
    found = {image_id: Records(image_id) for image_id in image_ids}

    def rows(table: Table) -> list[dict[str, Any]]:
        query = select(table).where(table.c.image_id.in_(list(found)))
        return [row._asdict() for row in connection.execute(query)]

    for row in rows(schema.images):
        found[row["image_id"]].image = row
    for row in rows(schema.versions):
        found[row["image_id"]].versions.append(Version(**row))
    for row in rows(schema.labels):
        found[row["image_id"]].labels.append(Shown(**row))
    for row in rows(schema.presegmentations):
        found[row["image_id"]].presegmentations.append(row)
    for row in rows(schema.leases):
        found[row["image_id"]].lease = row
    for records in found.values():  # by code point on every database
        records.versions.sort(key=lambda version: (version.tag, version.number, version.id))
        records.labels.sort(key=lambda label: label.tag)
        records.presegmentations.sort(key=lambda row: row["client_id"])
    return list(found.values())


def pages(connection: Connection, size: int = _PAGE) -> Iterator[list[Records]]:
    """What the ledger holds about every image, by name, as one connection sees it.

    Args:
        connection: to the ledger.
        size: images per page, at most 500.
    """
    image_ids = ids_after(connection, limit=size)
    while image_ids:
        yield of_images(connection, image_ids)
        image_ids = ids_after(connection, image_ids[-1], size)
