"""Decoded cases that stay on disk from one training to the next, found by what is in their files."""

import fcntl
import hashlib
import logging
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from lib.errors import BadInputError, NotFoundError, StorageError
from lib.files import remembered_sha256
from lib.training.cases import CaseFiles
from lib.training.decoded import Case, decode_case, open_case, used_at

logger = logging.getLogger(__name__)

_FORMAT = 2  # of decoded cases; another number makes all of them anew
_UNFINISHED = "unfinished-"


class CaseCache:
    """A folder of decoded cases; made by `open_cache`.

    The name of each says what it was made from: the content of image and label. A case whose label was corrected is
    thus decoded anew, and one that was renamed is not.

    Args:
        folder: of the cache.
        classes: number of classes, background included.
        most_bytes: what may stay in it.
    """

    def __init__(self, folder: Path, classes: int, most_bytes: float) -> None:
        self.folder, self.classes, self.most_bytes = folder, classes, most_bytes
        self._used: set[Path] = set()

    def holds(self, files: CaseFiles) -> bool:
        """Whether a case was decoded before; whether it is still whole shows when it is opened."""
        return used_at(self._place(files)) > 0

    def case(self, files: CaseFiles) -> Case:
        """A case, from the cache or decoded into it.

        Raises:
            BadInputError: image and label can't be used together, see `lib.training.decoded.decode_case`.
            NotFoundError: a file is gone.
            StorageError: the disk refused.
        """
        place = self._place(files)
        self._used.add(place)
        if place.is_dir():
            try:
                return open_case(files.name, place)
            except BadInputError as error:
                logger.warning("%s is decoded again: %s", files.name, error)
                shutil.rmtree(place, ignore_errors=True)
        unfinished = self.folder / f"{_UNFINISHED}{secrets.token_hex(8)}"
        try:
            case = decode_case(files, self.classes, unfinished)
            if self._place(files) != place:  # replaced meanwhile: this is not what the name says
                return self.case(files)
            try:
                unfinished.rename(place)
            except OSError:
                if not place.is_dir():
                    raise
                return open_case(files.name, place)  # another training was faster, or what is damaged can't be removed
            return replace(case, folder=place)
        except OSError as error:
            msg = f"{files.name} can't be decoded into {self.folder}: {error.strerror}"
            raise StorageError(msg) from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def check_size(self) -> None:
        """Refuse cases in use that go beyond the limit, as `check_room`."""
        self.check_room(sum(map(_size, self._used)))

    def check_room(self, needed: float) -> None:
        """Make sure that a training's cases stay within the limit.

        Args:
            needed: bytes that they take.

        Raises:
            BadInputError: they don't.
        """
        if needed > self.most_bytes:
            msg = (
                f"the decoded cases of this training take {needed / 1e9:.2g} GB, and training.cache_gb allows "
                f"{self.most_bytes / 1e9:g}; raise it, or exclude images"
            )
            raise BadInputError(msg)

    def trim(self, keep: Iterable[CaseFiles] = ()) -> None:
        """Remove what an interrupted training left unfinished, and cases beyond the limit, the longest unused first.

        Args:
            keep: cases that are about to be used.
        """
        kept = set()
        for files in keep:
            with suppress(BadInputError, NotFoundError):  # whoever asks for this case is told
                kept.add(self._place(files))
        for unfinished in self.folder.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        places = sorted((place for place in self.folder.iterdir() if place.is_dir()), key=used_at)
        sizes = {place: _size(place) for place in places}
        surplus = sum(sizes.values()) - self.most_bytes
        for place in places:
            if surplus <= 0:
                return
            if place not in kept:
                shutil.rmtree(place, ignore_errors=True)
                surplus -= sizes[place]

    def _place(self, files: CaseFiles) -> Path:
        what = f"{_FORMAT} {self.classes} {_content(files.image)} {_content(files.label)}"
        return self.folder / hashlib.sha256(what.encode()).hexdigest()[:32]


@contextmanager
def open_cache(folder: Path, classes: int, most_bytes: float, keep: Iterable[CaseFiles] = ()) -> Iterator[CaseCache]:
    """Use a cache that other trainings may use at the same time; it is trimmed where none does.

    Args:
        folder: of the cache; made if it is missing.
        classes: number of classes, background included.
        most_bytes: what may stay in it.
        keep: cases that are about to be used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cache = CaseCache(folder, classes, most_bytes)
    handle = os.open(folder, os.O_RDONLY)
    try:
        if _locked(handle, fcntl.LOCK_EX | fcntl.LOCK_NB):
            cache.trim(keep)
        _locked(handle, fcntl.LOCK_SH)
        yield cache
    finally:
        os.close(handle)


def size_of(folder: Path) -> int:
    """Bytes in a cache; 0 if there is none."""
    with suppress(OSError):
        return sum(map(_size, folder.iterdir()))
    return 0


def _locked(handle: int, how: int) -> bool:
    try:
        fcntl.flock(handle, how)
    except OSError:  # in use, or a network file system that locks files only
        return False
    return True


def _content(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        NotFoundError: it is gone.
        BadInputError: it can't be read.
    """
    try:
        return remembered_sha256(path)
    except FileNotFoundError as error:
        msg = f"{path} is gone"
        raise NotFoundError(msg) from error
    except OSError as error:
        msg = f"can't read {path}: {error.strerror}"
        raise BadInputError(msg) from error


def _size(case: Path) -> int:
    with suppress(OSError):
        return sum(file.stat().st_size for file in case.iterdir())
    return 0
