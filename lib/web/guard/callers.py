"""Who sent a request: found once, around MONAI Label's server, and read by whatever answers it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from lib.access.roles import Role

SCOPE_KEY = "liverloop.caller"
COOKIE = "liverloop_login"  # what a browser sends in place of the header `Authorization`


@dataclass(frozen=True)
class Caller:
    """Who asks.

    Args:
        name: of the user; None where nobody logs in.
        role: what the caller may do.
    """

    name: str | None
    role: Role


NOBODY = Caller(None, Role.ADMIN)  # where nobody logs in, everybody may do everything
ANYBODY = Caller(None, Role.ANNOTATOR)  # who asks for what needs no login; nothing that this one may do matters


class _Asked(Protocol):
    """What of Starlette's requests matters here."""

    @property
    def scope(self) -> Any: ...


def caller_of(request: _Asked) -> Caller:
    """Who sent this request; `NOBODY` where nothing around the server looked."""
    found = request.scope.get(SCOPE_KEY)
    return found if isinstance(found, Caller) else NOBODY


def token_of(headers: Mapping[str, str]) -> str | None:
    """The token that a request carries: of `Authorization: Bearer TOKEN`, else of the cookie; None without any.

    Args:
        headers: found by names in small letters, as Starlette's are.
    """
    scheme, _, token = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    # Other programs on this machine's name set cookies too, of any form; `http.cookies` stops at the first odd one.
    for part in headers.get("cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE and value:
            return value
    return None
