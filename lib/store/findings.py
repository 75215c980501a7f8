"""Disagreements between what the ledger holds about one image and what lies in the folder, each explained.

Looks only; `lib.store.audit` goes through all images and repairs.
"""

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from lib.files import file_sha256
from lib.store import refused
from lib.store.layout import FINAL, STORED, Layout
from lib.store.leases import REVIEW
from lib.store.records import Records
from lib.store.versions import Shown, Version
from lib.volume_io import IMAGE_SUFFIXES, stem_of

TEMPORARY = ".writing-"  # how `lib.files.atomic_write` begins the names of unfinished files
_BEING_SAVED_S = 600  # a younger file may be one whose row is about to be written
_LEFT_OVER_S = 3600  # nothing takes so long to write
_DIGITS_OF_SENT = re.compile(r"-([0-9a-f]{12})\.sent")


class Kind(StrEnum):
    """What can disagree."""

    IMAGE_GONE = "image gone"
    IMAGE_CHANGED = "image changed"
    IMAGE_BACK = "image is back"
    IMAGE_NEW = "image not in the ledger"
    IMAGE_UNKNOWN = "records of an unknown image"
    FLAGS = "flags wrong"
    VERSION_LOST = "version lost"
    VERSION_DAMAGED = "version damaged"
    VERSION_NUMBERS = "version numbers"
    NO_VERSION = "file of no version"
    LABEL_ELSEWHERE = "label of another image or tag"
    LABEL_NOT_SHOWN = "label not shown yet"
    LABEL_MISSING = "label missing"
    LABEL_OUTDATED = "label outdated"
    LABEL_DAMAGED = "label damaged"
    LABEL_FOREIGN = "label of no version"
    LABEL_FORMATS = "label in several formats"
    LABEL_WAITING = "label not taken in"
    LABEL_UNFIT = "label not usable"
    PRESEGMENTATION_LOST = "pre-segmentation lost"
    PRESEGMENTATION_UNKNOWN = "pre-segmentation not in the ledger"
    LEASE_EXPIRED = "lease expired"
    LEASE_POINTLESS = "lease without purpose"
    REASON_LOST = "refused without reason"
    LEFT_OVER = "unfinished file"


@dataclass(frozen=True)
class Finding:
    """One disagreement.

    Args:
        kind: what disagrees.
        image_id: of which image, None if of none.
        tag: of which label, None if of none.
        path: the file, relative to the studies folder, None if it is about rows alone.
        explanation: one sentence for a person.
        repair: what a repair would do, None where a person must act.
    """

    kind: Kind
    image_id: str | None
    tag: str | None
    path: str | None
    explanation: str
    repair: str | None


