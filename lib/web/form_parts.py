"""The parts of a `multipart/form-data` body as they come, by the very parser that the framework uses itself.

Two parsers that see different parts would be a hole.
"""

from collections.abc import Mapping
from typing import Protocol

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from lib.errors import BadInputError


class PartReader(Protocol):
    """Is told of each part in turn."""

    def begin(self, options: Mapping[bytes, bytes]) -> None:
        """A part begins; the options are those of its Content-Disposition, such as `name` and `filename`."""

    def add(self, data: bytes) -> None:
        """More of the part's content."""

    def end(self) -> None:
        """The part is complete."""


class FormParts:
    """Takes a body apart.

    Args:
        boundary: between parts.
        reader: is told of them; what it raises passes through `feed`.
    """

    def __init__(self, boundary: bytes, reader: PartReader) -> None:
        self._reader = reader
        self._has_ended = False
        self._header, self._value = bytearray(), bytearray()  # the parser limits both
        self._disposition = b""
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": lambda: reader.begin(parse_options_header(self._disposition)[1]),
                "on_part_data": lambda data, start, end: reader.add(data[start:end]),
                "on_part_end": reader.end,
                "on_end": self._end,
            },
        )

    def feed(self, chunk: bytes) -> None:
        """The next bytes of the body.

        Raises:
            BadInputError: damaged.
        """
        try:
            self._parser.write(chunk)
        except FormParserError:
            msg = "the form can't be read: it is no valid multipart/form-data"
            raise BadInputError(msg) from None

    def finish(self) -> None:
        """The body is complete.

        Raises:
            BadInputError: it is not.
        """
        if not self._has_ended:
            msg = "the form breaks off before its end; send it again"
            raise BadInputError(msg)

    def _begin_part(self) -> None:
        self._disposition = b""
        self._header.clear()
        self._value.clear()

    def _end_header(self) -> None:
        if bytes(self._header).lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _end(self) -> None:
        self._has_ended = True
