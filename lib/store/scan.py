"""Compare the studies folder with the ledger: what has come, what is gone, what is another file now.

Sorted names and sorted rows are walked side by side, some thousand at a time, so that of a million known images only
the names are in memory, and a short transaction follows only where something differs. What another process changes
meanwhile is left to it: a row is changed only if it still is what it was when its file was looked at.
"""

import logging
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, or_, select, update

from lib.errors import UnavailableError
from lib.store import images, listing, versions
from lib.store.events import record
from lib.store.images import FileState
from lib.store.inspection import fingerprint_of, is_complete, release_twins
from lib.store.layout import FINAL, REFUSED, Layout
from lib.store.ledger import Ledger
from lib.store.schema import events
from lib.store.schema import images as images_table
from lib.store.schema import labels as labels_table
from lib.volume_io import IMAGE_SUFFIXES, LABEL_SUFFIXES

logger = logging.getLogger(__name__)

_CHUNK = 1_000  # files that are compared, and rows that are changed, at once
_PAGE = 4_000  # rows that are read at once
_YOUNG_S = 2.0  # a file changed so recently may still be being written

_IMAGES = select(
    images_table.c.image_id,
    images_table.c.suffix,
    images_table.c.size,
    images_table.c.modified_ns,
    images_table.c.present,
)
_LABELS = select(
    labels_table.c.image_id,
    labels_table.c.suffix,
    labels_table.c.shown_size,
    labels_table.c.shown_modified_ns,
    labels_table.c.version_id,
    labels_table.c.problem,
)
_File = tuple[str, int, int]  # suffix, bytes, time of change in ns


