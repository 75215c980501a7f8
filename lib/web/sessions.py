"""Sessions: images that clients send to have them segmented, kept for a while and not added to the studies.

Each has a folder named by its id, a random UUID. In it lie the image under a name of ours and `meta.info`, which says
whose it is and how long it is kept, and nothing of where files lie: whoever could write one must not make the server
read other files.
"""

import json
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lib.archives import unpack
from lib.errors import BadInputError, LiverLoopError
from lib.files import atomic_write, write_error
from lib.limits import MEGABYTE
from lib.settings import LimitSettings
from lib.store.door import named_in_errors
from lib.uploads import HEAD_BYTES, suffix_by_content
from lib.volume_io import read_grid

MOST_SECONDS = 24 * 3600
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_META = "meta.info"
# No words: error messages get "the image sent" in their place.
_IMAGE, _SERIES = "liverloop-image", "liverloop-series"
_IMAGES = (_SERIES, *(f"{_IMAGE}{suffix}" for suffix in (".nii.gz", ".nii", ".nrrd")))
_STAGING = ".new-"
_SHORTEST_SECONDS = 60
_DEFAULT_SECONDS = 3600


@dataclass(frozen=True)
class Session:
    """An image that somebody sent.

    Args:
        name: its id.
        image: the file, or the folder with the files of one DICOM series.
        owner: who sent it; None where nobody logs in.
        create_ts: when, in seconds since 1970.
        last_access_ts: when it was used last.
        expiry: seconds for which it is kept unused.
        size: bytes on the disk.
    """

    name: str
    image: str
    owner: str | None = field(repr=False)
    create_ts: int
    last_access_ts: int
    expiry: int
    size: int

    def is_of(self, caller: str | None) -> bool:
        """Whether the caller may use it: who sent it, or anybody where nobody logs in."""
        return caller is None or self.owner == caller

    def is_file(self) -> bool:
        """Whether it can be sent back as it is."""
        return Path(self.image).is_file()

    def to_json(self) -> dict[str, Any]:
        """What a client gets to know, in MONAI Label's words; no path of the server."""
        times = {"create_ts": self.create_ts, "last_access_ts": self.last_access_ts, "expiry": self.expiry}
        return {"name": self.name, "image": Path(self.image).name, "meta": {}, **times}


