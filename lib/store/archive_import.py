"""Take an archive of `lib.store.archive` into a studies folder, new or in use, whatever its database.

Everything is verified and compared with what is there before anything is written. Files come first, then rows, image by
image, so that an interrupted import can simply be started again; what is there already is left as it is.
"""

import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Connection, false, insert, or_, select, update

from lib.errors import BadInputError, StorageError
from lib.files import atomic_write, file_sha256
from lib.store import images, refused, schema, splits
from lib.store.archive import LABELS, OWN_FACTS, PRESEGMENTATIONS, VERSIONS
from lib.store.archive_reader import ArchiveReader, Group, Row
from lib.store.events import SERVER, record
from lib.store.layout import FINAL, REFUSED
from lib.store.leases import REVIEW
from lib.store.listing import chunks
from lib.store.records import Records, of_images
from lib.store.store import Store
from lib.volume import Grid, corner_distance
from lib.volume_io import stem_of

logger = logging.getLogger(__name__)

Progress = Callable[[int], object]

_PAGE = 100  # images whose rows are written in one transaction
_NAMED_AT_MOST = 5  # images in an error message
_SPARE_BYTES = 100 << 20  # left free on the disk


@dataclass
class Imported:
    """What an import added.

    Args:
        images: images that the ledger did not know.
        versions: versions.
        labels: labels that are shown now.
        files: files of any kind, also those that were lost here.
        events: events.
    """

    images: int = 0
    versions: int = 0
    labels: int = 0
    files: int = 0
    events: int = 0

    def __bool__(self) -> bool:
        """Whether anything was added."""
        return any(vars(self).values())


def import_archive(store: Store, path: str | Path, progress: Progress | None = None) -> Imported:
    """Add everything in an archive that is not there yet.

    A version is known by image, tag, number, hash and time. For each image and tag, versions that are missing behind
    those that are there are added with their numbers. Images whose CT is not in the folder are noted as gone, so that
    their labels are there as soon as they are. What somebody decided here about an image goes before the archive.

    Args:
        store: the studies folder.
        path: the archive.
        progress: called with the number of files verified, and then written, so far.

    Raises:
        NotFoundError: there is no such file.
        BadInputError: not an archive, damaged, or an image has another history or grid here; nothing was written.
        StorageError: disk or ledger refused, or there is not enough space.
    """
    with ArchiveReader(path) as archive:
        archive.verify(progress)
        store.look()
        needed = _checked_plan(store, archive)
        free = shutil.disk_usage(store.layout.studies).free
        if free < needed + _SPARE_BYTES:
            msg = (
                f"the archive needs {needed / 1e9:.1f} GB in {store.layout.studies}, which has {free / 1e9:.1f} GB left"
            )
            raise StorageError(msg)
        return _Import(store, archive, progress).run()


def _checked_plan(store: Store, archive: ArchiveReader) -> int:
    """Bytes of the files that have to be written.

    Raises:
        BadInputError: a history or grid contradicts the one here.
    """
    problems: list[str] = []
    needed = 0
    for groups in chunks(archive.groups(), _PAGE):
        with store.ledger.reading() as connection:
            here = _records(connection, groups)
        for group in groups:
            problems += _contradictions(store, group, here[group.image_id])
            for row in group.versions:
                for member, target in _files_of_version(store, row):
                    if archive.has(member) and not target.exists():
                        needed += archive.size_of(member)
    if problems:
        more = f" (and {len(problems) - _NAMED_AT_MOST} more)" if len(problems) > _NAMED_AT_MOST else ""
        msg = f"nothing was imported: {'; '.join(problems[:_NAMED_AT_MOST])}{more}; import into another studies folder"
        raise BadInputError(msg)
    return needed


def _contradictions(store: Store, group: Group, here: Records) -> list[str]:
    problems = []
    for tag in sorted({row["tag"] for row in group.versions}):
        theirs = [_identity(row) for row in group.versions if row["tag"] == tag]
        ours = [_identity(vars(version)) for version in here.of_tag(tag)]
        common = min(len(theirs), len(ours))
        if theirs[:common] != ours[:common]:
            number = next(index for index in range(common) if theirs[index] != ours[index])
            problems.append(
                f"version {ours[number][0]} of the label {tag!r} of image {group.image_id!r} is another one here than "
                "in the archive"
            )
    if group.versions and group.image is not None and here.image is not None and here.image["present"]:
        theirs_grid, ours_grid = _grid(group.image), _grid(here.image)
        if theirs_grid is not None and ours_grid is not None:
            tolerance = store.settings.limits.affine_tolerance_mm
            if theirs_grid.shape != ours_grid.shape or corner_distance(theirs_grid, ours_grid) > tolerance:
                problems.append(
                    f"image {group.image_id!r} has {ours_grid.shape} voxels here and {theirs_grid.shape} in the "
                    "archive, or lies elsewhere in the patient"
                )
    return problems


