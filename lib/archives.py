"""Archives of DICOM files that somebody sends: unpacked within limits, and nothing of them but DICOM.

The names in an archive never become paths: files get numbers. What is no DICOM file by its content is left out,
archives within archives too. An archive with links, devices or names that lead elsewhere is refused as a whole, since
nobody who packs a series makes one.
"""

import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from isal import igzip
from isal.igzip_lib import IsalError

from lib.errors import BadInputError, StorageError
from lib.files import write_error
from lib.limits import DEFAULT_LIMITS, MEGABYTE, Limits
from lib.uploads import HEAD_BYTES, Kind, kind_of, suffix_by_content

_CHUNK = 1 << 20
_MOST_OF_NAMES = 1 << 16  # bytes that tar may spend on one long name or one set of extended attributes
_LONGEST_NAME = 4096
_BYTES_PER_ENTRY = 512  # that a zip's table of contents may have on average
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others may ask for gigabytes of memory
_ENCRYPTED = 0x1
_BLOCK = tarfile.BLOCKSIZE
_UNREADABLE: Any = (
    OSError, EOFError, ValueError, RuntimeError, NotImplementedError, IndexError, OverflowError, struct.error,
    zlib.error, IsalError, zipfile.BadZipFile, tarfile.TarError,
)  # fmt: skip


def unpack(archive: Path, folder: Path, limits: Limits = DEFAULT_LIMITS) -> int:
    """Unpack the DICOM files of a `.zip`, `.tar` or `.tar.gz` into one folder, or nothing at all.

    Args:
        archive: told by its content, whatever its name.
        folder: where the files go; made here, and gone again if the archive is refused.
        limits: what is taken; bytes are counted while unpacking.

    Returns:
        How many files; they are named `1.dcm`, `2.dcm` and so on.

    Raises:
        BadInputError: no archive, damaged, too large, without DICOM files, or with entries that are not plain files.
        StorageError: the disk refused.
    """
    unpacking = _Unpacking(folder, limits)
    try:
        folder.mkdir()
    except OSError as error:
        raise write_error(folder.parent, error) from error
    try:
        with archive.open("rb") as file:
            suffix = suffix_by_content(file.read(HEAD_BYTES))
            file.seek(0)
            unpackers: dict[str | None, Callable[[BinaryIO, _Unpacking], None]] = {
                ".zip": _unzip, ".tar": _untar, ".tar.gz": _untar_gzipped,
            }  # fmt: skip
            if suffix not in unpackers:
                msg = "the archive is not a .zip, .tar or .tar.gz by its content; pack the files as one of those"
                raise BadInputError(msg)
            _explained(unpackers[suffix], file, unpacking)
        if not unpacking.count:
            msg = "the archive holds no DICOM file; send the files of one CT series"
            raise BadInputError(msg)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return unpacking.count


def _explained(unpacker: "Callable[[BinaryIO, _Unpacking], None]", file: BinaryIO, unpacking: "_Unpacking") -> None:
    try:
        unpacker(file, unpacking)
    except (BadInputError, StorageError):
        raise
    except _UNREADABLE as error:
        msg = "the archive is damaged or not complete; pack it again"
        raise BadInputError(msg) from error


class _Unpacking:
    """What was found so far, entry by entry."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.count = 0
        self._folder, self.limits = folder, limits
        self._bytes, self._names = 0, set[PurePosixPath]()
        self._entries = 0

    def begin(self, name: str, *, is_plain: bool) -> None:
        """The next entry.

        Raises:
            BadInputError: it is not allowed, or one too many.
        """
        self._entries += 1
        if self._entries > self.limits.archive_files:
            most = f"{self.limits.archive_files:,} files"
            msg = f"the archive holds more than {most} (limits.archive_files); send one series"
            raise BadInputError(msg)
        entry = f"entry {self._entries} of the archive"  # not by its name, which may be a patient's
        if not is_plain:
            msg = f"{entry} is a link, a device or encrypted; pack plain files alone"
            raise BadInputError(msg)
        if _leads_out(name):
            msg = f"{entry} has a name that leads out of its folder; pack files under plain names"
            raise BadInputError(msg)
        path = PurePosixPath(name)
        if path in self._names:
            msg = f"{entry} has the name of another one; give each file a name of its own"
            raise BadInputError(msg)
        self._names.add(path)

    def counted(self, chunk: bytes) -> bytes:
        """Raises BadInputError where more was unpacked than is taken."""
        self._bytes += len(chunk)
        if self._bytes > self.limits.unpacked_bytes:
            most = f"{self.limits.unpacked_bytes / MEGABYTE:,.0f} MB"
            msg = f"the archive holds more than {most} when unpacked (limits.unpacked_mb); send one series"
            raise BadInputError(msg)
        return chunk

    def keep(self, chunks: Iterator[bytes]) -> None:
        """Write an entry's content if it is DICOM; what is not read of the others is left to the caller."""
        head = b""
        while len(head) < HEAD_BYTES and (chunk := next(chunks, b"")):
            head += chunk
        if kind_of(head[:HEAD_BYTES]) is not Kind.DICOM:
            return
        self.count += 1
        file = self._on_disk(partial(open, self._folder / f"{self.count}.dcm", "xb"))
        try:
            self._on_disk(partial(file.write, head))
            for chunk in chunks:
                self._on_disk(partial(file.write, chunk))
            self._on_disk(file.flush)
        finally:
            with suppress(OSError):  # told by then
                file.close()

    def _on_disk(self, step: Callable[[], Any]) -> Any:
        try:
            return step()
        except OSError as error:
            raise write_error(self._folder, error) from error


