"""Files of a form that go to the disk as they come, whatever their number and size, within limits.

The framework would keep up to a megabyte of each in memory, and as many files open as there are.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from python_multipart.multipart import parse_options_header

from lib.errors import BadInputError
from lib.files import write_error
from lib.limits import MEGABYTE
from lib.web.form_parts import FormParts

_MOST_OF_FIELDS = 65_536  # bytes of everything that is no file; it is not looked at


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
        self._bytes, self._fields = 0, 0
        self._file: BinaryIO | None = None
        self._parts = FormParts(options[b"boundary"], self)

    def feed(self, chunk: bytes) -> None:
        """The next bytes of the body.

        Raises:
            BadInputError: damaged, too many files or too much.
            StorageError: the disk refused.
        """
        try:
            self._parts.feed(chunk)
        except BadInputError:
            raise
        except OSError as error:
            raise write_error(self._folder, error) from error

    def finish(self) -> list[Path]:
        """The files in the order they were sent, once the body is complete.

        Raises:
            BadInputError: it is not, or there are none.
        """
        self._parts.finish()
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

    def begin(self, options: Mapping[bytes, bytes]) -> None:
        """See `PartReader`."""
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

    def add(self, data: bytes) -> None:
        """See `PartReader`."""
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

    def end(self) -> None:
        """See `PartReader`."""
        self.close()
