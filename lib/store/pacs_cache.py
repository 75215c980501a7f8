"""The volumes that were fetched from a PACS: one lock for each, their order of use, and a bound on their bytes.

When a volume was last given to somebody is noted as the time of change of its lock file. The volume itself stays
untouched, as results that are kept of it go by all that `stat` tells, its time of change included. Locks (flock) hold
between threads and processes, and end with them.
"""

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lib.dicomweb.answers import is_uid
from lib.errors import StorageError
from lib.files import write_error
from lib.store.layout import STORED, Layout

_FETCHING = ".fetching-"
_WRITING = ".writing-"  # of `lib.files.atomic_write`
_LONGEST_WRITE_S = 3600.0
IN_USE_S = 300.0  # a volume given so recently may still be about to be read


class PacsCache:
    """The fetched volumes of a working folder.

    Args:
        layout: where files lie.
        most_bytes: what may stay on the disk.
        in_use_s: for how long a volume stays after it was given to somebody.
    """

    def __init__(self, layout: Layout, most_bytes: int, in_use_s: float = IN_USE_S) -> None:
        self._layout = layout
        self._most_bytes = most_bytes
        self._in_use_s = in_use_s

    def headers(self, image_id: str) -> Path:
        """Where the headers of a series are kept."""
        return self._layout.series / f"{image_id}.json.gz"

    def use(self, path: Path) -> None:
        """Note that a volume is given to somebody now."""
        with suppress(OSError):  # only the order of removal depends on it
            os.utime(self._lock(path.name.removesuffix(STORED)))

    def _lock(self, image_id: str) -> Path:
        return self._layout.series / f"{image_id}.lock"

    @contextmanager
    def locked(self, image_id: str, *, wait: bool = True) -> Iterator[None]:
        """Alone with an image's files, among all threads and processes.

        Raises:
            BlockingIOError: another is, and `wait` is False.
            StorageError: the lock file can't be made, or not be locked.
        """
        path = self._lock(image_id)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise write_error(path.parent, error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(handle)
            raise
        except OSError as error:
            os.close(handle)
            msg = f"can't lock files in {path.parent} ({error.strerror}); choose a folder on a local disk"
            raise StorageError(msg) from error
        try:
            yield
        finally:
            os.close(handle)

    @contextmanager
    def fetching(self, image_id: str) -> Iterator[Path]:
        """An empty folder for what is being fetched; with the image's lock held. Afterwards it is gone.

        Raises:
            StorageError: the disk refused.
        """
        folder = self._layout.series / f"{_FETCHING}{image_id}"
        shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.mkdir()
            yield folder
        except OSError as error:
            if error.errno in {None, errno.ENOENT}:  # one of ours
                raise
            raise write_error(self._layout.studies, error) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def trim(self, keep: Collection[str]) -> int:
        """Remove what crashed fetches left, and volumes, the longest unused first, until the rest fits.

        Args:
            keep: images whose volumes stay.

        Returns:
            By how many bytes the rest is still too large.
        """
        for folder in self._layout.series.glob(f"{_FETCHING}*"):
            with suppress(OSError), self.locked(folder.name.removeprefix(_FETCHING), wait=False):
                shutil.rmtree(folder)
        for folder in (self._layout.studies, self._layout.series):
            for path in folder.glob(f"{_WRITING}*"):
                with suppress(OSError):
                    if time.time() - path.stat().st_mtime > _LONGEST_WRITE_S:
                        path.unlink()
        volumes = sorted(self._volumes(), key=lambda volume: volume.used)
        surplus = sum(volume.size for volume in volumes) - self._most_bytes
        unused = time.time() - self._in_use_s
        for volume in volumes:
            if surplus <= 0 or volume.used > unused:
                break
            if volume.image_id not in keep and self._remove(volume):
                surplus -= volume.size
        return max(0, surplus)

    def _remove(self, volume: "_Volume") -> bool:
        with suppress(OSError), self.locked(volume.image_id, wait=False):
            if self._used(volume.image_id) <= volume.used:  # nobody was given it meanwhile
                self._layout.image(volume.image_id, STORED).unlink()
                return True
        return False

    def _volumes(self) -> "Iterator[_Volume]":
        with os.scandir(self._layout.studies) as entries:
            for entry in entries:
                name = entry.name.removesuffix(STORED)
                if name != entry.name and is_uid(name):
                    with suppress(FileNotFoundError):  # being replaced or removed by another
                        yield _Volume(name, entry.stat().st_size, self._used(name))

    def _used(self, image_id: str) -> float:
        """When an image was last given to somebody; 0 where that is not known."""
        try:
            return self._lock(image_id).stat().st_mtime
        except FileNotFoundError:
            return 0.0


@dataclass(frozen=True)
class _Volume:
    image_id: str
    size: int
    used: float
