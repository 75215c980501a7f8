"""The application in front of MONAI Label's: who asks, whether they may, and what the request carries."""

import ipaddress
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar
from urllib.parse import parse_qs, parse_qsl, quote, urlsplit

from anyio import CapacityLimiter, move_on_after, to_thread
from starlette.datastructures import Headers

from lib.errors import BadInputError, ForbiddenError, LiverLoopError, LoginError, OverloadedError, frames_of
from lib.store.accounts import LoggedIn
from lib.web.answers import status_of
from lib.web.guard.answer import Answer
from lib.web.guard.bodies import CheckedBody, TooLargeError, WrongTypeError, single
from lib.web.guard.callers import ANYBODY, NOBODY, SCOPE_KEY, Caller, token_of
from lib.web.guard.carried import checked
from lib.web.guard.carried_queries import InAddress
from lib.web.guard.handed_out import HandedOut
from lib.web.guard.mistyped import true_type
from lib.web.guard.rows import Form, Row
from lib.web.guard.table import WrongMethodError, find
from lib.web.log import log_request
from lib.web.log_lines import UNFORESEEN
from lib.web.logins import Logins
from lib.web.request_ids import HEADER, new_request_id, request_id
from lib.web.traffic import METHODS, OTHER

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
_T = TypeVar("_T")

_SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
_LOOPBACK_NAMES = {"localhost", "127.0.0.1", "::1"}
_LONGEST_QUERY = 8192
_MOST_QUERY_VALUES = 50
_LONGEST_PAGE = 400  # characters of an address to come back to after the login
# What a refused client may still send before the connection is closed, so that it gets to read why.
_DRAINED_BYTES = 64 * 1024 * 1024
_DRAINED_S = 10.0
_LOOKUPS = 8  # of logins at once, apart from the threads in which requests are answered


class Seen(Protocol):
    """Called with each request that was refused here."""

    def __call__(self, method: str, route: str, status: int, seconds: float) -> None:
        """`route` is the template of its row."""


class Note(Protocol):
    """Called, in a thread, with what the ledger is to remember."""

    def __call__(self, kind: str, caller: Caller, address: str, detail: Mapping[str, str]) -> None:
        """`kind` is of the event, `detail` what stood in the address."""


@dataclass(frozen=True)
class Site:
    """What the guard must know of the server behind it.

    Args:
        logins: who may log in, and who has.
        hosts: names, beside those of loopback, under which a server without login is reached.
        origins: pages of other servers that may send requests, such as `https://viewer.example.org`.
        watchers: networks from which figures may be asked for without login.
        upload_bytes: the most that one request may carry.
        seen: see `Seen`.
        note: see `Note`.
        handed_out: images that were given to people who are logged in, see there.
    """

    logins: Logins
    hosts: frozenset[str]
    origins: frozenset[str]
    watchers: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]
    upload_bytes: int
    seen: Seen
    note: Note
    handed_out: HandedOut = field(default_factory=HandedOut)