class Sessions:
    """All sessions of a server; in place of MONAI Label's own of this name, which trusts ids and files.

    Args:
        folder: where they lie; made when it is needed.
        expiry: seconds for which one is kept unused if its client wishes nothing else, and at most.
        limits: what is taken.
        clock: seconds since 1970.
    """

    def __init__(
        self, folder: Path, expiry: int, limits: LimitSettings, clock: Callable[[], float] = time.time
    ) -> None:
        self._folder, self.limits, self._clock = folder, limits, clock
        self._expiry = min(expiry, MOST_SECONDS) if expiry > _SHORTEST_SECONDS else _DEFAULT_SECONDS
        self._lock = threading.RLock()

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A folder for what is being received, which is gone afterwards.

        Raises:
            StorageError: the disk refused.
        """
        folder = self._folder / f"{_STAGING}{uuid.uuid4()}"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700)
        except OSError as error:
            raise write_error(self._folder, error) from error
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def add(self, staged: Path, files: list[Path], owner: str | None, expiry: int, *, uncompress: bool) -> Session:
        """Keep what a client sent.

        Args:
            staged: the folder that `staging` gave.
            files: in it; one image, the DICOM files of one series, or one archive of those.
            owner: who sent it; None where nobody logs in.
            expiry: seconds for which to keep it unused; 0: as long as the server does.
            uncompress: it is an archive.

        Raises:
            BadInputError: they are something else, or too much.
            StorageError: the disk refused.
        """
        if not 0 <= expiry <= MOST_SECONDS:
            msg = f"expiry = {expiry} can't be used; expected 0 to {MOST_SECONDS} seconds, 0 for the server's choice"
            raise BadInputError(msg)
        kept = staged / "kept"
        try:
            kept.mkdir(mode=0o700)
            image = self._image(kept, files, uncompress=uncompress)
        except OSError as error:
            if isinstance(error, LiverLoopError):
                raise
            raise write_error(self._folder, error) from error
        session_id, now = str(uuid.uuid4()), int(self._clock())
        size = sum(path.stat().st_size for path in (image.iterdir() if image.is_dir() else [image]))
        lasting = min(expiry or self._expiry, self._expiry)
        final = self._folder / session_id
        session = Session(session_id, str(final / image.name), owner, now, now, lasting, size)
        self._write(session, kept)
        with self._lock:
            self._make_room(size)
            try:
                kept.rename(final)
            except OSError as error:
                raise write_error(self._folder, error) from error
        return session

    def get_session(self, session_id: str, update_ts: bool = True, fetch_cache: bool = True) -> Session | None:
        """The session of an id; None if there is none, or not any more. Arguments as MONAI Label gives them.

        Args:
            session_id: anything.
            update_ts: it is used now, and kept longer.
            fetch_cache: means nothing here.
        """
        with self._lock:
            session = self._read(session_id)
            if session is None or self._has_expired(session):
                return None
            if update_ts:
                session = replace(session, last_access_ts=int(self._clock()))
                with suppress(LiverLoopError, OSError):  # it can be used in any case
                    self._write(session, self._folder / session.name)
            return session

    def remove_session(self, session_id: str) -> None:
        """Also one that is damaged; nothing else, whatever the id."""
        if _ID.fullmatch(session_id):
            with self._lock:
                shutil.rmtree(self._folder / session_id, ignore_errors=True)

    def remove_expired(self) -> int:
        """Remove what is too old or damaged, and what a server that was killed had received by half; how many."""
        removed = 0
        with self._lock:
            for path in self._folders():
                if path.name.startswith(_STAGING):
                    with suppress(OSError):
                        if self._clock() - path.stat().st_mtime > MOST_SECONDS:
                            shutil.rmtree(path, ignore_errors=True)
                    continue
                session = self._read(path.name)
                if session is None or self._has_expired(session):
                    self.remove_session(path.name)
                    removed += 1
        return removed

    def _image(self, kept: Path, files: list[Path], *, uncompress: bool) -> Path:
        """The image among received files, moved to its place."""
        suffixes = [suffix_by_content(_head(path)) for path in files]
        if uncompress:
            if len(files) > 1:
                msg = f"{len(files)} files were sent with uncompress=true; send one archive"
                raise BadInputError(msg)
            unpack(files[0], kept / _SERIES, self.limits.of_files())
            return kept / _SERIES
        if set(suffixes) == {".dcm"}:
            (kept / _SERIES).mkdir()
            for number, path in enumerate(files, start=1):
                path.rename(kept / _SERIES / f"{number}.dcm")
            return kept / _SERIES
        if len(files) > 1:
            other = next(number for number, suffix in enumerate(suffixes, start=1) if suffix != ".dcm")
            msg = f"file {other} of {len(files)} that were sent is no DICOM file; send one image, or one DICOM series"
            raise BadInputError(msg)
        suffix = ".nrrd" if suffixes[0] == ".seg.nrrd" else suffixes[0]
        if suffix in {".zip", ".tar", ".tar.gz"}:
            msg = "the file sent is an archive; send it with uncompress=true"
            raise BadInputError(msg)
        if suffix is None:
            msg = "the file sent is neither NIfTI, NRRD nor DICOM by its content; export the image as one of those"
            raise BadInputError(msg)
        image = files[0].rename(kept / f"{_IMAGE}{suffix}")
        with named_in_errors(image, "the image sent"):
            read_grid(image, self.limits.of_files())
        return image

    def _make_room(self, size: int) -> None:
        """Let the longest unused sessions expire where there would be too many, or too large ones."""
        most = self.limits.sessions_mb * MEGABYTE
        if size > most:
            msg = f"the image sent has {size / MEGABYTE:,.0f} MB and sessions may have {most / MEGABYTE:,.0f} MB in all"
            raise BadInputError(f"{msg} (limits.sessions_mb)")
        self.remove_expired()
        sessions = [session for path in self._folders() if (session := self._read(path.name))]
        sessions.sort(key=lambda session: session.last_access_ts)
        total = size + sum(session.size for session in sessions)
        while sessions and (len(sessions) >= self.limits.sessions or total > most):
            oldest = sessions.pop(0)
            total -= oldest.size
            self.remove_session(oldest.name)

    def _folders(self) -> list[Path]:
        """Ours among whatever lies beside them."""
        with suppress(OSError):
            return [
                path
                for path in self._folder.iterdir()
                if (path.name.startswith(_STAGING) or _ID.fullmatch(path.name)) and _is_real(path)
            ]
        return []

    def _has_expired(self, session: Session) -> bool:
        return self._clock() > session.last_access_ts + session.expiry

    def _read(self, session_id: str) -> Session | None:
        if not _ID.fullmatch(session_id):
            return None
        folder = self._folder / session_id
        image = next((folder / name for name in _IMAGES if (folder / name).exists()), None)
        if not _is_real(folder) or image is None or image.is_symlink() or (folder / _META).is_symlink():
            return None
        try:
            content = json.loads((folder / _META).read_text(encoding="utf-8"))
            times = [int(content[name]) for name in ("create_ts", "last_access_ts", "expiry", "size")]
            owner = content["owner"]
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None
        if not (owner is None or isinstance(owner, str)):
            return None
        created, used, expiry, size = times
        return Session(session_id, str(image), owner, created, used, expiry, size)

    def _write(self, session: Session, folder: Path) -> None:
        content = session.to_json() | {"owner": session.owner, "size": session.size}
        with atomic_write(folder / _META, durable=False) as path:
            path.write_text(json.dumps(content), encoding="utf-8")


def _is_real(folder: Path) -> bool:
    return folder.is_dir() and not folder.is_symlink()


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)
