"""A request's body is checked while it streams through to the endpoint, which begins only when all of it was right.

Nothing is kept but small fields and the first bytes of each file: what a file is, is seen there, not in its name.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Protocol
from urllib.parse import parse_qsl

from python_multipart.multipart import parse_options_header

from lib.errors import BadInputError
from lib.limits import MEGABYTE
from lib.uploads import HEAD_BYTES, kind_of
from lib.web.form_parts import FormParts
from lib.web.guard.carried import checked
from lib.web.guard.rows import Form, Json, Passed, Row

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

_JSON = "application/json"
_URLENCODED = "application/x-www-form-urlencoded"
_MULTIPART = "multipart/form-data"
_MOST_FIELDS = 50


class TooLargeError(BadInputError):
    """More was sent than the server takes."""


class WrongTypeError(BadInputError):
    """The body is of another media type than its kind of request has."""


class _Check(Protocol):
    def feed(self, chunk: bytes) -> None:
        """The next bytes of the body. Raises BadInputError."""

    def finish(self) -> None:
        """The body is complete. Raises BadInputError."""


class CheckedBody:
    """Hands on what a client sends, and stops at the first thing that is not allowed.

    Args:
        row: of the request.
        content_type: of the request, empty if it has none.
        length: bytes that the client says it will send; None: it does not say.
        most_bytes: of a request with files.
        receive: the server's.

    Raises:
        BadInputError: type or length alone can't be right.
    """

    def __init__(self, row: Row, content_type: str, length: int | None, most_bytes: int, receive: Receive) -> None:
        body = row.body
        self._receive = receive
        self.refusal: BadInputError | None = None
        self.is_complete = False
        self._seen = 0
        self._is_upload = isinstance(body, Passed | Form) and _has_files(body)
        self._most = most_bytes if self._is_upload else _most_of(body)
        # Where nothing may come, only what comes counts: MONAI Label's client, once logged in, sends the length of its
        # last body with every request, and then no body.
        if body is not None and length is not None and length > self._most:
            raise self._too_large()
        self._check: _Check = _Nothing() if not length and length is not None else _check_for(body, content_type)

    async def receive(self) -> MutableMapping[str, Any]:
        """The next message for the endpoint.

        Raises:
            BadInputError: what came is not allowed; kept in `refusal`, since frameworks replace it by words of theirs.
        """
        message = await self._receive()
        if message["type"] != "http.request" or self.is_complete:
            return message
        chunk = message.get("body", b"")
        self.is_complete = not message.get("more_body", False)
        try:
            self._seen += len(chunk)
            if self._seen > self._most:
                raise self._too_large()
            if chunk:
                self._check.feed(chunk)
            if self.is_complete:
                self._check.finish()
        except BadInputError as error:
            self.refusal = error
            raise
        return message

    def _too_large(self) -> TooLargeError:
        shown = f"{self._most // MEGABYTE} MB" if self._most >= MEGABYTE else f"{self._most} bytes"
        setting = " (limits.upload_mb)" if self._is_upload else ""
        return TooLargeError(f"the request is larger than {shown}, the most that is taken here{setting}")


def _has_files(body: Form | Passed) -> bool:
    return isinstance(body, Passed) or bool(body.files)


def _most_of(body: Json | Form | Passed | None) -> int:
    return body.most_bytes if isinstance(body, Json | Form) else 0


def _check_for(body: Json | Form | Passed | None, content_type: str) -> _Check:
    if body is None or isinstance(body, Passed):
        return _Nothing()
    kind, options = parse_options_header(content_type)
    media = kind.decode("latin-1").lower()
    charset = options.get(b"charset", b"utf-8").lower()
    allowed = (_JSON,) if isinstance(body, Json) else (_MULTIPART, _URLENCODED)
    if media not in allowed or charset not in {b"utf-8", b"utf8"}:
        msg = f"the request's Content-Type is {content_type[:80]!r}; send {' or '.join(allowed)} in UTF-8"
        raise WrongTypeError(msg)
    if isinstance(body, Json):
        return _JsonCheck(body)
    if media == _URLENCODED:
        return _UrlencodedCheck(body)
    boundary = options.get(b"boundary", b"")
    if not boundary:
        msg = "the request's Content-Type names no boundary; send multipart/form-data as HTML forms do"
        raise WrongTypeError(msg)
    return _MultipartCheck(body, boundary)


class _Nothing:
    """The row's limit of bytes says all."""

    def feed(self, chunk: bytes) -> None:
        pass

    def finish(self) -> None:
        pass


