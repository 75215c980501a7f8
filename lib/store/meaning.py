"""What the values of a label mean that did not come through the door: our indices, or names to map by."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lib.labels import find_index, names_for_clients, remap
from lib.settings import Settings
from lib.volume import Volume
from lib.volume_io import read_label

# In a label's info: what its values mean; only labels that went through our door have it.
INDICES = "label_indices"
LOOKED_AT, SLICES = "looked_at_slices", "slices"  # axial slices of a label of which not all was looked at
DECIDED = {"label_info", INDICES, LOOKED_AT, SLICES}  # by the label itself, not by who notes something about it


def looked_at(info: Mapping[str, Any]) -> dict[str, int]:
    """How many axial slices of a label were looked at, of how many; empty where all of it was."""
    return {key: info[key] for key in (LOOKED_AT, SLICES)} if {LOOKED_AT, SLICES} <= info.keys() else {}


def names_to_map(info: Mapping[str, Any], settings: Settings) -> Sequence[Mapping[str, Any]]:
    """The names of a label's values where the values are not our indices; empty where they are.

    A label without names holds our indices by agreement, such as one that was put into the folder by hand.

    Args:
        info: what was noted about the label by MONAI Label's own store or by an earlier version of ours.
        settings: our classes.
    """
    ours = settings.label_indices()
    if isinstance(info.get(INDICES), Mapping):
        named = names_for_clients(info[INDICES], partly=True)
        return [] if all(ours.get(name) == index for name, index in info[INDICES].items()) else named
    named = info.get("label_info") or []
    expected = [{"name": name, "idx": index} for name, index in ours.items()]
    return [] if _spelled_as(named, settings) == expected[: len(named)] else named


def meant(path: Path, info: Mapping[str, Any], settings: Settings) -> Volume:
    """A label with the indices of now; those of when it was kept may have been others.

    Args:
        path: its file.
        info: what was noted about it, see `names_to_map`.
        settings: our classes.

    Raises:
        BadInputError: the file can't be read, or it holds a class that is no more.
    """
    label, names = read_label(path), names_to_map(info, settings)
    return Volume(remap(label.array, names, settings.labels), label.affine) if names else label


def _spelled_as(named: Any, settings: Settings) -> list[dict[str, Any]] | None:
    """`label_info` with our spelling of the names; None if it is malformed."""
    names = {index: name for name, index in settings.label_indices().items()}
    try:
        return [
            {"name": names.get(find_index(str(entry["name"]), settings.labels) or 0), "idx": entry["idx"]}
            for entry in named
        ]
    except (KeyError, TypeError):
        return None
