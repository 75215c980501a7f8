"""Who sent a request: the name that leases, versions and events are kept under."""

import re
from collections.abc import Mapping
from typing import Any

from lib.errors import BadInputError

_MOST = 120  # characters
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
# What 3D Slicer calls everybody who has not entered a name: two of these must not be taken for one.
_NOBODY = "user-xyz"
_ANONYMOUS = "anonymous"


def client_of(params: Mapping[str, Any], host: str | None) -> str:
    """The client's own name, with its address where it gives none that tells it from others.

    Args:
        params: of the request; `client_id` counts.
        host: the address that the request came from, None if that is not known.

    Raises:
        BadInputError: `client_id` is no text, too long or holds control characters.
    """
    name = params.get("client_id")
    name = _ANONYMOUS if name is None or name == "" else checked_client_id(name)
    return f"{name}@{host or 'unknown'}" if name in {_ANONYMOUS, _NOBODY} else name


def checked_client_id(name: Any) -> str:
    """A client's name as it may be kept.

    Raises:
        BadInputError: it is no text, too long or holds control characters.
    """
    if not isinstance(name, str) or len(name) > _MOST or _FORBIDDEN.search(name):
        msg = f"client_id = {str(name)[:80]!r} can't be used; expected at most {_MOST} characters, none of them control"
        raise BadInputError(msg)
    return name
