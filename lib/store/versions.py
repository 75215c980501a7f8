"""Every version of every label, as rows; `lib.store.label_store` keeps the files."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, and_, exists, func, or_, select, update

from lib.errors import NotFoundError
from lib.store.meaning import LOOKED_AT, SLICES, looked_at
from lib.store.schema import events, images, labels, versions


@dataclass(frozen=True)
class Version:
    """One saved label; the columns are explained in `lib.store.schema`."""

    id: int
    image_id: str
    tag: str
    number: int
    file: str
    size: int
    sha256: str
    sent: str | None
    author: str
    source: str
    saved_at: float
    seconds_since_lease: float | None
    model_version: str | None
    restored_from: int | None
    voxels: dict[str, int] | None
    ml: dict[str, float] | None
    against_presegmentation: dict[str, Any] | None
    against_previous: dict[str, Any] | None
    change: float | None
    info: dict[str, Any]


@dataclass(frozen=True)
class Shown:
    """What `labels/<tag>/` shows for an image, see `lib.store.schema.labels`."""

    image_id: str
    tag: str
    suffix: str
    version_id: int | None
    problem: str | None
    info: dict[str, Any] | None
    shown_size: int | None
    shown_modified_ns: int | None


class Counted(NamedTuple):
    """A labelled image to train on.

    Args:
        image_id: of the image.
        voxels: of each class in its label; None where that is not known.
        shape: of the image, `(X, Y, Z)`; None where its header was not read yet.
        looked_at: the part of its axial slices that somebody looked at.
    """

    image_id: str
    voxels: dict[str, int] | None
    shape: tuple[int, int, int] | None
    looked_at: float


def history(connection: Connection, image_id: str, tag: str | None = None) -> list[Version]:
    """Every version of an image's labels, the newest first."""
    query = select(versions).where(versions.c.image_id == image_id)
    if tag is not None:
        query = query.where(versions.c.tag == tag)
    rows = connection.execute(query.order_by(versions.c.id.desc())).mappings()
    return [Version(**row) for row in rows]


def get(connection: Connection, image_id: str, tag: str, number: int) -> Version:
    """One version.

    Raises:
        NotFoundError: there is none.
    """
    query = select(versions).where(versions.c.image_id == image_id, versions.c.tag == tag, versions.c.number == number)
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        msg = f"there is no version {number} of the label {tag[:80]!r} of image {image_id[:80]!r}"
        raise NotFoundError(msg)
    return Version(**row)


def newest(connection: Connection, image_id: str, tag: str) -> Version | None:
    """The last version saved, None if there is none; it counts even where its label was withdrawn since."""
    query = select(versions).where(versions.c.image_id == image_id, versions.c.tag == tag)
    row = connection.execute(query.order_by(versions.c.number.desc()).limit(1)).mappings().one_or_none()
    return None if row is None else Version(**row)


def last_id(connection: Connection) -> int:
    """Key of the version that was added last, 0 if there is none."""
    return int(connection.scalar(select(func.max(versions.c.id))) or 0)


def current(connection: Connection, image_id: str, tag: str) -> Version | None:
    """The version that `labels/<tag>/` shows, None if the label was withdrawn or not taken in."""
    query = (
        select(versions)
        .join(labels, labels.c.version_id == versions.c.id)
        .where(labels.c.image_id == image_id, labels.c.tag == tag)
    )
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else Version(**row)


def shown(connection: Connection, image_id: str, tag: str) -> Shown | None:
    """What `labels/<tag>/` shows, None if nothing."""
    query = select(labels).where(labels.c.image_id == image_id, labels.c.tag == tag)
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else Shown(**row)


def tags_of(connection: Connection, image_id: str) -> list[str]:
    """The tags under which an image has a label, by name."""
    return list(connection.scalars(select(labels.c.tag).where(labels.c.image_id == image_id).order_by(labels.c.tag)))


def count_by_tag(connection: Connection) -> dict[str, int]:
    """How many labels each tag has."""
    query = select(labels.c.tag, func.count()).group_by(labels.c.tag).order_by(labels.c.tag)
    return {tag: int(number) for tag, number in connection.execute(query)}


def pending(connection: Connection, tag: str | None = None) -> list[tuple[str, str]]:
    """Image ids and tags of the labels that lie in the folder and were not taken in yet, or not shown yet."""
    waiting = or_(
        and_(labels.c.version_id.is_(None), labels.c.problem.is_(None)),
        and_(labels.c.version_id.is_not(None), labels.c.shown_size.is_(None)),
    )
    query = select(labels.c.image_id, labels.c.tag).where(waiting).order_by(labels.c.image_id)
    if tag is not None:
        query = query.where(labels.c.tag == tag)
    return [(row.image_id, row.tag) for row in connection.execute(query)]


def all_current(connection: Connection) -> list[tuple[str, str]]:
    """Image ids and tags of every label that is a version."""
    query = select(labels.c.image_id, labels.c.tag).where(labels.c.version_id.is_not(None))
    return [(row.image_id, row.tag) for row in connection.execute(query.order_by(labels.c.image_id, labels.c.tag))]


