"""The files in a multipart answer, written as they come: of a series only a few hundred kB are in memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import requests
from python_multipart.multipart import MultipartParser, parse_options_header

from lib.dicomweb.faults import InterruptedAnswerError, NoDicomwebError

_CHUNK = 1 << 18  # bytes


def save_parts(response: requests.Response, folder: Path) -> Iterator[Path]:
    """Write each part to a file of its own.

    Args:
        response: opened with `stream=True`; multipart/related, or a single object as some PACS send it.
        folder: where to write.

    Yields:
        A finished file, one part each.

    Raises:
        InterruptedAnswerError: the answer ended before its end.
        NoDicomwebError: it is neither multipart nor DICOM.
        MultipartParseError: it is damaged.
        OSError: the disk is full.
    """
    media_type, options = parse_options_header(response.headers.get("Content-Type", ""))
    chunks = _chunks(response)
    if media_type == b"application/dicom":
        path = folder / "part-0"
        with path.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
        yield path
        return
    if media_type != b"multipart/related" or b"boundary" not in options:
        raise NoDicomwebError(media_type.decode("latin-1") or "no content type")
    writer = _Writer(folder)
    parser = MultipartParser(
        options[b"boundary"],
        {
            "on_part_begin": writer.begin,
            "on_part_data": writer.data,
            "on_part_end": writer.end,
            "on_end": writer.finish,
        },
    )
    try:
        for chunk in chunks:
            parser.write(chunk)
            yield from writer.take()
    finally:
        writer.close()
    if not writer.finished:
        msg = "no closing boundary"
        raise InterruptedAnswerError(msg)


def _chunks(response: requests.Response) -> Iterator[bytes]:
    try:
        yield from response.iter_content(_CHUNK)
    except (requests.exceptions.ChunkedEncodingError, requests.ConnectionError) as error:
        msg = "the connection ended"
        raise InterruptedAnswerError(msg) from error


class _Writer:
    """What the parser tells, as files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        self._file: BinaryIO | None = None
        self._done: list[Path] = []
        self.finished = False

    def begin(self) -> None:
        self._file = (self._folder / f"part-{self._count}").open("wb")

    def data(self, data: bytes, start: int, end: int) -> None:
        assert self._file is not None
        self._file.write(memoryview(data)[start:end])

    def end(self) -> None:
        self.close()
        self._done.append(self._folder / f"part-{self._count}")
        self._count += 1

    def finish(self) -> None:
        self.finished = True

    def take(self) -> list[Path]:
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
