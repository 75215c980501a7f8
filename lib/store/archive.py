"""One file with everything that the ledger of a studies folder holds, and every version of every label.

A ZIP archive without compression (labels are compressed already), in any ZIP program's reach:

    manifest.json             format, studies id, time, number of rows and files, hash of ledger.jsonl
    ledger.jsonl              one row per line: {"table": "versions", "row": {...}}
    versions/...              the files that `versions.file` and `versions.sent` name
    presegmentations/...      the files that `presegmentations.file` names
    refused/IMAGE/...         labels that were refused, with their reasons
    labels/TAG/...            labels in the folder that are no version yet

The rows come in this order: facts; the sides of patients; for each image by name its own row, versions, labels,
pre-segmentations and lease;
events as they happened; and for each file that no row of a version gives a hash of one of the table `files`. A row
has the columns of `lib.store.schema` without keys that a database counts up; a label has the number of its version.
Images are not part of it, nor are scores, which are made again.
"""

import hashlib
import json
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Connection, select

from lib.errors import BadInputError
from lib.files import atomic_write, file_sha256
from lib.store import refused, schema
from lib.store.layout import REFUSED, Layout
from lib.store.leases import iso_time
from lib.store.records import Records, pages
from lib.store.store import Store

FORMAT = 1
MANIFEST = "manifest.json"
ROWS = "ledger.jsonl"
VERSIONS, PRESEGMENTATIONS, LABELS = "versions", "presegmentations", "labels"
# Of a ledger, not of what it holds.
SCORES_IN_ROWS: Mapping[str, set[str]] = {"images": {"scored"}, "leases": {"slices"}}  # not kept: made again
OWN_FACTS = ("belongs_to", "schema", "made_at", "scanned_at", "label_indices", "pacs", "pacs_error")

CHUNK = 1 << 20


@dataclass(frozen=True)
class Exported:
    """What an archive holds.

    Args:
        counts: rows by table.
        files: the number of files.
        size: bytes of the archive.
        missing: versions whose file is lost or damaged and so not in it; each names the file.
    """

    counts: Mapping[str, int]
    files: int
    size: int
    missing: tuple[str, ...]


def export_archive(store: Store, path: str | Path, progress: Callable[[int], object] | None = None) -> Exported:
    """Write the ledger and the files of all versions into one archive, while clients go on saving.

    It holds what was committed when it began. Every version is compared with its hash on the way; one that is lost or
    damaged is left out and listed.

    Args:
        store: the studies folder.
        path: the archive, to end in `.zip`.
        progress: called with the number of files written so far.

    Raises:
        BadInputError: there is a file of this name.
        StorageError: the disk refused.
    """
    path = Path(path)
    if path.exists():
        msg = f"there is already {path}; name another file, or move it away"
        raise BadInputError(msg)
    with atomic_write(path) as temporary, tempfile.TemporaryFile(dir=path.parent) as rows:
        # All rows first, from one state of the ledger; files of versions never change afterwards.
        counts: Counter[str] = Counter()
        with store.ledger.reading() as connection:
            for table, row in _rows(connection):
                rows.write(_line(table, row))
                counts[table] += 1
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            writer = _Writer(archive, progress)
            others = _add_files(writer, rows, store.layout)
            rows.seek(0, 2)
            for row in others:
                rows.write(_line("files", row))
            counts["files"] = len(others)
            rows.seek(0)
            _, sha256 = writer.copy(ROWS, rows, time.time())
            manifest = {
                "format": FORMAT,
                "made_by": "LiverLoop",
                "schema": schema.SCHEMA_VERSION,
                "studies_id": store.layout.studies_id(),
                "exported_at": iso_time(time.time()),
                "rows": dict(counts),
                "files": writer.files,
                "ledger_sha256": sha256,
                "missing": writer.missing,
            }
            archive.writestr(_entry(MANIFEST, time.time()), json.dumps(manifest, indent=2))
    return Exported(dict(counts), writer.files, path.stat().st_size, tuple(writer.missing))


