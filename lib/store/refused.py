"""Files that are kept aside in `labels/refused/<image>/`, each with its reason in a JSON file beside it."""

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lib.files import atomic_write, sync_folder
from lib.store.layout import REFUSED, Layout
from lib.volume_io import stem_of

NO_REASON = "the reason was lost"
_LONGEST_SUFFIX = 12  # of what was sent, whatever it is


@dataclass(frozen=True)
class Refused:
    """One file that was refused or set aside.

    Args:
        image_id: of which image.
        file: relative to the studies folder.
        tag: under which tag it came, None if that is not known.
        at: when, ISO 8601 in UTC, None if that is not known.
        sent_by: client, user or `"server"`, None if that is not known.
        reason: why, in words; None where the file with the reason is missing or damaged.
    """

    image_id: str
    file: str
    tag: str | None
    at: str | None
    sent_by: str | None
    reason: str | None


def set_aside(layout: Layout, image_id: str, tag: str | None, path: Path, reason: str, author: str) -> Path:
    """Move a file that belongs nowhere to the refused ones, with the reason beside it; returns where it is now.

    Whoever still has it open goes on writing into what is kept.

    Raises:
        BadInputError: the image id is unfit as a folder's name.
        StorageError: the disk refused.
    """
    kept = _with_reason(layout, image_id, tag, path, reason, author)
    os.rename(path, kept)  # both are in the studies folder
    sync_folder(kept.parent)
    sync_folder(path.parent)
    return kept


def keep_copy(layout: Layout, image_id: str, tag: str, path: Path, reason: str, author: str) -> Path:
    """Keep a copy of what somebody sent, with the reason beside it; returns where it is.

    Raises:
        BadInputError: the image id is unfit as a folder's name.
        StorageError: the disk refused.
    """
    kept = _with_reason(layout, image_id, tag, path, reason, author)
    with atomic_write(kept) as temporary:
        shutil.copyfile(path, temporary)
    return kept


def _with_reason(layout: Layout, image_id: str, tag: str | None, path: Path, reason: str, author: str) -> Path:
    """The reason first: a file without one would be a riddle. The suffix stays, so that its program can open it."""
    now = datetime.now(UTC)
    suffix = path.name[len(_stem(path.name)) :]
    usual = suffix.replace(".", "").isalnum() and len(suffix) <= _LONGEST_SUFFIX
    if not usual or suffix.lower() == ".json":  # which would be the reason's own name
        suffix = ".bin"
    kept = layout.refused(image_id) / f"{now:%Y%m%dT%H%M%S.%f}Z-{secrets.token_hex(2)}-{tag or 'file'}{suffix}"
    write_reason(kept, image_id, tag, reason, author, at=now.isoformat(timespec="seconds"))
    return kept


def write_reason(kept: Path, image_id: str, tag: str | None, reason: str, author: str, at: str | None) -> None:
    """Write the reason beside a file that is, or is about to be, among the refused ones.

    Raises:
        StorageError: the disk refused.
    """
    note = {"image": image_id, "tag": tag, "reason": reason, "sent_by": author, "file": kept.name, "at": at}
    with atomic_write(reason_path(kept)) as temporary:
        temporary.write_text(json.dumps(note, indent=2), encoding="utf-8")


def reason_path(kept: Path) -> Path:
    """Where the reason for a refused file is."""
    return kept.parent / f"{_stem(kept.name)}.json"


def listed(layout: Layout, image_id: str | None = None) -> Iterator[Refused]:
    """The refused files of an image or of all, by image and time.

    Raises:
        BadInputError: the image id is unfit as a folder's name.
    """
    for one in _names(layout.labels / REFUSED) if image_id is None else [layout.refused(image_id).name]:
        for path in files_of(layout, one):
            note = _note(reason_path(path))
            yield Refused(
                one,
                path.relative_to(layout.studies).as_posix(),
                *(str(note[key]) if note.get(key) is not None else None for key in ("tag", "at", "sent_by", "reason")),
            )


def files_of(layout: Layout, image_id: str) -> list[Path]:
    """The refused files of an image, without their reasons, by time."""
    folder = layout.labels / REFUSED / image_id
    return [
        folder / name
        for name in _names(folder)
        if not name.startswith(".") and not name.endswith(".json") and (folder / name).is_file()
    ]


def _stem(name: str) -> str:
    """The name without its suffix, which for what was refused may be any."""
    known = stem_of(name)
    return known if known != name else Path(name).stem


def _names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def _note(path: Path) -> dict[str, Any]:
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}
