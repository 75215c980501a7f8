"""How the ledger notes what happens to accounts."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from lib.store.events import record

_LONGEST_ADDRESS = 100  # characters; an IPv6 address has 45


def note(
    connection: Connection, kind: str, user: str | None, by: str, address: str, more: Mapping[str, Any] | None = None
) -> None:
    """Events of accounts all have `user` (None: nobody's name) and `from` in their detail."""
    record(connection, kind, actor=by, detail={"user": user, "from": plain(address), **(more or {})})


def plain(address: str) -> str:
    """What every database can keep, whatever a proxy's header holds."""
    return "".join(character for character in address[:_LONGEST_ADDRESS] if character.isprintable())