class Guard:
    """Answers what is not allowed by itself, and hands on the rest.

    Args:
        app: MONAI Label's.
        site: gives what is known once `app` has started.
    """

    def __init__(self, app: App, site: Callable[[], Site]) -> None:
        self._app, self._get_site = app, site
        self._site: Site | None = None
        self._lookups: CapacityLimiter | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._site is None:
            self._site, self._lookups = self._get_site(), CapacityLimiter(_LOOKUPS)
        headers, began = Headers(scope=scope), time.perf_counter()
        identifier = new_request_id(headers.get(HEADER))
        request_id.set(identifier)
        answer = Answer(send, scope, identifier)
        caller, row, body = ANYBODY, None, None
        try:
            self._check_where_from(scope, headers)
            if _is_preflight(scope, headers):
                await self._app(scope, receive, answer.send)
                return
            row, values = find(scope["method"], scope["path"])
            caller = await self._caller(scope, headers, row)
            checked(InAddress, {name: value for name, value in values.items() if name != "path"}, "address")
            values |= _checked_query(scope, row)
            length = _length(headers)
            length = 0 if _has_none(scope) else length
            # A page of another server can't send the header without asking, as it can a type of its choice.
            if isinstance(row.body, Form) and row.body.finds_type and "authorization" in headers:
                kind, receive = await true_type(headers.get("content-type", ""), receive)
                scope["headers"] = _with_type(scope["headers"], kind)
                headers = Headers(scope=scope)
            body = CheckedBody(row, headers.get("content-type", ""), length, self._site.upload_bytes, receive)
            scope[SCOPE_KEY] = caller
            await self._app(scope, body.receive, answer.unless(body))
            if body.refusal is not None:
                raise body.refusal
            if row.noted and answer.status < 400:
                await self._note(scope, row, caller, values)
        except Exception as error:
            refusal = body.refusal if body is not None and body.refusal is not None else error
            if not isinstance(refusal, LiverLoopError):
                await _give_up(error, answer, identifier)
                return
            await self._refuse(scope, headers, refusal, answer, receive, body)
            if SCOPE_KEY not in scope:  # else the application has counted it
                method = scope["method"] if scope["method"] in METHODS else OTHER
                self._site.seen(method, row.path if row else OTHER, answer.status, time.perf_counter() - began)
        finally:
            route = row.path if row else OTHER
            log_request(scope["method"], route, answer.status, time.perf_counter() - began, caller.name)

    def _check_where_from(self, scope: Scope, headers: Headers) -> None:
        """That no other server's page sends requests in the name of whoever has it open."""
        assert self._site is not None
        host = headers.get("host", "")
        origin = headers.get("origin")
        if scope["method"] not in _SAFE_METHODS:
            is_own = origin is None or _is_page_of(host, origin) or origin in self._site.origins
            if not is_own or (origin is None and headers.get("sec-fetch-site") == "cross-site"):
                msg = (
                    f"a page of {origin or 'another server'} may not send this; a viewer on another server must be "
                    "named in MONAI_LABEL_CORS_ORIGINS"
                )
                raise ForbiddenError(msg)

    async def _caller(self, scope: Scope, headers: Headers, row: Row) -> Caller:
        """Who asks.

        Raises:
            LoginError: nobody that is known, where that matters.
            ForbiddenError: somebody who may not.
        """
        assert self._site is not None
        if row.role is None or (row.is_watched and self._is_watcher(scope, headers)):
            return ANYBODY
        logins, token = self._site.logins, token_of(headers)

        def look_up() -> LoggedIn | None:
            if not logins.needed():
                return None
            known = self._given_with(scope, headers) if token is None and _is_download(row) else token
            if known is None:
                msg = "log in first; if you just did, the name or the password was wrong"
                raise LoginError(msg)
            return logins.who(known)

        known = await self._in_thread(look_up)
        if known is None:
            self._check_host(headers)
            return NOBODY
        if known.role < row.role:
            msg = f"{known.name} is {known.role} here, and this needs {row.role}; ask an administrator"
            raise ForbiddenError(msg)
        return Caller(known.name, known.role)

    def _given_with(self, scope: Scope, headers: Headers) -> str | None:
        """The token of who was given the image that is asked for, at this address."""
        assert self._site is not None
        wanted = parse_qs(scope["query_string"].decode("latin-1")).get("image", [])
        if len(wanted) != 1:
            return None
        return self._site.handed_out.take(wanted[0], _address(scope), headers.get("host", ""))

    def _check_host(self, headers: Headers) -> None:
        """Where nobody logs in, a page could reach the server by giving its own name our address (DNS rebinding)."""
        if not self._is_own_name(headers):
            name = _name(headers)
            msg = f"this server is not reached as {name[:80]!r}; use 127.0.0.1, or name it in access.hosts"
            raise ForbiddenError(msg)

    def _is_own_name(self, headers: Headers) -> bool:
        assert self._site is not None
        return _name(headers) in _LOOPBACK_NAMES | self._site.hosts

    def _is_watcher(self, scope: Scope, headers: Headers) -> bool:
        assert self._site is not None
        try:
            address = ipaddress.ip_address(_address(scope))
        except ValueError:  # a socket without an address
            return False
        if address.is_loopback and not self._is_own_name(headers):  # a page in a browser of this machine, as above
            return False
        return any(address in network for network in self._site.watchers)

    async def _note(self, scope: Scope, row: Row, caller: Caller, values: Mapping[str, str]) -> None:
        assert self._site is not None
        note, address = self._site.note, _address(scope)
        try:
            await self._in_thread(lambda: note(row.noted, caller, address, values))
        except LiverLoopError as error:  # it is done, and the client has its answer
            logger.error("the ledger does not note %r of %s: %s", row.noted, caller.name or address, error)

    async def _in_thread(self, function: Callable[[], _T]) -> _T:
        return await to_thread.run_sync(function, limiter=self._lookups)

    async def _refuse(
        self,
        scope: Scope,
        headers: Headers,
        error: LiverLoopError,
        answer: Answer,
        receive: Receive,
        body: CheckedBody | None,
    ) -> None:
        if answer.has_begun:
            return
        if not _has_none(scope) and (body is None or not body.is_complete):
            await _drain(receive)
        if isinstance(error, LoginError) and _is_page(scope, headers):
            page = quote(scope["path"]) + ("?" + scope["query_string"].decode("latin-1")).rstrip("?")
            after = quote(page if len(page) <= _LONGEST_PAGE else quote(scope["path"])[:_LONGEST_PAGE], safe="")
            await answer.give(303, b"", [(b"location", f"/login?next={after}".encode())])
            return
        extra = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
        if isinstance(error, LoginError):
            extra.append((b"www-authenticate", b'Bearer realm="LiverLoop"'))
        if isinstance(error, OverloadedError):
            extra.append((b"retry-after", str(error.retry_after_s).encode()))
        if isinstance(error, WrongMethodError):
            extra.append((b"allow", ", ".join(error.allowed).encode()))
        await answer.give(_status_of(error), json.dumps({"detail": str(error)}).encode(), extra)