def _leads_out(name: str) -> bool:
    """Whether a name would, on any system, be a path outside of the folder it is unpacked in, or no path at all."""
    parts = name.replace("\\", "/").split("/")
    is_path = 0 < len(name) <= _LONGEST_NAME and min(name) >= " "
    return not is_path or name[0] in "/\\" or name[1:2] == ":" or ".." in parts


class _Bounded:
    """A file of which no more than some bytes are read at once, as for a table of contents that announces gigabytes."""

    def __init__(self, file: BinaryIO, most: int) -> None:
        self._file, self._most = file, most
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, count: int = -1) -> bytes:
        if count > self._most:
            msg = f"{count} bytes at once"
            raise ValueError(msg)
        content = self._file.read(self._most + 1 if count < 0 else count)
        if len(content) > self._most:
            msg = f"more than {self._most} bytes at once"
            raise ValueError(msg)
        return content


def _unzip(file: BinaryIO, unpacking: _Unpacking) -> None:
    bounded: Any = _Bounded(file, max(_CHUNK, _BYTES_PER_ENTRY * unpacking.limits.archive_files))
    with zipfile.ZipFile(bounded) as archive:
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where it was packed without such a thing
            plain = kind in {0, stat.S_IFREG, stat.S_IFDIR} and not info.flag_bits & _ENCRYPTED
            unpacking.begin(info.orig_filename, is_plain=plain)
            if info.compress_type not in _ZIP_METHODS:
                msg = "the archive is packed in an unusual way; pack it as a common zip (deflate)"
                raise BadInputError(msg)
            if not info.is_dir():
                with archive.open(info) as content:
                    unpacking.keep(iter(lambda: unpacking.counted(content.read(_CHUNK)), b""))


def _untar_gzipped(file: BinaryIO, unpacking: _Unpacking) -> None:
    with igzip.open(file, "rb") as unpacked:
        _untar(unpacked, unpacking)


def _untar(file: BinaryIO, unpacking: _Unpacking) -> None:
    """Forward only, and without Python's `TarFile`, which reads extended headers of any length into the memory."""

    def read(count: int) -> bytes:
        content = unpacking.counted(file.read(count))
        if len(content) < count:
            msg = "the archive ends early"
            raise EOFError(msg)
        return content

    def read_all(count: int) -> Iterator[bytes]:
        while count:
            chunk = read(min(count, _CHUNK))
            count -= len(chunk)
            yield chunk

    name = None
    while any(block := read(_BLOCK)):
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        size, rest = info.size, -info.size % _BLOCK
        if size < 0:
            msg = "a file of less than no bytes"
            raise ValueError(msg)
        if info.type in {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME}:
            if size > _MOST_OF_NAMES:
                msg = "a name of that length"
                raise ValueError(msg)
            content = read(size + rest)[:size]
            name = (
                content.rstrip(b"\0").decode("utf-8", "surrogateescape")
                if info.type == tarfile.GNUTYPE_LONGNAME
                else (_extended(content).get("path", name))
            )
            continue
        is_plain = info.type in {tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE}
        unpacking.begin(name or info.name, is_plain=is_plain)
        name = None
        if info.isdir():
            continue
        chunks = read_all(size)
        unpacking.keep(chunks)
        for _ in chunks:  # of a file that is not kept
            pass
        read(rest)


def _extended(content: bytes) -> dict[str, str]:
    """The records of an extended header (POSIX.1-2001, pax), each of its length, a key and a value.

    Raises:
        ValueError: damaged, or it changes how the file's content lies in the archive.
    """
    found = {}
    while content.rstrip(b"\0"):
        digits, _, _ = content.partition(b" ")
        length = int(digits)
        record, content = content[len(digits) + 1 : length], content[length:]
        key, separator, value = record.partition(b"=")
        if length <= len(digits) or not separator or key == b"size" or key.startswith(b"GNU.sparse"):
            msg = "an extended header that is damaged, or of a sparse file"
            raise ValueError(msg)
        found[key.decode("utf-8", "replace")] = value.rstrip(b"\n").decode("utf-8", "surrogateescape")
    return found
