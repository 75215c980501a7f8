"""Read an archive that may come from anywhere: nothing in it is believed before it was checked.

The format is told in `lib.store.archive`. Members are named by rows and by nothing else, every name is checked part
by part, and sizes and hashes are compared before anybody uses a byte.
"""

import hashlib
import json
import math
import stat
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from sqlalchemy import JSON, Boolean, Double, Integer, Table, Text

from lib.errors import BadInputError, NotFoundError
from lib.store import schema
from lib.store.archive import CHUNK, FORMAT, LABELS, MANIFEST, PRESEGMENTATIONS, ROWS, SCORES_IN_ROWS, VERSIONS
from lib.store.door import checked_identifier
from lib.store.layout import REFUSED, STORED, checked_tag
from lib.store.migrations import row_of_today
from lib.volume_io import IMAGE_SUFFIXES, LABEL_SUFFIXES, suffix_of

Row = dict[str, Any]

_MANIFEST_BYTES = 64 << 20  # names of missing files are in it
_ROW_BYTES = 16 << 20
_OF_AN_IMAGE = ("images", "versions", "labels", "presegmentations", "leases")
_ORDER = {"facts": 0, "splits": 1, **dict.fromkeys(_OF_AN_IMAGE, 2), "events": 3, "files": 4}
_NOT_IN_ROWS = {
    "versions": {"id"},
    "events": {"id"},
    "labels": {"version_id", "shown_size", "shown_modified_ns"},
    **SCORES_IN_ROWS,
}
_TABLES: dict[str, Table] = {
    name: schema.metadata.tables[name] for name in ("facts", "splits", *_OF_AN_IMAGE, "events")
}


_OBJECTS = {
    "images": ("info", "grid"),
    "versions": ("info", "voxels", "ml", "against_presegmentation", "against_previous"),
    "labels": ("info",),
    "events": ("detail",),
}  # JSON that must be objects


@dataclass
class Group:
    """The rows about one image."""

    image_id: str
    image: Row | None = None
    versions: list[Row] = field(default_factory=list)
    labels: list[Row] = field(default_factory=list)
    presegmentations: list[Row] = field(default_factory=list)
    lease: Row | None = None


