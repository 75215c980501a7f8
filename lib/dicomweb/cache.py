"""Series that were fetched from a PACS, in a folder of bounded size: each is whole or not there.

An entry is a folder named by what the PACS lists for the series, so that a series that grew, or was replaced, is
another entry. Threads and processes may share the folder: beside each entry lies a lock file (flock), held alone
while the series is fetched or removed, and together by all who read it.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lib.dicomweb.client import Pacs
from lib.errors import StorageError
from lib.files import sync_folder, writable_folder, write_error

_FETCHING = ".fetching-"
_REMOVING = ".removing-"
_LOCK = ".lock"


class SeriesCache:
    """Fetched series in a folder.

    Args:
        folder: made if it is missing; nothing else may be in it.
        most_bytes: what may stay in it. Those not used for longest go first; those in use stay.

    Raises:
        StorageError: the folder can't be written.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.folder = writable_folder(folder)
        self.most_bytes = most_bytes

    @contextmanager
    def series(self, pacs: Pacs, study_uid: str, series_uid: str) -> Iterator[Path]:
        """A folder with the objects that the PACS has now, `SOP_INSTANCE_UID.dcm` each.

        It stays while the context lasts, for reading only. Who asks for a series that is being fetched waits.

        Args:
            pacs: asked what the series holds, and for the objects if they are not here.
            study_uid: the series' study.
            series_uid: the series.

        Raises:
            NotFoundError, UnavailableError, BadInputError: as `Pacs.fetch`.
            StorageError: the disk is full; nothing of the series is left on it.
        """
        sop_uids = pacs.instances(study_uid, series_uid)
        place = self.folder / _key(series_uid, sop_uids)
        while True:
            with self._locked(place.name, fcntl.LOCK_SH):
                if place.is_dir():
                    with suppress(OSError):  # only the order of removal depends on it
                        os.utime(place)
                    yield place
                    return
            with self._locked(place.name, fcntl.LOCK_EX):
                if not place.is_dir():
                    self._fetch(pacs, study_uid, series_uid, sop_uids, place)
            self.trim(keep=place.name)

    def trim(self, keep: str = "") -> None:
        """Remove what crashed fetches left, and whole series, the longest unused first, until the rest fits.

        Args:
            keep: name of an entry that stays.
        """
        for path in self.folder.glob(".*"):
            if path.name.startswith((_FETCHING, _REMOVING)):
                self._remove(path.name, path.name.removeprefix(_FETCHING).removeprefix(_REMOVING))
        entries = sorted(self._entries(), key=lambda entry: entry.used)
        surplus = sum(entry.size for entry in entries) - self.most_bytes
        for entry in entries:
            if surplus <= 0:
                return
            if entry.name != keep and self._remove(entry.name, entry.name):
                surplus -= entry.size

    def _fetch(self, pacs: Pacs, study_uid: str, series_uid: str, sop_uids: list[str], place: Path) -> None:
        """With the lock held alone."""
        temporary = self.folder / f"{_FETCHING}{place.name}"
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir()
            pacs.fetch(study_uid, series_uid, temporary, sop_uids)
            for path in temporary.iterdir():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            sync_folder(temporary)
            temporary.rename(place)
            sync_folder(self.folder)
        except OSError as error:
            if error.errno is None:  # one of ours
                raise
            raise write_error(self.folder, error) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _remove(self, name: str, key: str) -> bool:
        """Remove a folder unless its series is in use; whether it is gone."""
        try:
            with self._locked(key, fcntl.LOCK_EX | fcntl.LOCK_NB) as lock:
                doomed = self.folder / name
                if not name.startswith("."):  # at once for all who look
                    doomed = doomed.rename(self.folder / f"{_REMOVING}{key}")
                shutil.rmtree(doomed)
                lock.unlink(missing_ok=True)
            return True
        except OSError:  # in use, or removed by another
            return False

    def _entries(self) -> "Iterator[_Entry]":
        for path in self.folder.iterdir():
            if path.name.startswith(".") or not path.is_dir():
                continue
            with suppress(FileNotFoundError):  # being removed by another
                size = sum(file.stat().st_size for file in path.iterdir())
                yield _Entry(path.name, size, path.stat().st_mtime)

    @contextmanager
    def _locked(self, key: str, how: int) -> Iterator[Path]:
        """Hold an entry's lock.

        Raises:
            BlockingIOError: another holds it and `how` says not to wait.
            StorageError: the lock file can't be made, or not be locked.
        """
        path = self.folder / f"{key}{_LOCK}"
        while True:
            try:
                handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except OSError as error:
                raise write_error(self.folder, error) from error
            try:
                self._lock(handle, how)
                if not _is_file(handle, path):  # removed together with the entry while we waited
                    continue
                yield path
                return
            finally:
                os.close(handle)

    def _lock(self, handle: int, how: int) -> None:
        try:
            fcntl.flock(handle, how)
        except BlockingIOError:
            raise
        except OSError as error:
            msg = f"can't lock files in {self.folder} ({error.strerror}); choose a folder on a local disk"
            raise StorageError(msg) from error


@dataclass(frozen=True)
class _Entry:
    name: str
    size: int
    used: float


def _is_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _key(series_uid: str, sop_uids: list[str]) -> str:
    digest = hashlib.sha256("\n".join(sop_uids).encode()).hexdigest()[:16]
    return f"{series_uid}-{len(sop_uids)}-{digest}"
