"""One id for each request, in the log and in the answer, so that a person can quote what an engineer looks for."""

import re
import secrets
from contextvars import ContextVar

HEADER = "X-Request-ID"
NONE = "-"  # outside of any request
_BYTES = 8
_GIVEN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

request_id: ContextVar[str] = ContextVar("request_id", default=NONE)


def new_request_id(given: str | None) -> str:
    """The id that a proxy in front of the server has given a request, or a new one.

    Args:
        given: what stands in `X-Request-ID`; None: nothing. It counts if it has at most 64 letters, digits, dots,
            hyphens and underscores and begins with a letter or a digit: it goes into the log.

    Example:
        >>> new_request_id("edge-7f.3")
        'edge-7f.3'
        >>> len(new_request_id("a b"))
        16
    """
    if given is not None and _GIVEN.fullmatch(given):
        return given
    return secrets.token_hex(_BYTES)
