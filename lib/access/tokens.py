"""Bearer tokens of our own: random, and kept only as a hash, so that no copy of the ledger logs anyone in."""

import hashlib
import re
import secrets

# Told apart at sight from other secrets, by people and by programs that look for secrets in logs.
_PREFIX = "liverloop_"
_BYTES = 32
_FORM = re.compile(_PREFIX + r"[A-Za-z0-9_-]{43}", re.ASCII)


def new_token() -> str:
    """A token that nobody can guess: 256 random bits."""
    return _PREFIX + secrets.token_urlsafe(_BYTES)


def is_token(text: str) -> bool:
    """Whether a text has the form of our tokens; others may be an identity provider's."""
    return _FORM.fullmatch(text) is not None


def digest(token: str) -> str:
    """What is kept of a token: its SHA-256 in hexadecimal.

    One round without salt is enough for 256 random bits, and lets an index find it.
    """
    return hashlib.sha256(token.encode()).hexdigest()


def is_valid(now: float, expires_at: float, revoked_at: float | None) -> bool:
    """Whether a token still counts.

    Args:
        now: seconds since the epoch, as the others.
        expires_at: from then on it does not count.
        revoked_at: when it was revoked; None: never.
    """
    return revoked_at is None and now < expires_at
