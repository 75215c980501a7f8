"""Which requests are being answered, how each ended, and that none is taken any more while the server is stopping."""

import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_App = Callable[[_Scope, _Receive, _Send], Awaitable[None]]

# Whoever watches the server asks for these, and goes on asking while it stops.
WATCHED = ("/healthz", "/readyz", "/metrics")
STOPPING = "the server is being stopped; ask again when it runs"
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
OTHER = "(other)"  # what no route of the server is for: names of those who ask would make figures without end


class Seen(Protocol):
    """Called when a request is over."""

    def __call__(self, method: str, route: str, status: int, seconds: float) -> None:
        """`route` is the template, such as /infer/{model}."""


class Traffic:
    """The requests of a server; safe to use from several threads.

    Args:
        seen: called when a request is over.
    """

    def __init__(self, seen: Seen) -> None:
        self.seen = seen
        self.is_closed = False
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._running: dict[int, _Scope] = {}

    def close(self) -> None:
        """Take no request any more, but for those of who watches the server."""
        self.is_closed = True

    def running(self) -> Counter[str]:
        """What is being answered, such as `{"POST /infer/{model}": 2}`, without what who watches the server asks."""
        with self._lock:
            scopes = list(self._running.values())
        return Counter(" ".join(named(scope)) for scope in scopes if scope["path"] not in WATCHED)

    def begin(self, scope: _Scope) -> int:
        """A request has come; returns its number."""
        number = next(self._numbers)
        with self._lock:
            self._running[number] = scope
        return number

    def end(self, number: int) -> None:
        """A request is over."""
        with self._lock:
            del self._running[number]


class TrafficMiddleware:
    """Tells `traffic` of every request."""

    def __init__(self, app: _App, traffic: Traffic) -> None:
        self._app, self._traffic = app, traffic

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, began = 500, time.perf_counter()

        async def noting_status(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        number = self._traffic.begin(scope)
        try:
            if self._traffic.is_closed and scope["path"] not in WATCHED:
                await _refuse(noting_status)
            else:
                await self._app(scope, receive, noting_status)
        finally:
            self._traffic.end(number)
            self._traffic.seen(*named(scope), status, time.perf_counter() - began)


def named(scope: _Scope) -> tuple[str, str]:
    """Method and route of a request."""
    method = scope["method"] if scope["method"] in METHODS else OTHER
    return method, getattr(scope.get("route"), "path", None) or OTHER


async def _refuse(send: _Send) -> None:
    body = json.dumps({"detail": STOPPING}).encode()
    headers = [(b"content-type", b"application/json"), (b"retry-after", b"30"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})