@dataclass(frozen=True)
class Search:
    """Looks for the disagreements of one image after the other.

    Args:
        layout: where files lie.
        tags: the folders in `labels/`.
        deep: whether to read every version and label and compare its hash; else sizes and times decide which to read.
        images_in_folder: whether images lie in the folder; else they come from a PACS, and those here are copies.
    """

    layout: Layout
    tags: Sequence[str]
    deep: bool
    images_in_folder: bool = True

    def of_image(self, records: Records) -> list[Finding]:
        """Every disagreement about one image.

        Raises:
            OSError: a file is there but can't be read.
        """
        found = [
            *self._image(records),
            *self._versions(records),
            *self._numbers(records),
            *self._labels(records),
            *self._presegmentations(records),
            *self._lease(records),
            *self._folders(records),
        ]
        return list(dict.fromkeys(found))

    def relative(self, path: Path) -> str:
        """A path as it is shown, within the studies folder."""
        return path.relative_to(self.layout.studies).as_posix()

    def copy_of(self, records: Records, version: Version) -> Path | None:
        """Another file with exactly the content of a version: what is shown, or a version that repeats it."""
        others = [self.layout.versions / other.file for other in records.versions if other.file != version.file]
        for path in (self.layout.shown(version.image_id, version.tag), *others):
            same_size = path.is_file() and path.stat().st_size == version.size
            if same_size and file_sha256(path) == version.sha256:
                return path
        return None

    def _is_whole(self, version: Version) -> bool:
        return self._state(self.layout.versions / version.file, version.size, version.sha256) is None

    def _state(self, path: Path, size: int | None, digits: str) -> str | None:
        """What is wrong with a file of a version, None if nothing; `digits` may be the first ones of its hash."""
        if not path.is_file():
            return "is missing"
        if size is not None and (now := path.stat().st_size) != size:
            return f"has {now} bytes, not the {size} that were saved"
        if self.deep and not file_sha256(path).startswith(digits):
            return "has another content than what was saved"
        return None

    def _image(self, records: Records) -> Iterator[Finding]:
        image_id, row = records.image_id, records.image
        if row is None:
            if self.images_in_folder and (files := self._image_files(image_id)):
                explanation = "the image lies in the folder and the ledger does not know it yet"
                yield Finding(
                    Kind.IMAGE_NEW, image_id, None, self.relative(files[0]), explanation, "look through the folder"
                )
            elif records.versions or records.presegmentations or records.lease:
                explanation = (
                    "the ledger holds versions or a lease of an image that it does not know; put the image back"
                )
                yield Finding(Kind.IMAGE_UNKNOWN, image_id, None, None, explanation, None)
            return
        path = self.layout.image(image_id, row["suffix"])
        shown = self.relative(path)
        if not self.images_in_folder:
            pass
        elif not row["present"]:
            if self._image_files(image_id):
                explanation = "the image is in the folder again and the ledger says that it is gone"
                yield Finding(Kind.IMAGE_BACK, image_id, None, shown, explanation, "look through the folder")
        elif not path.is_file():
            explanation = "the image's file is gone and the ledger says that it is there"
            repair = "note that it is gone; its labels and their versions stay"
            yield Finding(Kind.IMAGE_GONE, image_id, None, shown, explanation, repair)
        elif (status := path.stat()) and (status.st_size, status.st_mtime_ns) != (row["size"], row["modified_ns"]):
            explanation = "the image's file was changed since the ledger noted it"
            yield Finding(Kind.IMAGE_CHANGED, image_id, None, shown, explanation, "look through the folder")
        final = records.shown(FINAL)
        labelled = final is not None and (final.version_id is not None or final.problem is None)
        fit = row["present"] and row["problem"] is None and row["excluded"] is None
        for name, value in (("labelled", labelled), ("open", fit and not labelled)):
            if row[name] != value:
                explanation = f"the flag {name!r} is {row[name]}, and from all else follows {value}"
                yield Finding(Kind.FLAGS, image_id, None, None, explanation, "reckon it again")

    def _image_files(self, image_id: str) -> list[Path]:
        cases = (case for suffix in IMAGE_SUFFIXES for case in (suffix, suffix.upper()))
        found = (self.layout.studies / f"{image_id}{suffix}" for suffix in cases)
        return [path for path in found if path.is_file() and stem_of(path) == image_id]

    def _versions(self, records: Records) -> Iterator[Finding]:
        for version in records.versions:
            name = f"version {version.number}"
            for file, what, size, digits in (
                (version.file, f"the file of {name}", version.size, version.sha256),
                (version.sent, f"what was sent as {name}", None, _digits_of(version)),
            ):
                if file is None:
                    continue
                path = self.layout.versions / file
                wrong = self._state(path, size, digits)
                if wrong is None:
                    continue
                copy = self.copy_of(records, version) if file == version.file else None
                repair = None
                remedy = "; bring it back from a backup, or import an archive that has it"
                if copy is not None:
                    repair, remedy = f"bring it back from {self.relative(copy)}, which has the same content", ""
                    if wrong != "is missing":
                        repair += ", and keep the damaged one in labels/refused/"
                kind = Kind.VERSION_LOST if wrong == "is missing" else Kind.VERSION_DAMAGED
                explanation = f"{what} {wrong}{remedy}"
                yield Finding(kind, version.image_id, version.tag, self.relative(path), explanation, repair)

    def _numbers(self, records: Records) -> Iterator[Finding]:
        for tag in sorted({version.tag for version in records.versions}):
            numbers = [version.number for version in records.of_tag(tag)]
            if numbers == list(range(1, len(numbers) + 1)):
                continue
            explanation = (
                f"the versions are numbered {', '.join(map(str, numbers))}, not 1 to {len(numbers)}: rows were changed "
                "from outside; bring the ledger back from a backup"
            )
            yield Finding(Kind.VERSION_NUMBERS, records.image_id, tag, None, explanation, None)

    def _labels(self, records: Records) -> Iterator[Finding]:
        for tag in sorted({*self.tags, *(label.tag for label in records.labels)}):
            row = records.shown(tag)
            files = self.layout.shown_files(records.image_id, tag, row.suffix if row else STORED)
            if row is None:
                for path in files:
                    yield self._waiting(records, tag, path)
            elif row.version_id is None:
                yield from self._not_a_version(records, row, files)
            else:
                yield from self._shown(records, row, files)

    def _waiting(self, records: Records, tag: str, path: Path) -> Finding:
        there = records.image is not None and records.image["present"]
        there = there or (self.images_in_folder and bool(self._image_files(records.image_id)))
        explanation = "the label lies in the folder and is not a version yet"
        repair = "take it in as a version; if it does not fit its image, say why and leave it"
        if not there:
            explanation += "; its image is not in the folder, so that it can't be checked"
        return Finding(
            Kind.LABEL_WAITING, records.image_id, tag, self.relative(path), explanation, repair if there else None
        )

    def _not_a_version(self, records: Records, row: Shown, files: Sequence[Path]) -> Iterator[Finding]:
        expected = self.relative(self.layout.shown(row.image_id, row.tag, row.suffix))
        if not files:
            explanation = "the label was removed from the folder before it became a version"
            yield Finding(Kind.LABEL_MISSING, row.image_id, row.tag, expected, explanation, "note that it is gone")
        for path in files:
            if row.problem is not None and _is_as_noted(path, row):
                explanation = f"the label can't be used: {row.problem}"
                yield Finding(Kind.LABEL_UNFIT, row.image_id, row.tag, self.relative(path), explanation, None)
            else:
                yield self._waiting(records, row.tag, path)

    def _shown(self, records: Records, row: Shown, files: Sequence[Path]) -> Iterator[Finding]:
        image_id, tag = row.image_id, row.tag
        own = records.of_tag(tag)
        current = next((version for version in own if version.id == row.version_id), None)
        if current is None:
            explanation = "the ledger says that a version of another image or tag is this label"
            repair = (
                f"show version {own[-1].number}, its own newest, instead" if own else "take in the file in the folder"
            )
            yield Finding(Kind.LABEL_ELSEWHERE, image_id, tag, None, explanation, repair)
            return
        if row.problem is not None:
            explanation = f"the label can't be used: {row.problem}"
            yield Finding(Kind.LABEL_UNFIT, image_id, tag, None, explanation, None)
        path = self.layout.shown(image_id, tag, row.suffix)
        whole = self._is_whole(current) or self.copy_of(records, current) is not None
        show = f"show version {current.number}" if whole else None
        but = "" if whole else f", and the file of version {current.number} is lost or damaged; bring that back first"
        if row.shown_size is None:
            explanation = f"version {current.number} was saved and is not shown in labels/{tag}/ yet{but}"
            yield Finding(Kind.LABEL_NOT_SHOWN, image_id, tag, self.relative(path), explanation, show)
        elif not files:
            explanation = f"the label shows version {current.number} and is missing in labels/{tag}/{but}"
            yield Finding(Kind.LABEL_MISSING, image_id, tag, self.relative(path), explanation, show)
        elif len(files) > 1:
            names = ", ".join(file.name for file in files)
            explanation = (
                f"labels/{tag}/ has the label in several formats ({names}), and other programs read any of them"
            )
            repair = "keep each that is no version yet as one, and show the newest alone"
            yield Finding(Kind.LABEL_FORMATS, image_id, tag, self.relative(files[0]), explanation, repair)
        else:
            yield from self._content(row, own, current, files[0], show, but)

    def _content(
        self, row: Shown, own: Sequence[Version], current: Version, path: Path, show: str | None, but: str
    ) -> Iterator[Finding]:
        noted = _is_as_noted(path, row)
        if noted and not self.deep:
            return
        sha256 = file_sha256(path)
        # A label that somebody else put there is shown as it is, in whatever format, where it fits.
        right = sha256 == current.sha256 or sha256.startswith(_digits_of(current))
        if right and path.name.endswith(row.suffix):
            return
        older = [version for version in own if sha256 == version.sha256 or sha256.startswith(_digits_of(version))]
        if noted:
            kind, repair = Kind.LABEL_DAMAGED, show and f"keep it in labels/refused/ and {show}"
            explanation = f"the label should show version {current.number} and has another content by now{but}"
        elif older:
            kind, repair = Kind.LABEL_OUTDATED, show
            what = f"the label is what became version {older[-1].number}"
            explanation = f"{what}, and the ledger says version {current.number}{but}"
        else:
            kind = Kind.LABEL_FOREIGN
            explanation = "the label was changed by another program and is not a version yet"
            repair = "take it in as a version; if it does not fit its image, keep it in labels/refused/"
        yield Finding(kind, row.image_id, row.tag, self.relative(path), explanation, repair)

    def _presegmentations(self, records: Records) -> Iterator[Finding]:
        for row in records.presegmentations:
            path = self.layout.presegmentations / row["file"]
            if not path.is_file():
                explanation = (
                    f"what a model made for {row['client_id']} is missing; corrections can't be compared with it"
                )
                repair = "take it out of the ledger and note that"
                yield Finding(
                    Kind.PRESEGMENTATION_LOST, records.image_id, None, self.relative(path), explanation, repair
                )

    def _lease(self, records: Records) -> Iterator[Finding]:
        lease, image = records.lease, records.image
        if lease is None:
            return
        who = f"{lease['client_id']} holds the image"
        why = None
        if image is None or not image["present"]:
            why = "which is gone"
        elif image["excluded"] is not None:
            why = "which is excluded"
        elif image["problem"] is not None:
            why = "which can't be used"
        elif records.shown(FINAL) is not None and lease["strategy"] != REVIEW:
            why = "which is labelled already"
        if why:
            yield Finding(Kind.LEASE_POINTLESS, records.image_id, None, None, f"{who}, {why}", "take it back")
        if lease["expires_at"] <= time.time():
            explanation = f"{who}, and the time for that is over"
            yield Finding(Kind.LEASE_EXPIRED, records.image_id, None, None, explanation, "take it back")

    def _folders(self, records: Records) -> Iterator[Finding]:
        """What lies in the image's own folders and no row names."""
        image_id = records.image_id
        aside = "keep it in labels/refused/, with this as the reason"
        known = {file for version in records.versions for file in (version.file, version.sent)}
        for path in files_under(self.layout.versions / image_id):
            relative = path.relative_to(self.layout.versions)
            if path.name.startswith(TEMPORARY):
                yield from self.left_over(path, image_id)
            elif relative.as_posix() not in known and _age_s(path) > _BEING_SAVED_S:
                explanation = (
                    "the file is not recorded as a version: the server ended before that, and whoever sent it was "
                    "not told that it was saved"
                )
                tag = relative.parts[1] if len(relative.parts) == 3 else None
                yield Finding(Kind.NO_VERSION, image_id, tag, self.relative(path), explanation, aside)
        known = {row["file"] for row in records.presegmentations}
        for path in files_under(self.layout.presegmentations / image_id):
            if path.name.startswith(TEMPORARY):
                yield from self.left_over(path, image_id)
            elif (
                path.relative_to(self.layout.presegmentations).as_posix() not in known and _age_s(path) > _BEING_SAVED_S
            ):
                explanation = (
                    "a model made the file for a client and no record names it, most likely a newer one came after"
                )
                yield Finding(Kind.PRESEGMENTATION_UNKNOWN, image_id, None, self.relative(path), explanation, aside)
        folder = self.layout.refused(image_id)
        for path in files_under(folder):
            if path.name.startswith(TEMPORARY):
                yield from self.left_over(path, image_id)
        for path in refused.files_of(self.layout, image_id):
            if not refused.reason_path(path).is_file():
                explanation = "the file was refused or set aside, and the reason beside it is missing"
                repair = "write down what the ledger still knows about it"
                yield Finding(Kind.REASON_LOST, image_id, None, self.relative(path), explanation, repair)

    def left_over(self, path: Path, image_id: str | None = None) -> Iterator[Finding]:
        """An unfinished file that nobody is writing any more."""
        if _age_s(path) > _LEFT_OVER_S:
            explanation = (
                "the server ended while it wrote the file, and whoever sent it was never told that it was saved"
            )
            repair = "remove it" if image_id is None else "keep it in labels/refused/, with this as the reason"
            yield Finding(Kind.LEFT_OVER, image_id, None, self.relative(path), explanation, repair)


def files_under(folder: Path) -> list[Path]:
    """All files in a folder and those in it, by name; none where there is no such folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _digits_of(version: Version) -> str:
    """The first digits of the hash of what was sent; those of the version itself where it was sent as it is kept."""
    found = _DIGITS_OF_SENT.search(version.sent or "")
    return found[1] if found else version.sha256


def _is_as_noted(path: Path, row: Shown) -> bool:
    if path.name != f"{row.image_id}{row.suffix}":
        return False
    status = path.stat()
    return (status.st_size, status.st_mtime_ns) == (row.shown_size, row.shown_modified_ns)


def _age_s(path: Path) -> float:
    """Seconds since a file was changed; 0 where it is gone by now."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