class _Import:
    """Writes what was verified; `added` counts."""

    def __init__(self, store: Store, archive: ArchiveReader, progress: Progress | None) -> None:
        self.added = Imported()
        self._store = store
        self._archive = archive
        self._progress = progress
        self._waiting: dict[tuple[str, str], list[str]] = {}
        for member in archive.members(LABELS):
            _, tag, name = member.split("/")
            self._waiting.setdefault((tag, stem_of(name)), []).append(member)

    def run(self) -> Imported:
        self._add_facts()
        for groups in chunks(self._archive.groups(), _PAGE):
            self._add_images(groups)
        self._show()
        self._add_refused()
        for rows in chunks(self._archive.rows("events"), _PAGE):
            self._add_events(rows)
        if self.added:
            detail = {
                **vars(self.added),
                "studies_id": self._archive.manifest.get("studies_id"),
                "exported_at": self._archive.manifest.get("exported_at"),
            }
            with self._store.ledger.writing() as connection:
                record(connection, "archive imported", detail=detail)
        return self.added

    def _add_facts(self) -> None:
        with self._store.ledger.writing() as connection:
            self._add_sides(connection)
            for row in self._archive.rows("facts"):
                if row["key"] not in OWN_FACTS and self._store.ledger.fact(connection, row["key"]) is None:
                    self._store.ledger.set_fact(connection, row["key"], row["value"])

    def _add_sides(self, connection: Connection) -> None:
        """The sides of patients for training and validation, which mean something only together with their salt."""
        there = {row["key"]: row["value"] for row in self._archive.rows("facts")}.get(splits.SALT)
        here = splits.decided(connection)
        if there is None or (here and self._store.ledger.fact(connection, splits.SALT) != there):
            return  # this folder has decided already
        self._store.ledger.set_fact(connection, splits.SALT, there)
        splits.note(connection, {row["patient"]: row["side"] for row in self._archive.rows("splits")})

    def _add_images(self, groups: Sequence[Group]) -> None:
        with self._store.ledger.reading() as connection:
            here = _records(connection, groups)
        for group in groups:
            self._write_files(group, here[group.image_id])
        with self._store.ledger.writing() as connection:
            here = _records(connection, groups)
            self._insert_images(connection, groups, here)
            for group in groups:
                problems = _contradictions(self._store, group, here[group.image_id])
                if problems:
                    msg = f"{problems[0]}: somebody saved it while the archive was imported; start the import again"
                    raise BadInputError(msg)
                self._add_rows(connection, group, here[group.image_id])
            images.reckon(connection, [group.image_id for group in groups])

    def _show(self) -> None:
        """Write the labels that are to be shown, also those of an import that was interrupted."""
        table = schema.labels
        query = (
            select(table.c.image_id, table.c.tag, schema.images.c.present)
            .outerjoin(schema.images, schema.images.c.image_id == table.c.image_id)
            .where(table.c.version_id.is_not(None), table.c.shown_size.is_(None))
        )
        with self._store.ledger.reading() as connection:
            waiting = connection.execute(query).all()
        for image_id, tag, present in waiting:
            try:
                self._store.labels.show(image_id, tag)
            except FileNotFoundError:  # the version's file was lost where the archive was made; `check` says so
                logger.warning("the label %s of %s can't be shown: its version's file is not there", tag, image_id)
                continue
            self.added.labels += 1
            if present:  # the archive's site may have numbered its classes in another way
                self._store.labels.remap(image_id, tag)

    def _add_rows(self, connection: Connection, group: Group, here: Records) -> None:
        self._update_image(connection, group, here)
        known = {_key(vars(version)) for version in here.versions}
        new = [row for row in group.versions if _key(row) not in known]
        if new:
            connection.execute(insert(schema.versions), _in_order(new))
            self.added.versions += len(new)
        for row in group.labels:
            self._add_label(connection, row, here, new)
        there = {row["client_id"] for row in here.presegmentations}
        for row in group.presegmentations:
            if row["client_id"] not in there and (self._store.layout.presegmentations / row["file"]).is_file():
                connection.execute(insert(schema.presegmentations).values(row))
        if group.lease is not None and _has_purpose(group, here):
            connection.execute(insert(schema.leases).values(group.lease))

    def _insert_images(self, connection: Connection, groups: Sequence[Group], here: Mapping[str, Records]) -> None:
        """Those that the ledger doesn't know, as gone; a look through the folder finds them if they are there."""
        rows = [group.image for group in groups if group.image is not None and here[group.image_id].image is None]
        if rows:
            gone = {"present": False, "open": False, "labelled": False}
            connection.execute(insert(schema.images), [{**row, **gone} for row in rows])
            self.added.images += len(rows)

    def _update_image(self, connection: Connection, group: Group, here: Records) -> None:
        """What the archive knows about an image that the ledger knows as well."""
        row = group.image
        if row is None or here.image is None:
            return
        if _is_untouched(connection, here):
            key = schema.images.c.image_id == group.image_id
            connection.execute(update(schema.images).where(key).values(_knowledge(row, here.image)))
        elif _newest(group.versions) > _newest([vars(version) for version in here.versions]):
            key = schema.images.c.image_id == group.image_id
            connection.execute(update(schema.images).where(key).values(to_review=row["to_review"]))

    def _add_label(self, connection: Connection, row: Row, here: Records, new: Sequence[Row]) -> None:
        """The row of a label whose versions were added, or of one that is no version yet."""
        image_id, tag = row["image_id"], row["tag"]
        table = schema.labels
        known = here.shown(tag)
        version_id = None
        if row["version"] is not None:
            if not any(version["tag"] == tag for version in new):
                return  # what is shown here has been decided here
            query = select(schema.versions.c.id).where(
                schema.versions.c.image_id == image_id,
                schema.versions.c.tag == tag,
                schema.versions.c.number == row["version"],
            )
            version_id = connection.scalar(query)
        elif known is not None or here.of_tag(tag):
            return
        values = {"suffix": row["suffix"], "version_id": version_id, "problem": row["problem"], "info": row["info"]}
        values |= {"shown_size": None, "shown_modified_ns": None}
        path = self._store.layout.shown(image_id, tag, row["suffix"])
        if row["problem"] is not None and version_id is None and path.is_file():
            values |= {"shown_size": path.stat().st_size, "shown_modified_ns": path.stat().st_mtime_ns}
        if known is None:
            connection.execute(insert(table).values(image_id=image_id, tag=tag, **values))
        else:
            connection.execute(update(table).where(table.c.image_id == image_id, table.c.tag == tag).values(values))

    def _write_files(self, group: Group, here: Records) -> None:
        for row in group.versions:
            for member, target in _files_of_version(self._store, row):
                self._write(member, target, group.image_id, row["tag"])
        there = {row["client_id"] for row in here.presegmentations}
        for row in group.presegmentations:
            if row["client_id"] not in there:
                member = f"{PRESEGMENTATIONS}/{row['file']}"
                self._write(member, self._store.layout.presegmentations / row["file"], group.image_id, None)
        for row in group.labels:
            if row["version"] is None:
                self._write_waiting(row, here)

    def _write_waiting(self, row: Row, here: Records) -> None:
        """A label that was no version yet; where this folder has another one, it is kept aside."""
        image_id, tag = row["image_id"], row["tag"]
        layout = self._store.layout
        free = here.shown(tag) is None and not here.of_tag(tag) and not layout.shown_files(image_id, tag)
        for member in self._waiting.get((tag, image_id), []):
            name = member.rpartition("/")[2]
            if free:
                self._write(member, layout.tag(tag) / name, image_id, tag)
            elif not self._is_known(here, tag, self._archive.sha256_of(member)):
                kept = layout.refused(image_id) / f"imported-{tag}-{name}"
                reason = "was no version yet where the imported archive was made, and another label is here"
                refused.write_reason(kept, image_id, tag, reason, SERVER, None)
                self._write(member, kept, image_id, tag)

    def _is_known(self, here: Records, tag: str, sha256: str) -> bool:
        """Whether content lies here already, as a version, in the folder or among the refused."""
        layout = self._store.layout
        if any(sha256 == one.sha256 or f"-{sha256[:12]}." in one.file for one in here.versions):
            return True
        files = [*layout.shown_files(here.image_id, tag), *refused.files_of(layout, here.image_id)]
        return any(file_sha256(path) == sha256 for path in files)

    def _add_refused(self) -> None:
        for member in self._archive.members(REFUSED):
            _, image_id, name = member.split("/")
            target = self._store.layout.refused(image_id) / name
            self._write(member, target, image_id, None)

    def _write(self, member: str, target: Path, image_id: str, tag: str | None) -> None:
        """Write a file unless it is there; one of another content is kept aside."""
        if not self._archive.has(member):
            return
        if target.is_file():
            if file_sha256(target) == self._archive.sha256_of(member):
                return
            reason = "had another content than the archive that was imported, in which its hash is right"
            refused.set_aside(self._store.layout, image_id, tag, target, reason, SERVER)
        with atomic_write(target) as temporary:
            self._archive.extract(member, temporary)
        self.added.files += 1
        if self._progress is not None:
            self._progress(self._archive.files + self.added.files)

    def _add_events(self, rows: Sequence[Row]) -> None:
        """Those that are not there, in the order in which they happened."""
        table = schema.events
        times = [row["at"] for row in rows]
        ids = {row["image_id"] for row in rows}
        of_these = or_(table.c.image_id.in_(ids - {None}), table.c.image_id.is_(None) if None in ids else false())
        with self._store.ledger.writing() as connection:
            query = select(table).where(of_these, table.c.at.between(min(times), max(times)))
            known = Counter(_happening(row._asdict()) for row in connection.execute(query))
            new = []
            for row in rows:
                if known[_happening(row)]:
                    known[_happening(row)] -= 1
                else:
                    new.append(row)
            if new:
                connection.execute(insert(table), new)
            self.added.events += len(new)


