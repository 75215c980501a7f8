"""The way back to the client, on which every answer gets its headers."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from lib.web.guard.bodies import CheckedBody
from lib.web.guard.headers import security_headers
from lib.web.request_ids import HEADER

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]


class Answer:
    """One answer.

    Args:
        send: the server's.
        scope: of the request.
        identifier: of the request.
    """

    def __init__(self, send: Send, scope: MutableMapping[str, Any], identifier: str) -> None:
        self._send, self._scope, self._identifier = send, scope, identifier
        self.status = 500  # what the server says if nothing is sent
        self.has_begun = False

    async def send(self, message: Message) -> None:
        """Send a part of an answer."""
        if message["type"] == "http.response.start":
            self.has_begun, self.status = True, message["status"]
            headers = list(message.get("headers", []))
            present = {name.decode("latin-1").lower() for name, _ in headers}
            headers += security_headers(self._scope["path"], self._scope["scheme"] == "https", present)
            headers.append((HEADER.lower().encode(), self._identifier.encode()))
            message = {**message, "headers": headers}
        await self._send(message)

    def unless(self, body: CheckedBody) -> Send:
        """A way for the endpoint's answer, which is dropped where the body turned out not to be allowed."""

        async def send(message: Message) -> None:
            if body.refusal is None:
                await self.send(message)

        return send

    async def give(self, status: int, content: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        """Send a whole answer."""
        length = (b"content-length", str(len(content)).encode())
        await self.send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
        await self.send({"type": "http.response.body", "body": content if self._scope["method"] != "HEAD" else b""})
