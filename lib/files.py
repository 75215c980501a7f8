"""Files that are either wholly there or not there at all."""

import errno
import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from lib.errors import StorageError, UnavailableError

_REASONS = {
    errno.ENOSPC: "the disk is full; free space or choose another folder",
    errno.EDQUOT: "the disk quota is used up; free space or choose another folder",
    errno.EROFS: "the disk is read-only; choose another folder",
    errno.EACCES: "no permission; change the folder's permissions or choose another",
    errno.EPERM: "no permission; change the folder's permissions or choose another",
    errno.EISDIR: "there is a folder of this name; choose another name",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another folder",
    errno.EEXIST: "a part of the path is a file, not a folder; choose another folder",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
_KEPT_OF_NAME = 24  # characters; the rest is free for our prefix, since file systems allow 255 bytes


@contextmanager
def atomic_write(path: str | Path, *, durable: bool = True) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it is fsynced and renamed to `path`, on error removed.

    The temporary name keeps the suffixes of `path`, as image writers choose the format by them, and starts with a
    dot, so that folder watchers ignore it. A symbolic link at `path` is replaced, not followed.

    Args:
        path: where the finished file belongs; its folder is made if missing.
        durable: whether it must survive a power cut; without that it is not fsynced.

    Raises:
        UnavailableError: the folder is read-only.
        StorageError: the file system refused the write otherwise (disk full, name too long, ...).

    Example:
        >>> with atomic_write("out.json") as temporary:
        ...     temporary.write_text("{}")  # doctest: +SKIP
    """
    path = Path(path)
    temporary = path.parent / f".writing-{secrets.token_hex(8)}-{path.name[-_KEPT_OF_NAME:]}"
    made = False
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        made_folders = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        # Never an existing file, and with the permissions that the user's umask gives any new file.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        made = True
        yield temporary
        if durable:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
        if durable:
            sync_folder(path.parent)
            for folder in made_folders:  # a file in a folder that a power cut takes away is gone as well
                sync_folder(folder.parent)
    except OSError as error:
        reason = _REASONS.get(error.errno or 0)
        # shutil names the file that it copies from first, whichever of the two refused.
        named = {Path(name) for name in (error.filename, error.filename2) if name is not None}
        ours = not named or not named.isdisjoint({temporary, path, *path.parents})
        if reason and ours and not isinstance(error, StorageError):
            msg = f"can't write {path}: {reason}"
            raise (UnavailableError if error.errno in _READ_ONLY else StorageError)(msg) from error
        raise
    finally:
        if made:
            temporary.unlink(missing_ok=True)


def cache_folder() -> Path:
    """`liverloop/` in the user's cache folder (`XDG_CACHE_HOME`, by default `~/.cache`)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "liverloop"


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut; file systems without that ability are left as they are."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def try_writing(folder: Path) -> None:
    """Write something into a folder and take it away again.

    By writing, since permission bits say nothing to an administrator, on a read-only mount or on a full disk.

    Raises:
        OSError: the file system refuses.
    """
    with tempfile.TemporaryFile(dir=folder):
        pass


def writable_folder(folder: Path) -> Path:
    """Make a folder if it is missing, and try it.

    Raises:
        UnavailableError: it is read-only.
        StorageError: the file system refuses otherwise.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try_writing(folder)
    except OSError as error:
        raise write_error(folder, error) from error
    return folder


def read_into(memory: memoryview, file: Any) -> int:
    """Fill `memory` from an open file; how many bytes there were, fewer than it holds where the file ends before."""
    done = 0
    while done < len(memory) and (count := file.readinto(memory[done:])):
        done += count
    return done


def file_sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remembered_sha256(path: Path) -> str:
    """`file_sha256`, for which a file is read once while inode, size and time of change stay what they are."""
    status = path.stat()
    return _sha256_of(path, status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=100_000)
def _sha256_of(path: Path, *_: int) -> str:  # another file is another entry
    return file_sha256(path)


def write_error(folder: Path, error: OSError) -> StorageError:
    """The error that tells a person why a folder could not be written into, and what to do."""
    reason = _REASONS.get(error.errno or 0, error.strerror)
    msg = f"can't write into {folder}: {reason}"
    return (UnavailableError if error.errno in _READ_ONLY else StorageError)(msg)
