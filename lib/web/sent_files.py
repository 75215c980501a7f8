"""Files of a form that go to the disk as they come, whatever their number and size, within limits.

The framework would keep up to a megabyte of each in memory, and as many files open as there are.
"""

from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from lib.errors import BadInputError
from lib.files import write_error
from lib.limits import MEGABYTE

_MOST_OF_FIELDS = 65_536  # bytes of everything that is no file; it is not looked at
_LONGEST_HEADER = 4096


class SentFiles:
    """The files named `files` in a `multipart/form-data` body, under numbers for names; the names sent are not used.

    Args:
        folder: where they go, empty.
        content_type: of the request.
        most_files: more are refused.
        most_bytes: of all together.

    Raises:
        BadInputError: no such form.
    """

    def __init__(self, folder: Path, content_type: str, most_files: int, most_bytes: int) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            msg = "the request holds no files; send them as multipart/form-data, each named 'files'"
            raise BadInputError(msg)
        self.paths: list[Path] = []
        self._folder, self._most_files, self._most_bytes = folder, most_files, most_bytes
        self._bytes, self._fields, self._has_ended = 0, 0, False
        self._header, self._value, self._disposition = bytearray(), bytearray(), b""
        self._file: BinaryIO | None = None
        self._parser = MultipartParser(
            options[b"boundary"],
            {
                "on_part_begin": self._begin_part,
                "on_header_field": lambda data, start, end: self._add(self._header, data[start:end]),
                "on_header_value": lambda data, start, end: self._add(self._value, data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._begin_content,
                "on_part_data": lambda data, start, end: self._add_content(data[start:end]),
                "on_part_end": self.close,
                "on_end": self._end,
            },
        )

    def feed(self, chunk: bytes) -> None:
        """The next bytes of the body.

        Raises:
            BadInputError: damaged, too many files or too much.
            StorageError: the disk refused.
        """
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            msg = "the form can't be read: it is no valid multipart/form-data"
            raise BadInputError(msg) from error
        except OSError as error:
            if isinstance(error, BadInputError):
                raise
            raise write_error(self._folder, error) from error

    def finish(self) -> list[Path]:
        """The files in the order they were sent, once the body is complete.

        Raises:
            BadInputError: it is not, or there are none.
        """
        if not self._has_ended:
            msg = "the form breaks off before its end; send it again"
            raise BadInputError(msg)
        if not self.paths:
            msg = "the form holds no file named 'files'; send the image, or the DICOM files of one series"
            raise BadInputError(msg)
        return self.paths

    def close(self) -> None:
        """Also where the client has gone."""
        if self._file is not None:
            file, self._file = self._file, None
            try:
                file.flush()
            finally:
                with suppress(OSError):  # told by then
                    file.close()

    def _begin_part(self) -> None:
        self._disposition = b""

    def _add(self, part: bytearray, data: bytes) -> None:
        part += data
        if len(part) > _LONGEST_HEADER:
            msg = f"a part of the form has a header of more than {_LONGEST_HEADER} bytes"
            raise BadInputError(msg)

    def _end_header(self) -> None:
        if bytes(self._header).lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _begin_content(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"filename" not in options:
            return
        if options.get(b"name") != b"files":
            msg = "the form holds a file that is not named 'files'"
            raise BadInputError(msg)
        if len(self.paths) >= self._most_files:
            msg = f"more than {self._most_files:,} files were sent (limits.archive_files); send one series"
            raise BadInputError(msg)
        path = self._folder / f"{len(self.paths) + 1}"
        self._file = path.open("xb")
        self.paths.append(path)

    def _add_content(self, data: bytes) -> None:
        if self._file is None:
            self._fields += len(data)
            if self._fields > _MOST_OF_FIELDS:
                msg = f"the form's fields have more than {_MOST_OF_FIELDS:,} bytes"
                raise BadInputError(msg)
            return
        self._bytes += len(data)
        if self._bytes > self._most_bytes:
            most = f"{self._most_bytes / MEGABYTE:,.0f} MB"
            msg = f"the files sent have more than {most} (limits.upload_mb); send one series, or compress it"
            raise BadInputError(msg)
        self._file.write(data)

    def _end(self) -> None:
        self._has_ended = True