class _Writer:
    """Adds files to an archive and counts them."""

    def __init__(self, archive: zipfile.ZipFile, progress: Callable[[int], object] | None) -> None:
        self.files = 0
        self.missing: list[str] = []
        self._archive = archive
        self._progress = progress

    def add(self, member: str, path: Path, size: int | None = None, digits: str = "") -> dict[str, Any] | None:
        """Add a file and say which; leave it out where it is gone or not what its row says."""
        expected = path.is_file() and (size is None or path.stat().st_size == size)
        if not expected or (digits and not file_sha256(path).startswith(digits)):
            self.missing.append(member)
            return None
        with path.open("rb") as source:
            size, sha256 = self.copy(member, source, path.stat().st_mtime)
        self.files += 1
        if self._progress is not None:
            self._progress(self.files)
        return {"member": member, "size": size, "sha256": sha256}

    def copy(self, member: str, source: IO[bytes], modified: float) -> tuple[int, str]:
        """Write a member; returns its size and hash."""
        digest = hashlib.sha256()
        size = 0
        with self._archive.open(_entry(member, modified), "w", force_zip64=True) as target:
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                size += len(chunk)
                target.write(chunk)
        return size, digest.hexdigest()


def _rows(connection: Connection) -> Iterator[tuple[str, Mapping[str, Any]]]:
    query = select(schema.facts).where(schema.facts.c.key.not_in(OWN_FACTS)).order_by(schema.facts.c.key)
    for row in connection.execute(query):
        yield "facts", row._asdict()
    for row in connection.execute(select(schema.splits).order_by(schema.splits.c.patient)):
        yield "splits", row._asdict()
    for page in pages(connection):
        for records in page:
            yield from _rows_of(records)
    query = select(schema.events).order_by(schema.events.c.id)
    with connection.execution_options(yield_per=1000).execute(query) as result:
        for row in result:
            yield "events", _without(row._asdict(), "id")


def _rows_of(records: Records) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if records.image is not None:
        yield "images", _without(records.image, *SCORES_IN_ROWS["images"])
    numbers = {version.id: (version.tag, version.number) for version in records.versions}
    for version in records.versions:
        yield "versions", _without(asdict(version), "id")
    for label in records.labels:
        tag, number = numbers.get(label.version_id or 0, (None, None))
        known = _without(asdict(label), "version_id", "shown_size", "shown_modified_ns")
        yield "labels", {**known, "version": number if tag == label.tag else None}
    for row in records.presegmentations:
        yield "presegmentations", row
    if records.lease is not None:
        yield "leases", _without(records.lease, *SCORES_IN_ROWS["leases"])


def _add_files(writer: _Writer, rows: IO[bytes], layout: Layout) -> list[dict[str, Any]]:
    """Add every file that rows name, and those refused; returns what to note about files that no row has a hash of."""
    others: list[dict[str, Any] | None] = []
    rows.seek(0)
    for line in rows:
        entry = json.loads(line)
        row = entry["row"]
        if entry["table"] == "versions":
            writer.add(f"{VERSIONS}/{row['file']}", layout.versions / row["file"], row["size"], row["sha256"])
            if row["sent"] is not None:
                others.append(writer.add(f"{VERSIONS}/{row['sent']}", layout.versions / row["sent"]))
        elif entry["table"] == "presegmentations":
            others.append(writer.add(f"{PRESEGMENTATIONS}/{row['file']}", layout.presegmentations / row["file"]))
        elif entry["table"] == "labels" and row["version"] is None:
            for path in layout.shown_files(row["image_id"], row["tag"], row["suffix"]):
                others.append(writer.add(f"{LABELS}/{row['tag']}/{path.name}", path))
    for one in refused.listed(layout):
        path = layout.studies / one.file
        for file in (refused.reason_path(path), path):
            if file.is_file():
                others.append(writer.add(f"{REFUSED}/{one.image_id}/{file.name}", file))
    return [row for row in others if row is not None]


def _line(table: str, row: Mapping[str, Any]) -> bytes:
    return json.dumps({"table": table, "row": row}, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _entry(member: str, modified: float) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(member, time.localtime(max(modified, 315_619_200.0))[:6])  # ZIP's time begins in 1980
    entry.external_attr = 0o644 << 16
    return entry


def _without(row: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in keys}
