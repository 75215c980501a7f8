"""Passwords: which are allowed, and how they are kept and compared. Nothing here shows one in an error."""

import unicodedata
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from lib.access.names import name_key
from lib.access.turns import Turns
from lib.errors import BadInputError

SHORTEST, LONGEST = 12, 1024  # characters

# Argon2id as RFC 9106 recommends where memory is scarce: 64 MiB, some tenths of a second of one core.
_HASHER = PasswordHasher()
# Each takes those 64 MiB; more wait, so that logins can't fill the memory.
_turns = Turns(at_once=2, waiting=20)


def check_password(password: str, name: str) -> None:
    """Refuse a password that is easily guessed or that no form will take.

    Args:
        password: the new password.
        name: of its user; it doesn't count towards the length.

    Raises:
        BadInputError: too short, too long, or not text.
    """
    try:
        text = _prepared(password).decode()
    except UnicodeEncodeError:
        msg = "the password holds something that is no text; choose another"
        raise BadInputError(msg) from None
    if len(text) > LONGEST:
        msg = f"the password has more than {LONGEST} characters; choose a shorter one"
        raise BadInputError(msg)
    if len(text) < SHORTEST:
        msg = f"the password has fewer than {SHORTEST} characters; choose a longer one, such as four words"
        raise BadInputError(msg)
    if len(name_key(text).replace(name_key(name), "")) < SHORTEST:
        msg = f"the password has fewer than {SHORTEST} characters besides the user's own name; choose another"
        raise BadInputError(msg)


def hashed(password: str) -> str:
    """What is kept of a password: an argon2id hash with its own salt and parameters.

    Raises:
        TooManyLoginsError: too many are hashed at once.
    """
    with _turns.turn():
        return _HASHER.hash(_prepared(password))


def is_right(password: str, kept: str | None) -> bool:
    """Whether this is the password that was hashed.

    It takes as long for a user who doesn't exist.

    Args:
        password: what somebody typed.
        kept: the hash; None where there is no such user.

    Raises:
        TooManyLoginsError: too many are compared at once.
    """
    try:
        given = _prepared(password) if len(password) <= LONGEST else None
    except UnicodeEncodeError:
        given = None
    with _turns.turn():
        nobodys = _nobodys()  # before anything else, so that making it tells nothing either
        try:
            right = _HASHER.verify(nobodys if kept is None else kept, given or b"")
        except (VerificationError, InvalidHashError):
            return False
    return right and kept is not None and given is not None


def is_outdated(kept: str) -> bool:
    """Whether a hash was made with parameters that are no longer ours, and is to be made again."""
    return _HASHER.check_needs_rehash(kept)


def _prepared(password: str) -> bytes:
    # The same on every keyboard: macOS sends an umlaut as two characters. RFC 8265 has this form.
    return unicodedata.normalize("NFC", password).encode()


@cache
def _nobodys() -> str:
    return _HASHER.hash(b"the password of a user who does not exist")
