"""Names of users: what one may look like, and when two are the same.

A user's name becomes the author of labels and stands in the record of what happened, so that nobody may have one
that reads like somebody else's.
"""

import re
import unicodedata

from lib.errors import BadInputError

LONGEST = 64
# Who did what no user did, in the ledger.
RESERVED = frozenset({"administrator", "console", "folder", "nobody", "pacs", "server", "unknown"})

_PATTERN = re.compile(r"[^\W_](?:[\w.@-]*[^\W_])?")
# Japanese is written in three scripts at once.
_SAME_SCRIPT = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "KATAKANA-HIRAGANA": "CJK", "HALFWIDTH": "CJK"}


def user_name(text: str) -> str:
    """A name as it is kept: in Unicode's form NFKC.

    Letters of one script, digits, and `.`, `_`, `-`, `@` between them; at most 64 characters.

    Raises:
        BadInputError: it can't be a name; the message doesn't repeat it, as people type passwords into wrong fields.
    """
    name = _normal(text)
    if not name or len(name) > LONGEST or not _PATTERN.fullmatch(name) or not _letters_and_digits(name):
        msg = (
            f"a user's name has 1 to {LONGEST} letters and digits, with . _ - or @ between them; choose one such as "
            "ann or ann.lee@example.org"
        )
        raise BadInputError(msg)
    if len({_script(character) for character in name if character.isalpha()}) > 1:
        msg = "a user's name has letters of one script only, so that no two names look the same; choose another"
        raise BadInputError(msg)
    if name_key(name) in RESERVED:
        msg = f"the name {name!r} stands for what no user did; choose another"
        raise BadInputError(msg)
    return name


def name_key(text: str) -> str:
    """What two spellings of one name have in common: upper and lower case and Unicode's forms don't matter."""
    return _normal(_normal(text).casefold())


def _normal(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def _letters_and_digits(name: str) -> bool:
    """No numerals but 0 to 9, and no marks that could hide on a letter."""
    return all(character.isalpha() or character in "0123456789._-@" for character in name)


def _script(letter: str) -> str:
    """A letter's script, as the first word of its name; good enough to tell a Cyrillic a from a Latin one."""
    first = unicodedata.name(letter, "UNKNOWN").split()[0]
    return _SAME_SCRIPT.get(first, first)