class ArchiveReader:
    """An open archive; use it in a `with` block.

    Args:
        path: the archive.

    Raises:
        NotFoundError: there is no such file.
        BadInputError: not an archive of ours, of a newer LiverLoop, or damaged.
        OSError: it can't be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.name = Path(path).name
        self._members: dict[str, tuple[int | None, str]] = {}  # size, first digits of the hash
        if not Path(path).is_file():
            msg = f"there is no archive {path}"
            raise NotFoundError(msg)
        with self._explained():
            self._zip = zipfile.ZipFile(path)
            try:
                self.manifest = self._read_manifest()
            except BaseException:
                self._zip.close()
                raise

    def __enter__(self) -> "ArchiveReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    @property
    def files(self) -> int:
        """How many files it holds, as its manifest says."""
        return int(self.manifest["files"])

    def verify(self, progress: Callable[[int], object] | None = None) -> None:
        """Compare everything in it with what its rows and its manifest say.

        Args:
            progress: called with the number of files compared so far.

        Raises:
            BadInputError: something is missing, too much, damaged, or has a name or value that it must not have.
        """
        with self._explained():
            entries = self._checked_entries()
            self._check_rows()
            missing = set(map(str, self.manifest["missing"]))
            expected = {MANIFEST, ROWS, *self._members} - missing
            for name in sorted(entries.keys() ^ expected):
                where = "holds {0!r}, which its rows do not name" if name in entries else "lacks {0!r}"
                self._refuse(where.format(name))
            for number, (name, (size, digits)) in enumerate(self._members.items(), start=1):
                if name not in missing:
                    if entries[name].file_size != size:
                        self._refuse(f"holds {name!r} with {entries[name].file_size} bytes instead of {size}")
                    if not self._sha256(name).startswith(digits):
                        self._refuse(f"holds {name!r} with another content than its row says")
                if progress is not None:
                    progress(number)

    def rows(self, *tables: str) -> Iterator[Row]:
        """The rows of some tables, in the order of the archive; only after `verify`."""
        return (row for table, row in self._rows() if table in tables)

    def groups(self) -> Iterator[Group]:
        """The rows about each image, by name; only after `verify`."""
        group: Group | None = None
        for table, row in self._rows():
            if table not in _OF_AN_IMAGE:
                continue
            if group is None or row["image_id"] != group.image_id:
                if group is not None:
                    yield group
                group = Group(row["image_id"])
            if table == "images":
                group.image = row
            elif table == "leases":
                group.lease = row
            else:
                getattr(group, table).append(row)
        if group is not None:
            yield group

    def members(self, folder: str) -> list[str]:
        """The files in a folder of the archive that are really in it."""
        missing = set(self.manifest["missing"])
        return [name for name in self._members if name.startswith(f"{folder}/") and name not in missing]

    def has(self, member: str) -> bool:
        """Whether a file that a row names is in it."""
        return member in self._members and member not in self.manifest["missing"]

    def size_of(self, member: str) -> int:
        """Bytes of a file in it."""
        return self._zip.getinfo(member).file_size

    def sha256_of(self, member: str) -> str:
        """Hash of a file in it, or its first digits where its row has no more."""
        return self._members[member][1]

    def extract(self, member: str, target: Path) -> None:
        """Copy a file out of it.

        Raises:
            BadInputError: it was damaged meanwhile.
            OSError: the disk refused.
        """
        with self._explained(), self._zip.open(member) as source, target.open("wb") as file:
            while chunk := source.read(CHUNK):
                file.write(chunk)

    def _read_manifest(self) -> Row:
        if MANIFEST not in self._zip.namelist() or self._zip.getinfo(MANIFEST).file_size > _MANIFEST_BYTES:
            msg = f"{self.name} is not an archive made by scripts/ledger.py export: it has no {MANIFEST}"
            raise BadInputError(msg)
        manifest = json.loads(self._zip.read(MANIFEST))
        expected = {"format": int, "schema": int, "rows": dict, "files": int, "ledger_sha256": str, "missing": list}
        if not isinstance(manifest, dict) or any(
            not isinstance(manifest.get(key), kind) for key, kind in expected.items()
        ):
            self._refuse(f"has a {MANIFEST} without {', '.join(expected)}")
        if manifest["format"] > FORMAT or manifest["schema"] > schema.SCHEMA_VERSION:
            msg = f"{self.name} was made by a newer LiverLoop (format {manifest['format']}); update this one"
            raise BadInputError(msg)
        return manifest

    def _checked_entries(self) -> dict[str, zipfile.ZipInfo]:
        entries: dict[str, zipfile.ZipInfo] = {}
        for entry in self._zip.infolist():
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if entry.filename in entries:
                self._refuse(f"holds {entry.filename!r} twice")
            if kind not in {0, stat.S_IFREG} or entry.is_dir():
                self._refuse(f"holds {entry.filename!r}, which is a link or folder and not a file")
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                self._refuse(
                    f"holds {entry.filename!r} compressed or encrypted; it was packed again by another program"
                )
            entries[entry.filename] = entry
        return entries

    def _check_rows(self) -> None:
        """Every row is checked by reading it; what they name is remembered."""
        if ROWS not in self._zip.namelist():
            self._refuse(f"lacks {ROWS!r}")
        if self._sha256(ROWS) != self.manifest["ledger_sha256"]:
            self._refuse(f"holds {ROWS!r} with another content than {MANIFEST} says")
        self._members = {}
        counts: Counter[str] = Counter()
        for table, row in self._rows():
            counts[table] += 1
            for member, size, digits in _named_by(table, row):
                known = self._members.get(member)
                if known is not None and (table != "files" or known[0] is not None):
                    self._refuse(f"names {member!r} twice")
                if known is None and table == "files" and member.startswith((f"{VERSIONS}/", f"{PRESEGMENTATIONS}/")):
                    self._refuse(f"holds {member!r}, which no row but that of its hash names")
                self._members[member] = (size, digits)
        if dict(counts) != {table: number for table, number in self.manifest["rows"].items() if number}:
            self._refuse(f"holds {dict(counts)} rows instead of the {self.manifest['rows']} that {MANIFEST} says")

    def _rows(self) -> Iterator[tuple[str, Row]]:
        place = (-1, "", -1, "", 0)
        with self._explained(), self._zip.open(ROWS) as lines:
            for number, line in enumerate(_lines(lines), start=1):
                try:
                    entry = json.loads(line)
                    table, row = _checked(entry, self.manifest["schema"])
                    here = _place(table, row)
                    if here[0] < place[0] or (table in _OF_AN_IMAGE and here <= place):
                        msg = f"a row of the table {table} is not in its place"
                        raise BadInputError(msg)
                    place = here
                except (BadInputError, ValueError, RecursionError) as error:
                    self._refuse(f"has a wrong line {number} in {ROWS}: {error}", error)
                yield table, row

    def _sha256(self, member: str) -> str:
        with self._zip.open(member) as file:
            digest = hashlib.sha256()
            while chunk := file.read(CHUNK):
                digest.update(chunk)
        return digest.hexdigest()

    def _refuse(self, what: str, cause: Exception | None = None) -> None:
        msg = f"the archive {self.name} {what}; nothing was taken from it, copy it again or export anew"
        raise BadInputError(msg) from cause

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (zipfile.BadZipFile, NotImplementedError, EOFError, UnicodeDecodeError, json.JSONDecodeError) as error:
            msg = f"the archive {self.name} is damaged or no archive ({error}); copy it again or export anew"
            raise BadInputError(msg) from error


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    while line := file.readline(_ROW_BYTES):
        if not line.endswith(b"\n"):
            msg = "it is too long or cut off"
            raise json.JSONDecodeError(msg, "", 0)
        yield line


def _place(table: str, row: Row) -> tuple[int, str, int, str, int]:
    """Where a row belongs: rows about images are by name, so that they can be read image by image."""
    if table not in _OF_AN_IMAGE:
        return (_ORDER[table], "", 0, "", 0)
    second = (
        str(row.get("tag") or row.get("client_id") or "") if table in {"versions", "labels", "presegmentations"} else ""
    )
    return (
        _ORDER[table],
        row["image_id"],
        _OF_AN_IMAGE.index(table),
        second,
        row["number"] if table == "versions" else 0,
    )


def _checked(entry: Any, made_by: int) -> tuple[str, Row]:
    """Table and row of a line, which an archive of the schema `made_by` holds.

    Raises:
        BadInputError: another table, other columns, other kinds of values, or names that must not be.
    """
    if not isinstance(entry, dict) or entry.keys() != {"table", "row"} or not isinstance(entry["row"], dict):
        msg = "it is not a row"
        raise BadInputError(msg)
    table, row = entry["table"], entry["row"]
    if table == "files":
        return table, _checked_file(row)
    if table not in _TABLES:
        msg = f"there is no table {str(table)[:80]!r}"
        raise BadInputError(msg)
    row = row_of_today(table, row, made_by)
    columns = {c.name: c for c in _TABLES[table].columns if c.name not in _NOT_IN_ROWS.get(table, ())}
    if row.keys() != columns.keys() | ({"version"} if table == "labels" else set()):
        msg = f"a row of the table {table} has the columns {', '.join(sorted(row))[:400]}"
        raise BadInputError(msg)
    for name, column in columns.items():
        if row[name] is None and column.nullable:
            continue
        if not _is_of_kind(row[name], column.type):
            msg = f"{table}.{name} is {str(row[name])[:80]!r}"
            raise BadInputError(msg)
    _check_names(table, row)
    return table, row


def _is_of_kind(value: Any, kind: Any) -> bool:
    if isinstance(kind, JSON):
        return isinstance(value, dict | list)
    if isinstance(kind, Boolean):
        return isinstance(value, bool)
    if isinstance(kind, Integer):
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    if isinstance(kind, Double):
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    assert isinstance(kind, Text)
    return isinstance(value, str) and "\0" not in value


def _check_names(table: str, row: Row) -> None:
    """What becomes part of a path is safe as that."""
    if row.get("image_id") is not None:
        checked_identifier(row["image_id"], "image id")
    if table in {"versions", "labels"}:
        checked_tag(row["tag"])
    if table in {"images", "labels"}:
        suffixes = IMAGE_SUFFIXES if table == "images" else LABEL_SUFFIXES
        if row["suffix"].lower() not in suffixes:
            msg = f"the suffix {row['suffix'][:80]!r} is none of {', '.join(suffixes)}"
            raise BadInputError(msg)
    if table == "labels" and row["version"] is not None and not _is_of_kind(row["version"], Integer()):
        msg = f"labels.version is {str(row['version'])[:80]!r}"
        raise BadInputError(msg)
    folder = {"versions": (row.get("image_id"), row.get("tag")), "presegmentations": (row.get("image_id"),)}.get(table)
    for file in (row.get("file"), row.get("sent")):
        if folder is not None and file is not None:
            _check_path(file, folder)
    if table == "splits" and row["side"] not in {"training", "validation"}:
        msg = f"splits.side is {row['side'][:80]!r}"
        raise BadInputError(msg)
    for name in _OBJECTS.get(table, ()):
        if row[name] is not None and not isinstance(row[name], dict):
            msg = f"{table}.{name} is {str(row[name])[:80]!r}"
            raise BadInputError(msg)
    if table == "versions" and (not row["file"].endswith(STORED) or not 1 <= row["number"] < 2**31):
        msg = f"version {row['number']} is the file {row['file'][-80:]!r}"
        raise BadInputError(msg)


def _check_path(file: str, folder: tuple[Any, ...]) -> None:
    *parents, name = file.split("/")
    if tuple(parents) != folder:
        msg = f"the file {file[:200]!r} is not in the folder {'/'.join(map(str, folder))}"
        raise BadInputError(msg)
    checked_identifier(name, "file name")


def _checked_file(row: Row) -> Row:
    kinds = {"member": str, "size": int, "sha256": str}
    if row.keys() != kinds.keys() or any(type(row[key]) is not kind for key, kind in kinds.items()):
        msg = "a row of the table files has no member, size and sha256"
        raise BadInputError(msg)
    folder, *parts = row["member"].split("/")
    depth = {VERSIONS: 3, PRESEGMENTATIONS: 2, REFUSED: 2, LABELS: 2}.get(folder)
    if depth != len(parts):
        msg = f"the file {row['member'][:200]!r} belongs nowhere"
        raise BadInputError(msg)
    for part in parts:
        checked_identifier(part, "part of a file's name")
    if folder == LABELS:
        checked_tag(parts[0])
        suffix_of(parts[1])
    return row


def _named_by(table: str, row: Row) -> Iterator[tuple[str, int | None, str]]:
    """The files that a row names: member, size and first digits of the hash, as far as the row has them."""
    if table == "versions":
        yield f"{VERSIONS}/{row['file']}", row["size"], row["sha256"]
        if row["sent"] is not None:
            yield f"{VERSIONS}/{row['sent']}", None, ""
    elif table == "presegmentations":
        yield f"{PRESEGMENTATIONS}/{row['file']}", None, ""
    elif table == "files":
        yield row["member"], row["size"], row["sha256"]