class _JsonCheck:
    def __init__(self, body: Json) -> None:
        self._model, self._content = body.model, bytearray()

    def feed(self, chunk: bytes) -> None:
        self._content += chunk

    def finish(self) -> None:
        if not self._content:
            return
        try:
            content = json.loads(self._content)
        except (ValueError, RecursionError):
            msg = "the request's body is not valid JSON"
            raise BadInputError(msg) from None
        if content is not None:
            checked(self._model, content, "params")


class _UrlencodedCheck:
    def __init__(self, body: Form) -> None:
        self._body, self._content = body, bytearray()

    def feed(self, chunk: bytes) -> None:
        self._content += chunk
        if len(self._content) > self._body.most_bytes:
            raise _field_too_large(self._body)

    def finish(self) -> None:
        try:
            # Anything else is encoded in such forms; the framework would take it for Latin-1, which is another text.
            pairs = parse_qsl(
                self._content.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS
            )
        except ValueError:
            msg = f"the form can't be read; it holds more than {_MOST_FIELDS} fields, or is not in UTF-8, encoded"
            raise BadInputError(msg) from None
        checked(self._body.fields, single(pairs, "form"), "form")


class _MultipartCheck:
    def __init__(self, body: Form, boundary: bytes) -> None:
        self._body = body
        self._parts = FormParts(boundary, self)
        self._fields: list[tuple[str, str]] = []
        self._files = 0
        self._name = ""
        self._is_file = False
        self._is_named = False
        self._content = bytearray()  # of a field all, of a file the first bytes

    def feed(self, chunk: bytes) -> None:
        self._parts.feed(chunk)

    def finish(self) -> None:
        self._parts.finish()
        checked(self._body.fields, single(self._fields, "form"), "form")

    def begin(self, options: Mapping[bytes, bytes]) -> None:
        if len(self._fields) + self._files >= _MOST_FIELDS + self._body.most_files:
            msg = f"the form has more than {_MOST_FIELDS + self._body.most_files} parts"
            raise BadInputError(msg)
        self._content.clear()
        try:
            self._name = options[b"name"].decode()
        except (KeyError, UnicodeDecodeError):
            msg = "a part of the form has no name, or one that is not in UTF-8"
            raise BadInputError(msg) from None
        self._is_file = b"filename" in options
        self._is_named = bool(options.get(b"filename"))
        if self._is_file:
            self._begin_file()

    def _begin_file(self) -> None:
        if self._name not in self._body.files:
            expected = f"expected {', '.join(self._body.files)}" if self._body.files else "none is taken here"
            msg = f"the form has a file {self._name[:80]!r}; {expected}"
            raise BadInputError(msg)
        self._files += 1
        if self._files > self._body.most_files:
            msg = f"the form has more than {self._body.most_files} file{'s' if self._body.most_files > 1 else ''}"
            raise BadInputError(msg)

    def add(self, data: bytes) -> None:
        if not self._is_file:
            self._content += data
            if len(self._content) > self._body.most_bytes:
                raise _field_too_large(self._body)
        elif len(self._content) < HEAD_BYTES:
            self._content += data[: HEAD_BYTES - len(self._content)]
            if len(self._content) == HEAD_BYTES:
                self._check_kind()

    def end(self) -> None:
        if self._is_file:
            if len(self._content) < HEAD_BYTES and (self._content or self._is_named):
                self._check_kind()
            return
        try:
            self._fields.append((self._name, self._content.decode()))
        except UnicodeDecodeError:
            msg = f"the form's {self._name[:80]!r} is not in UTF-8"
            raise BadInputError(msg) from None

    def _check_kind(self) -> None:
        allowed = self._body.files[self._name]
        kind = kind_of(bytes(self._content))
        if kind not in allowed:
            found = (
                "is empty" if not self._content else f"is {kind.value}" if kind else "is of no kind that is known here"
            )
            msg = f"the file sent as {self._name!r} {found}; send {' or '.join(sorted(one.value for one in allowed))}"
            raise BadInputError(msg)


def _field_too_large(body: Form) -> TooLargeError:
    return TooLargeError(f"a field of the form has more than {body.most_bytes} bytes")


def single(pairs: list[tuple[str, str]], what: str) -> dict[str, str]:
    """Names and values as a mapping.

    Raises:
        BadInputError: a name comes twice, of which two readers may take different ones.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, _ in pairs if sum(name == other for other, _ in pairs) > 1)
        msg = f"the {what} has {twice[:80]!r} more than once; send it once"
        raise BadInputError(msg)
    return found