@dataclass
class Changes:
    """What a look at the folder found to be other than the ledger had it; images are noted there now.

    Args:
        images_added: how many images are new.
        images_changed: images whose file is another one now, or is there again.
        images_vanished: images whose file is gone.
        labels_found: image and tag of the labels to be taken in.
        labels_missing: image and tag of the labels whose file is gone.
        unsettled: files that are still being written, to be looked at again soon.
    """

    images_added: int = 0
    images_changed: list[str] = field(default_factory=list)
    images_vanished: list[str] = field(default_factory=list)
    labels_found: list[tuple[str, str]] = field(default_factory=list)
    labels_missing: list[tuple[str, str]] = field(default_factory=list)
    unsettled: list[Path] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Whether anything but `unsettled` was found."""
        labels = self.labels_found or self.labels_missing
        return bool(self.images_added or self.images_changed or self.images_vanished or labels)


def scan(
    ledger: Ledger, layout: Layout, *, progress: Callable[[int], object] | None = None, of_images: bool = True
) -> Changes:
    """Compare the whole folder with the ledger and note what differs.

    Labels come first, so that an image whose label lies in the folder is never offered. Interrupted, it has noted what
    it has looked at, and the next look notes the rest.

    Args:
        ledger: what is known.
        layout: where files lie.
        progress: called with the number of files looked at so far; what it raises ends the look.
        of_images: whether images are what lies in the folder; False: labels alone are compared.

    Raises:
        UnavailableError: the folder can't be read, or is not the one that the ledger knows.
        StorageError: the ledger refused.
    """
    look = _Look(ledger, layout, progress)
    look.check_mounted()
    for tag in look.known_tags():
        look.at_tag(tag)
    if of_images:
        look.at_images(listing.side_by_side(listing.named_files(layout.studies, IMAGE_SUFFIXES), look.image_rows()))
    look.find_waiting()
    return look.changes


def look_at(ledger: Ledger, layout: Layout, path: Path, *, of_images: bool = True) -> Changes:
    """Compare one file with the ledger, or one folder of labels; a file costs the same in a folder of any size.

    Args:
        ledger: what is known.
        layout: where files lie.
        path: of an image, a label, `labels/` or `labels/<tag>/`, whether it is still there or not; others are ignored.
        of_images: see `scan`.

    Raises:
        UnavailableError: the folder can't be read, or is not the one that the ledger knows.
        StorageError: the ledger refused.
    """
    look = _Look(ledger, layout)
    if path.name.startswith("."):
        return look.changes
    look.check_mounted()
    named = listing.split_name(path.name)
    if path == layout.labels:
        for tag in look.known_tags():
            look.at_tag(tag)
        look.find_waiting()
    elif path.parent == layout.labels:
        if look.is_tag(path.name):
            look.at_tag(path.name)
            look.find_waiting(labels_table.c.tag == path.name)
    elif named and of_images and path.parent == layout.studies and named[1].lower() in IMAGE_SUFFIXES:
        look.at_one(*named, [])
    elif named and path.parent.parent == layout.labels and look.is_tag(path.parent.name):
        look.at_one(*named, [path.parent.name])
    return look.changes


class _Look:
    """One look at the folder; `changes` gathers what it finds."""

    def __init__(self, ledger: Ledger, layout: Layout, progress: Callable[[int], object] | None = None) -> None:
        self.changes = Changes()
        self._ledger = ledger
        self._layout = layout
        self._progress = progress
        self._done = 0

    def check_mounted(self) -> None:
        """An empty folder where a disk or share is missing doesn't mean that a million images were removed."""
        with self._ledger.reading() as connection:
            owned = self._ledger.fact(connection, "belongs_to") is not None
        if not self._layout.studies.is_dir() or (owned and not (self._layout.ledger / "id").is_file()):
            msg = (
                f"{self._layout.studies} is not the studies folder that the ledger {self._ledger.name} knows "
                "(ledger/id is missing); check that its disk or network share is there"
            )
            raise UnavailableError(msg)

    def tags(self) -> list[str]:
        """The folders of labels."""
        return [name for name in listing.visible(self._layout.labels) if self.is_tag(name)]

    def is_tag(self, name: str) -> bool:
        """Whether `labels/<name>` is a folder of labels, or was one."""
        path = self._layout.labels / name
        if name.startswith(".") or name == REFUSED or (path.exists() and not path.is_dir()):
            return False
        reason = listing.unfit_name(name, "label tag")
        if reason:
            self._report("label ignored", [(None, f"labels/{name}", reason)])
        return reason is None

    def known_tags(self) -> list[str]:
        """The folders of labels and the tags in the ledger."""
        with self._ledger.reading() as connection:
            known = connection.scalars(select(labels_table.c.tag).distinct()).all()
        return sorted({*self.tags(), *known})

    def at_tag(self, tag: str) -> None:
        """Compare one folder of labels."""
        found = listing.named_files(self._layout.tag(tag), LABEL_SUFFIXES)
        self._at_labels(tag, listing.side_by_side(found, self._label_rows(tag)))

    def at_one(self, name: str, suffix: str, tags: Sequence[str]) -> None:
        """Compare the label of one image under these tags, or the image itself, whose labels come first."""
        if listing.unfit_name(name, "image id"):
            if tags:
                self._at_labels(tags[0], [(name, [suffix], None)])
            else:
                self.at_images([(name, [suffix], None)])
            return
        for tag in tags or self.tags():
            row = dict(self._label_rows(tag, [name])).get(name)
            self._at_labels(tag, [(name, _candidates(suffix, LABEL_SUFFIXES, row), row)])
        if not tags:
            row = dict(self.image_rows([name])).get(name)
            self.at_images([(name, _candidates(suffix, IMAGE_SUFFIXES, row), row)])
        self.find_waiting(labels_table.c.image_id == name)

    def image_rows(self, image_ids: Sequence[str] | None = None) -> Iterator[tuple[str, Any]]:
        """What the ledger knows of images, by name: of these, or of all."""
        return self._rows(_IMAGES, images_table.c.image_id, image_ids)

    def at_images(self, entries: Iterable[tuple[str, list[str] | None, Any]]) -> None:
        """Compare images: name, the suffixes of its files, what is known."""
        folder = str(self._layout.studies)
        for chunk in listing.chunks(entries, _CHUNK):
            differing: list[tuple[str, Any, _File | None]] = []
            ignored: list[tuple[str | None, str, str]] = []
            for name, suffixes, row in chunk:
                if row is not None and not row.present and not suffixes:
                    continue
                files = self._files(folder, name, suffixes, row)
                if files is None:
                    continue
                reason = listing.unfit_name(name, "image id") if row is None else None
                if reason:
                    ignored += [(None, f"{name}{file[0]}", reason) for file in files]
                elif files:
                    ignored += [(name, f"{name}{file[0]}", f"{name}{files[0][0]} is used") for file in files[1:]]
                    if row is None or not row.present or files[0] != (row.suffix, row.size, row.modified_ns):
                        differing += self._settled(name, row, files[0])
                elif row is not None and row.present:
                    differing.append((name, row, None))
            self._report("image ignored", ignored)
            self._note_images(differing)
            self._count(len(chunk))

    def find_waiting(self, *conditions: Any) -> None:
        """Gather the labels that wait to be taken in and whose image is there."""
        query = (
            select(labels_table.c.image_id, labels_table.c.tag)
            .join(images_table, images_table.c.image_id == labels_table.c.image_id)
            .where(labels_table.c.version_id.is_(None), labels_table.c.problem.is_(None), images_table.c.present)
            .where(*conditions)
            .order_by(labels_table.c.image_id, labels_table.c.tag)
        )
        missing = set(self.changes.labels_missing)
        with self._ledger.reading() as connection:
            waiting = ((image_id, tag) for image_id, tag in connection.execute(query))
            self.changes.labels_found += [label for label in waiting if label not in missing]

    def _at_labels(self, tag: str, entries: Iterable[tuple[str, list[str] | None, Any]]) -> None:
        """Compare labels of one tag: image, the suffixes of its files, what is known."""
        folder = str(self._layout.tag(tag))
        for chunk in listing.chunks(entries, _CHUNK):
            new: list[tuple[str, str]] = []
            again: list[tuple[str, str]] = []
            ignored: list[tuple[str | None, str, str]] = []
            for name, suffixes, row in chunk:
                files = self._files(folder, name, suffixes, row)
                if files is None or (not files and row is None):
                    continue
                if row is None:
                    reason = listing.unfit_name(name, "image id")
                    if reason:
                        ignored += [(None, f"labels/{tag}/{name}{file[0]}", reason) for file in files]
                    else:
                        new.append((name, files[0][0]))
                    continue
                shown = (row.suffix, row.shown_size, row.shown_modified_ns)
                to_be_shown = row.version_id is not None and row.shown_size is None
                if not files and not to_be_shown:
                    self.changes.labels_missing.append((name, tag))
                elif row.version_id is not None:
                    if to_be_shown or any(file != shown for file in files):
                        self.changes.labels_found.append((name, tag))
                # Of several files that could not be taken in, the one that was written last is noted.
                elif (max(files, key=itemgetter(2)) != shown) if row.problem else (files[0][0] != row.suffix):
                    again.append((name, files[0][0]))
            self._report("label ignored", ignored)
            self._note_labels(tag, new, again)
            self._count(len(chunk))

    def _label_rows(self, tag: str, image_ids: Sequence[str] | None = None) -> Iterator[tuple[str, Any]]:
        return self._rows(_LABELS.where(labels_table.c.tag == tag), labels_table.c.image_id, image_ids)

    def _rows(self, query: Any, name: Any, names: Sequence[str] | None) -> Iterator[tuple[str, Any]]:
        """Rows by name, page by page, so that no reading lasts while others write."""
        if names is not None:
            with self._ledger.reading() as connection:
                yield from ((row.image_id, row) for row in connection.execute(query.where(name.in_(names))).all())
            return
        last = ""
        while True:
            with self._ledger.reading() as connection:
                page = connection.execute(query.where(name > last).order_by(name).limit(_PAGE)).all()
            yield from ((row[0], row) for row in page)
            if len(page) < _PAGE:
                return
            last = page[-1][0]

    def _files(self, folder: str, name: str, suffixes: list[str] | None, row: Any) -> list[_File] | None:
        """The files of a name that are there now, in the order of the suffixes; None if that can't be told."""
        found = []
        for suffix in suffixes or [row.suffix]:
            path = f"{folder}{os.sep}{name}{suffix}"
            try:
                status = os.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                logger.warning("%s can't be looked at: %s", listing.printable(path), error.strerror)
                return None
            if stat.S_ISREG(status.st_mode):
                found.append((suffix, status.st_size, status.st_mtime_ns))
        return found

    def _settled(self, name: str, row: Any, file: _File) -> list[tuple[str, Any, _File]]:
        """The difference, unless somebody is still writing the file."""
        if abs(time.time() - file[2] / 1e9) < _YOUNG_S:
            path = self._layout.studies / f"{name}{file[0]}"
            if not is_complete(path, file[0]):
                self.changes.unsettled.append(path)
                return []
        return [(name, row, file)]

    def _note_images(self, differing: Sequence[tuple[str, Any, _File | None]]) -> None:
        if not differing:
            return
        untouched, replaced = self._contents({name: file for name, row, file in differing if row and file})
        with self._ledger.writing() as connection:
            names = [name for name, _, _ in differing]
            now = {row.image_id: row for row in connection.execute(_IMAGES.where(images_table.c.image_id.in_(names)))}
            same = [entry for entry in differing if now.get(entry[0]) == entry[1]]
            new = [(name, FileState(*file)) for name, row, file in same if file is not None and row is None]
            there = {name: FileState(*file) for name, row, file in same if file is not None and row is not None}
            changed = {name: state for name, state in there.items() if name not in untouched}
            gone = [name for name, _, file in same if file is None]
            images.register(connection, new)
            release_twins(connection, [*changed, *gone])
            images.note_vanished(connection, gone)
            for name in there.keys() - changed.keys():
                images.note_touched(connection, name, there[name])
            for name, state in changed.items():
                images.note_changed(connection, name, state)
            versions.note_image_replaced(connection, [name for name in changed if name in replaced])
            labelled = _check_again(connection, list(changed))
        for name in labelled:
            row = now[name]
            if changed[name] != FileState(row.suffix, row.size, row.modified_ns):
                logger.warning("the image %s is another file now; it has labels that were made on the old one", name)
        self.changes.images_added += len(new)
        self.changes.images_changed += changed
        self.changes.images_vanished += gone

    def _contents(self, files: Mapping[str, _File]) -> tuple[set[str], set[str]]:
        """Which of these images have the content that was read from them once, and which another one now."""
        with self._ledger.reading() as connection:
            known = images.fingerprints(connection, list(files))
        same: set[str] = set()
        other: set[str] = set()
        for name, fingerprint in known.items():
            try:
                now = fingerprint_of(self._layout.studies / f"{name}{files[name][0]}")
            except OSError:
                continue
            (same if now == fingerprint else other).add(name)
        return same, other

    def _note_labels(self, tag: str, new: list[tuple[str, str]], again: list[tuple[str, str]]) -> None:
        """Add labels that the ledger doesn't know, and let others be checked again; both then wait to be taken in."""
        if not new and not again:
            return
        of_tag = labels_table.c.tag == tag
        with self._ledger.writing() as connection:
            ids = [image_id for image_id, _ in new]
            query = select(labels_table.c.image_id).where(of_tag, labels_table.c.image_id.in_(ids))
            known = set(connection.scalars(query))
            rows = [{"image_id": name, "tag": tag, "suffix": suffix} for name, suffix in new if name not in known]
            if rows:
                connection.execute(insert(labels_table), rows)
            if tag == FINAL:
                images.reckon(connection, ids)
            unread = {"problem": None, "shown_size": None, "shown_modified_ns": None}
            for image_id, suffix in again:
                row = (labels_table.c.image_id == image_id, of_tag, labels_table.c.version_id.is_(None))
                connection.execute(update(labels_table).where(*row).values(suffix=suffix, **unread))

    def _report(self, kind: str, ignored: list[tuple[str | None, str, str]]) -> None:
        """Note files that are not used, each once: image, file, why."""
        if not ignored:
            return
        ids = {image_id for image_id, _, _ in ignored}
        of_these: Any = events.c.image_id.in_(ids - {None})
        if None in ids:  # names that can't be image ids
            of_these = or_(of_these, events.c.image_id.is_(None))
        with self._ledger.reading() as connection:
            query = select(events.c.detail).where(events.c.kind == kind, of_these)
            known = {detail.get("file") for detail in connection.scalars(query)}
        ignored = [(image_id, listing.printable(file), reason) for image_id, file, reason in ignored]
        new = [entry for entry in ignored if entry[1] not in known]
        if new:
            with self._ledger.writing() as connection:
                for image_id, file, reason in new:
                    record(connection, kind, image_id, detail={"file": file, "reason": reason})
        for _, file, reason in new:
            logger.warning("%s is ignored: %s", file, reason)

    def _count(self, number: int) -> None:
        self._done += number
        if self._progress is not None:
            self._progress(self._done)


def _check_again(connection: Connection, image_ids: Sequence[str]) -> list[str]:
    """Let labels that did not fit be compared with what their images are now; returns which images have labels."""
    of_these = labels_table.c.image_id.in_(image_ids)
    connection.execute(
        update(labels_table)
        .where(of_these, labels_table.c.version_id.is_(None), labels_table.c.problem.is_not(None))
        .values(problem=None, shown_size=None, shown_modified_ns=None)
    )
    return list(connection.scalars(select(labels_table.c.image_id).where(of_these).distinct()))


def _candidates(reported: str, suffixes: Sequence[str], row: Any) -> list[str]:
    """Where files of one name may be, without listing their folder."""
    return listing.by_preference({reported, *suffixes, *([row.suffix] if row is not None else [])})
