"""Gzip unpacked into the memory where it stays, by all cores where that is sooner than by one."""

import io
import os
from pathlib import Path
from typing import Any, BinaryIO

import rapidgzip
from isal import igzip, igzip_threaded

from lib.cores import available_cores
from lib.files import read_into

_LEAST_FOR_A_THREAD = 8_000_000  # unpacked bytes; the buffers of a thread that unpacks ahead take as much
_LEAST_FOR_MANY = 16_000_000  # bytes that several threads unpack sooner than one: four of their pieces
_MOST_THREADS = 16  # a CT of 60 MB has no more pieces than that


def unpack_into(memory: memoryview, path: Path, start: int = 0, skip: int = 0) -> int:
    """Fill memory with what a gzip stream holds; no more than that is unpacked.

    Args:
        memory: bytes.
        path: the file.
        start: where in the file the stream begins, in bytes.
        skip: bytes of the unpacked content that come before what is wanted.

    Returns:
        How many bytes there were, fewer than `memory` holds where the stream ends before.

    Raises:
        OSError, EOFError, isal's and zlib's errors: not gzip, or damaged.
    """
    with path.open("rb") as file:
        # rapidgzip's threads read a file by its name all at once, one that Python has opened in turn.
        source = _Rest(file, start) if start else str(path)
        if _by_many_threads(memory, source, path.stat().st_size - start, skip):
            return len(memory)
        file.seek(start)
        # isal unpacks three times as fast as zlib.
        ahead = len(memory) >= _LEAST_FOR_A_THREAD
        opened: Any = igzip_threaded.open(file, "rb", threads=1) if ahead else igzip.open(file, "rb")
        with opened as unpacked:
            return _fill(memory, unpacked, skip)


def _by_many_threads(memory: memoryview, source: "str | _Rest", size: int, skip: int) -> bool:
    """Unpack a stream of `size` bytes with all cores; False where that is not worth it or fails.

    A damaged file is left to the usual way, whose errors tell what is wrong with it.
    """
    threads = min(_MOST_THREADS, available_cores())
    if threads == 1 or size < _LEAST_FOR_MANY:
        return False
    try:
        with rapidgzip.RapidgzipFile(source, threads) as unpacked:
            return _fill(memory, unpacked, skip) == len(memory)
    except Exception:  # errors of C++ come as whatever type is next to them
        return False


def _fill(memory: memoryview, file: Any, skip: int) -> int:
    """Read into `memory` what comes after `skip` bytes; how many bytes that were."""
    return read_into(memory, file) if len(file.read(skip)) == skip else 0


class _Rest(io.RawIOBase):
    """What a file holds from some byte on, as a file of its own.

    Args:
        file: open for reading.
        start: of the rest, in bytes.
    """

    def __init__(self, file: BinaryIO, start: int) -> None:
        self._file, self._start = file, start
        file.seek(start)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset + (self._start if whence == os.SEEK_SET else 0), whence) - self._start

    def tell(self) -> int:
        return self._file.tell() - self._start

    def readinto(self, buffer: Any) -> int:
        count: int = self._file.readinto(buffer)  # type: ignore[attr-defined]
        return count

    def write(self, _: Any) -> int:  # rapidgzip looks whether there is such a method
        raise io.UnsupportedOperation
