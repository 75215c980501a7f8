"""Files that are either wholly there or not there at all."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lib.errors import StorageError

_NO_ROOM = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up", errno.EROFS: "it is read-only"}


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it is fsynced and renamed to `path`, on error removed.

    The temporary name keeps the suffixes of `path`, as image writers choose the format by them, and starts with a
    dot, so that folder watchers ignore it.

    Args:
        path: where the finished file belongs; its folder is made if missing.

    Raises:
        StorageError: the file system refused the write (disk full, read-only, no permission).

    Example:
        >>> with atomic_write("out.json") as temporary:
        ...     temporary.write_text("{}")  # doctest: +SKIP
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".writing-", suffix="-" + path.name)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes it private; the folder is shared with other tools
        temporary.replace(path)
    except OSError as error:
        reason = _NO_ROOM.get(error.errno or 0)
        if reason or isinstance(error, PermissionError):
            msg = f"can't write {path}: {reason or 'no permission'}; free space or choose another folder"
            raise StorageError(msg) from error
        raise
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
