"""Who sent a request: the name that leases, versions and events are kept under."""

import re
from collections.abc import Mapping
from typing import Any, Protocol

from lib.errors import BadInputError
from lib.web.guard.callers import caller_of

_MOST = 120  # characters
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
# What 3D Slicer calls everybody who has not entered a name: two of these must not be taken for one.
_NOBODY = "user-xyz"
_ANONYMOUS = "anonymous"


class _Asked(Protocol):
    """What of Starlette's requests matters here."""

    @property
    def scope(self) -> Any: ...

    @property
    def client(self) -> Any: ...


def client_of(params: Mapping[str, Any], request: _Asked) -> str:
    """Who is logged in; without a login the client's own name, with its address where that tells it from no others.

    Args:
        params: of the request; `client_id` counts where nobody logs in.
        request: what was sent, for its caller and address.

    Raises:
        BadInputError: `client_id` is no text, too long or holds control characters.
    """
    caller = caller_of(request)
    if caller.name is not None:
        return caller.name
    name = params.get("client_id")
    name = _ANONYMOUS if name is None or name == "" else checked_client_id(name)
    return f"{name}@{address_of(request)}" if name in {_ANONYMOUS, _NOBODY} else name


def checked_client_id(name: Any) -> str:
    """A client's name as it may be kept.

    Raises:
        BadInputError: it is no text, too long or holds control characters.
    """
    if not isinstance(name, str) or len(name) > _MOST or _FORBIDDEN.search(name):
        msg = f"client_id = {str(name)[:80]!r} can't be used; expected at most {_MOST} characters, none of them control"
        raise BadInputError(msg)
    return name


def address_of(request: _Asked) -> str:
    """Where a request came from; `"unknown"` if nobody knows."""
    return request.client.host if request.client else "unknown"