def _records(connection: Connection, groups: Sequence[Group]) -> dict[str, Records]:
    return {one.image_id: one for one in of_images(connection, [group.image_id for group in groups])}


def _files_of_version(store: Store, row: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """Members and where they belong."""
    for file in (row["file"], row["sent"]):
        if file is not None:
            yield f"{VERSIONS}/{file}", store.layout.versions / file


def _identity(row: Mapping[str, Any]) -> tuple[int, str, float]:
    return row["number"], row["sha256"], row["saved_at"]


def _in_order(rows: Sequence[Row]) -> list[Row]:
    """As they were saved, for those who order by the key that the database counts up; numbers go before clocks."""
    latest: dict[str, float] = {}
    times = []
    for row in rows:
        latest[row["tag"]] = max(row["saved_at"], latest.get(row["tag"], 0.0))
        times.append(latest[row["tag"]])
    return [row for _, row in sorted(zip(times, rows, strict=True), key=lambda pair: pair[0])]


def _key(row: Mapping[str, Any]) -> tuple[str, int]:
    return row["tag"], row["number"]


def _newest(rows: Iterable[Mapping[str, Any]]) -> int:
    """Number of the newest version of the final label, 0 if there is none."""
    return max((row["number"] for row in rows if row["tag"] == FINAL), default=0)


def _happening(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[key] for key in ("at", "kind", "image_id", "tag", "actor"))


def _grid(image: Mapping[str, Any]) -> Grid | None:
    grid = image["grid"]
    return Grid(tuple(grid["shape"]), np.array(grid["affine"])) if grid else None


def _is_untouched(connection: Connection, here: Records) -> bool:
    """Whether nobody has done anything yet about an image here."""
    image = here.image
    if image is None or here.versions or image["excluded"] is not None or image["served_at"]:
        return False
    decided = schema.events.c.kind.in_(("image excluded", "image included"))
    query = select(schema.events.c.id).where(schema.events.c.image_id == here.image_id, decided).limit(1)
    return connection.scalar(query) is None


def _knowledge(row: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, Any]:
    """What the archive knows about an image whose file is here; what the file itself says is not replaced."""
    keys = ["excluded", "shuffle", "served_at", "to_review", "added_at"]
    if here["fingerprint"] is None and here["problem"] is None and here["size"] == row["size"]:
        keys += ["problem", "fingerprint", "sha256", "grid"]
    as_registered = here["info"].keys() <= {"ts", "name"}
    info = {**here["info"], **row["info"]} if as_registered else {**row["info"], **here["info"]}
    return {**{key: row[key] for key in keys}, "info": info}


def _has_purpose(group: Group, here: Records) -> bool:
    """Whether somebody who had an image where the archive was made still works on it here."""
    if group.lease is None or here.lease is not None or group.lease["expires_at"] <= time.time():
        return False
    if here.image is None or not here.image["present"] or here.image["excluded"] is not None:
        return False
    labelled = here.shown(FINAL) is not None or any(row["tag"] == FINAL for row in group.labels)
    return group.lease["strategy"] == REVIEW or not labelled