async def _give_up(error: Exception, answer: Answer, identifier: str) -> None:
    """An error that nobody foresaw: where it happened goes to the log, without its words, and an id to the client.

    An answer that broke off has no end, so that the server closes the connection and nobody takes it for whole.
    """
    if not getattr(error, "is_in_log", False):  # of the application, which apologized itself
        logger.error("%s: %s", UNFORESEEN, frames_of(error))
    if not answer.has_begun:
        content = {"detail": f"internal error; request ID {identifier}"}
        await answer.give(500, json.dumps(content).encode(), [(b"content-type", b"application/json")])


def _address(scope: Scope) -> str:
    """Where a request comes from; a proxy on this machine is trusted to tell."""
    return scope["client"][0] if scope.get("client") else "unknown"


def _name(headers: Headers) -> str:
    """Of the server, as the client calls it."""
    try:
        return urlsplit(f"//{headers.get('host', '')}").hostname or ""
    except ValueError:  # such as half an IPv6 address
        return ""


def _is_page_of(host: str, origin: str) -> bool:
    """Whether a browser has a page of this name from there."""
    try:
        return host != "" and urlsplit(origin).netloc == host
    except ValueError:
        return False


def _is_preflight(scope: Scope, headers: Headers) -> bool:
    """Whether a browser only asks what a page of another server may send; answered without looking at the path."""
    return scope["method"] == "OPTIONS" and "origin" in headers and "access-control-request-method" in headers


def _is_page(scope: Scope, headers: Headers) -> bool:
    """Whether somebody opens a page in a browser."""
    return scope["method"] == "GET" and "text/html" in headers.get("accept", "")


def _checked_query(scope: Scope, row: Row) -> dict[str, str]:
    """What stands after the question mark; empty where the endpoint checks that itself."""
    query = scope["query_string"]
    if len(query) > _LONGEST_QUERY:
        msg = f"the address has more than {_LONGEST_QUERY} characters after its question mark"
        raise BadInputError(msg)
    if row.query is None:
        return {}
    try:
        pairs = parse_qsl(
            query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MOST_QUERY_VALUES
        )
    except ValueError:
        msg = "what stands after the address's question mark can't be read; write it as name=value&name=value in UTF-8"
        raise BadInputError(msg) from None
    found = single(pairs, "address")
    checked(row.query, found, "address")
    return found


def _has_none(scope: Scope) -> bool:
    """Whether a body is never sent, whatever the headers say.

    MONAI Label's Python client repeats the length of the last body that it sent once it is logged in.
    """
    return scope["method"] in {"GET", "HEAD", "DELETE"}


def _with_type(headers: Iterable[tuple[bytes, bytes]], kind: str) -> list[tuple[bytes, bytes]]:
    kept = [(name, value) for name, value in headers if name != b"content-type"]
    return [*kept, (b"content-type", kind.encode("latin-1"))] if kind else kept


def _length(headers: Headers) -> int | None:
    """Bytes that the client says it will send; None where it does not say beforehand."""
    if "transfer-encoding" in headers:
        return None
    text = headers.get("content-length", "0")
    if not text.isdecimal():
        msg = f"Content-Length = {text[:40]!r} is no number"
        raise BadInputError(msg)
    return int(text)


async def _drain(receive: Receive) -> None:
    """Take what the client is still sending; one whose connection is closed meanwhile would never see the answer."""
    seen = 0
    with move_on_after(_DRAINED_S):
        while seen < _DRAINED_BYTES:
            message = await receive()
            seen += len(message.get("body", b""))
            if not message.get("more_body", False):  # all has come, or the client has gone
                return


def _status_of(error: LiverLoopError) -> int:
    if isinstance(error, TooLargeError):
        return 413
    if isinstance(error, WrongTypeError):
        return 415
    if isinstance(error, WrongMethodError):
        return 405
    return status_of(error)


def _is_download(row: Row) -> bool:
    return (row.method, row.path) == ("GET", "/datastore/image")