def labelled_pairs(connection: Connection, tag: str) -> list[tuple[str, str, str]]:
    """Image id, image suffix and label suffix of the images to train on, by name.

    Left out are images that are gone, unfit or excluded, and labels that were not taken in.
    """
    query = (
        select(images.c.image_id, images.c.suffix, labels.c.suffix.label("label_suffix"))
        .join(labels, labels.c.image_id == images.c.image_id)
        .where(*_to_train_on(tag))
        .order_by(images.c.image_id)
    )
    return [(row.image_id, row.suffix, row.label_suffix) for row in connection.execute(query)]


def counted(connection: Connection, tag: str) -> list[Counted]:
    """What is known of the pairs of `labelled_pairs` without opening a file."""
    query = (
        select(images.c.image_id, images.c.grid, versions.c.voxels, versions.c.info)
        .join(labels, labels.c.image_id == images.c.image_id)
        .join(versions, versions.c.id == labels.c.version_id)
        .where(*_to_train_on(tag))
        .order_by(images.c.image_id)
    )
    return [
        Counted(row.image_id, row.voxels, tuple(row.grid["shape"]) if row.grid else None, _part_looked_at(row.info))
        for row in connection.execute(query)
    ]


def count_to_train_on(connection: Connection, tag: str, among: Select[tuple[str]]) -> int:
    """How many of the images that a query names are among the pairs of `labelled_pairs`."""
    query = select(func.count()).select_from(images).join(labels, labels.c.image_id == images.c.image_id)
    return connection.scalar(query.where(*_to_train_on(tag), images.c.image_id.in_(among))) or 0


def images_with(connection: Connection, tag: str) -> list[str]:
    """Ids of the images that are there, are not excluded and have a label of this tag, by name."""
    query = (
        select(images.c.image_id)
        .join(labels, labels.c.image_id == images.c.image_id)
        .where(labels.c.tag == tag, images.c.present, images.c.excluded.is_(None))
    )
    return list(connection.scalars(query.order_by(images.c.image_id)))


def made_by_models(connection: Connection, tag: str) -> dict[str, dict[str, Any]]:
    """What models noted (`params`) about the labels of a tag that they made, by image.

    Left out are labels of images that are gone, or of which another file was seen since.
    """
    changed = exists().where(
        events.c.image_id == labels.c.image_id,
        events.c.kind.in_(("image changed", "image is back")),
        events.c.at > versions.c.saved_at,
    )
    query = (
        select(labels.c.image_id, versions.c.info)
        .join(versions, versions.c.id == labels.c.version_id)
        .join(images, images.c.image_id == labels.c.image_id)
        .where(labels.c.tag == tag, labels.c.problem.is_(None), versions.c.source == "model")
        .where(images.c.present, ~changed)
    )
    found = {row.image_id: row.info.get("params") for row in connection.execute(query)}
    return {image_id: params for image_id, params in found.items() if isinstance(params, dict)}


def note_image_replaced(connection: Connection, image_ids: Sequence[str]) -> None:
    """Labels of an image that is another one now are not trained on; saving or restoring one makes it count again."""
    problem = "the image's file was replaced after this label was saved; correct the label for the new one and save it"
    of_these = (labels.c.image_id.in_(image_ids), labels.c.version_id.is_not(None))
    connection.execute(update(labels).where(*of_these).values(problem=problem))


def note_info(connection: Connection, image_id: str, tag: str, info: dict[str, Any]) -> None:
    """Add to what is noted about the current label of a tag; its voxels and figures never change.

    Raises:
        NotFoundError: there is no such label, or it was not taken in yet.
    """
    version = current(connection, image_id, tag)
    if version is None:
        msg = f"there is no label {image_id[:80]!r} with the tag {tag[:80]!r}"
        raise NotFoundError(msg)
    connection.execute(update(versions).where(versions.c.id == version.id).values(info={**version.info, **info}))


def described(connection: Connection, image_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`{image id: {"image": ..., "labels": ...}}` as MONAI Label's `datastore_v2.json` holds it."""
    objects: dict[str, dict[str, Any]] = {}
    for chunk in (image_ids[start : start + 500] for start in range(0, len(image_ids), 500)):
        for image in connection.execute(select(images).where(images.c.image_id.in_(chunk)).order_by(images.c.image_id)):
            objects[image.image_id] = {"image": {"info": image.info, "ext": image.suffix}, "labels": {}}
        query = (
            select(labels.c.image_id, labels.c.tag, labels.c.suffix, labels.c.info, versions.c.info.label("noted"))
            .outerjoin(versions, versions.c.id == labels.c.version_id)
            .where(labels.c.image_id.in_(chunk))
        )
        for label in connection.execute(query):
            entry = {"info": label.noted or label.info or {}, "ext": label.suffix}
            if label.image_id in objects:
                objects[label.image_id]["labels"][label.tag] = entry
    return objects


def _part_looked_at(info: dict[str, Any]) -> float:
    seen = looked_at(info)
    return seen[LOOKED_AT] / seen[SLICES] if seen else 1.0


def _to_train_on(tag: str) -> tuple[ColumnElement[bool], ...]:
    return (
        labels.c.tag == tag, labels.c.version_id.is_not(None), labels.c.problem.is_(None),
        images.c.present, images.c.problem.is_(None), images.c.excluded.is_(None),
    )  # fmt: skip
