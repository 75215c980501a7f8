"""Forms that come under the type of the request before.

MONAI Label's Python client keeps the headers of each request for the next one once it is logged in: its
`create_session` sends a form as `application/json`, or with the boundary of another form.
"""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

# The first line of a form, of which RFC 2046 (5.1.1) allows these; the client's are hexadecimal.
_FIRST_LINE = re.compile(rb"--([0-9A-Za-z'()+_,./:=?-]{1,70})\r\n")
_LONGEST = 2 + 70 + 2  # bytes


async def true_type(given: str, receive: Receive) -> tuple[str, Receive]:
    """What the body of a request for a form is, and the way to all of it.

    Args:
        given: the Content-Type that the client sent.
        receive: the server's; its first messages are waited for and kept.

    Returns:
        `given`, or where the body begins as a form does, a Content-Type with the boundary that stands there.
    """
    kept: list[Message] = []
    begin = b""
    while len(begin) < _LONGEST:
        message = await receive()
        kept.append(message)
        begin += message.get("body", b"")
        if message["type"] != "http.request" or not message.get("more_body", False):
            break
    found = _FIRST_LINE.match(begin)

    async def again() -> Message:
        return kept.pop(0) if kept else await receive()

    return (f'multipart/form-data; boundary="{found[1].decode()}"' if found else given), again
