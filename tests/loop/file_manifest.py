"""Everything below a folder, to tell afterwards what was made, changed or removed."""

import hashlib
import os
import stat
from pathlib import Path
from typing import NamedTuple

_HASHED = 1 << 20  # bytes; larger files are told apart by size and time


class Entry(NamedTuple):
    """What is remembered of a file, link or folder."""

    kind: int
    size: int
    mtime_ns: int
    content: str


Manifest = dict[str, Entry]


def manifest_of(root: Path) -> Manifest:
    """Every file, link and folder by its path below `root`; links are not followed."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder, name)
            try:
                found[str(path.relative_to(root))] = _entry(path)
            except FileNotFoundError:  # a temporary file that has just gone
                continue
    return found


def touched(before: Manifest, after: Manifest) -> dict[str, str]:
    """What became of each path: made, changed or removed."""
    made = dict.fromkeys(after.keys() - before.keys(), "made")
    removed = dict.fromkeys(before.keys() - after.keys(), "removed")
    changed = {path: "changed" for path in before.keys() & after.keys() if before[path] != after[path]}
    return dict(sorted((made | removed | changed).items()))


def _entry(path: Path) -> Entry:
    state = path.lstat()
    kind = stat.S_IFMT(state.st_mode)
    if stat.S_ISDIR(state.st_mode):
        return Entry(kind, 0, 0, "")  # a folder's time changes with each temporary file in it
    content = ""
    if stat.S_ISLNK(state.st_mode):
        content = os.readlink(path)
    elif state.st_size <= _HASHED and stat.S_ISREG(state.st_mode):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
    return Entry(kind, state.st_size, state.st_mtime_ns, content)
