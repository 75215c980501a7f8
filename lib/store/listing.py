"""Names in the studies folder: which count, which suffix is preferred, and how they are compared with sorted rows."""

import os
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import TypeVar

from lib.errors import BadInputError, UnavailableError
from lib.store.door import checked_identifier
from lib.store.layout import STORED
from lib.volume_io import LABEL_SUFFIXES

_Found = TypeVar("_Found")
_Known = TypeVar("_Known")


def visible(folder: Path) -> Iterator[str]:
    """Names in a folder but for hidden ones, which macOS leaves beside files and we write to; none if it is missing.

    Raises:
        UnavailableError: it can't be read, which doesn't mean that it is empty.
    """
    try:
        with os.scandir(folder) as entries:
            yield from (entry.name for entry in entries if not entry.name.startswith("."))
    except FileNotFoundError:
        return
    except OSError as error:
        msg = f"the folder {folder} can't be read: {error.strerror}; check its permissions and that its disk is there"
        raise UnavailableError(msg) from error


def split_name(name: str) -> tuple[str, str] | None:
    """File name without suffix, and its image or label suffix as it is written; None where it is of another kind."""
    lower = name.lower()
    for suffix in LABEL_SUFFIXES:
        if lower.endswith(suffix):
            return name[: -len(suffix)], sys.intern(name[-len(suffix) :])
    return None


def named_files(folder: Path, suffixes: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Names in a folder without suffix, by code point, each with its suffixes, the preferred one first.

    Raises:
        UnavailableError: the folder can't be read.
    """
    pairs = [pair for name in visible(folder) if (pair := split_name(name)) and pair[1].lower() in suffixes]
    pairs.sort()
    for name, group in groupby(pairs, key=itemgetter(0)):
        yield name, by_preference([suffix for _, suffix in group])


def by_preference(suffixes: Collection[str]) -> list[str]:
    """Suffixes of one name: the format we write, then the others by name."""
    if len(suffixes) == 1:
        return list(suffixes)
    return sorted(suffixes, key=lambda suffix: (suffix.lower() != STORED, suffix.lower(), suffix.swapcase()))


def unfit_name(name: str, what: str) -> str | None:
    """Why the ledger can't hold a file's name, None if it can."""
    try:
        name.encode()
        checked_identifier(name, what)
    except UnicodeEncodeError:
        return "its name is not UTF-8; rename it"
    except BadInputError as error:
        return str(error)
    return None


def printable(name: str) -> str:
    """A file's name with what is not UTF-8 in it escaped."""
    return name.encode(errors="backslashreplace").decode()


def side_by_side(
    found: Iterable[tuple[str, _Found]], known: Iterable[tuple[str, _Known]]
) -> Iterator[tuple[str, _Found | None, _Known | None]]:
    """Merge two streams that are sorted by name: name, what was found, what is known."""
    left, right = iter(found), iter(known)
    first, second = next(left, None), next(right, None)
    while first is not None or second is not None:
        if first is not None and (second is None or first[0] < second[0]):
            yield first[0], first[1], None
            first = next(left, None)
        elif second is not None and (first is None or second[0] < first[0]):
            yield second[0], None, second[1]
            second = next(right, None)
        elif first is not None and second is not None:
            yield first[0], first[1], second[1]
            first, second = next(left, None), next(right, None)


def chunks(entries: Iterable[_Found], length: int) -> Iterator[list[_Found]]:
    """Lists of so many, the last one shorter."""
    iterator = iter(entries)
    while chunk := list(islice(iterator, length)):
        yield chunk
