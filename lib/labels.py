"""Label names and indices, and the way from what a client calls a segment to what we train on.

Everything that crosses a boundary is mapped by name, never by number: 3D Slicer numbers segments by their order,
and annotators add, remove, reorder and rename them.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from lib.errors import BadInputError

# Segments that clients carry along and that mean "nothing here".
_IGNORED = {"background", "foreground scribbles", "background scribbles"}


class Label(BaseModel):
    """One class: its index in label volumes, its color on screen and the other names it goes by."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    index: int = Field(ge=1, le=254)
    color: tuple[int, int, int] = (128, 174, 128)
    aliases: tuple[str, ...] = ()


LIVER = Label(
    index=1, color=(221, 130, 101), aliases=("liver parenchyma", "hepar", "foie", "leber", "hígado", "fegato")
)
TUMOR = Label(
    index=2,
    color=(144, 238, 144),
    aliases=(
        "tumour", "tumors", "tumours", "liver tumor", "liver tumour", "hepatic tumor", "hepatic tumour", "lesion",
        "lesions", "liver lesion", "hepatic lesion", "liver cancer", "neoplasm", "liver neoplasm",
    ),
)  # fmt: skip
DEFAULT_LABELS: dict[str, Label] = {"liver": LIVER, "tumor": TUMOR}


def indices(labels: Mapping[str, Label]) -> dict[str, int]:
    """`{"liver": 1, "tumor": 2}`: names to indices in index order, as MONAI Label clients want it."""
    return {name: label.index for name, label in sorted(labels.items(), key=lambda item: item[1].index)}


def find_index(name: str, labels: Mapping[str, Label]) -> int | None:
    """Index of the class that a client calls `name`; case, `_`, `-` and spaces do not matter. None if unknown."""
    wanted = _plain(name)
    for known, label in labels.items():
        if wanted == _plain(known) or wanted in {_plain(alias) for alias in label.aliases}:
            return label.index
    return None


def remap(
    array: NDArray, label_info: Sequence[Mapping[str, Any]] | None, labels: Mapping[str, Label]
) -> NDArray[np.uint8]:
    """Turn a client's label voxels into our indices, by the names the client gave them.

    Args:
        array: integers of any shape, 0 = background.
        label_info: `[{"name": "Liver", "idx": 1}, ...]` as 3D Slicer sends it; None or empty: the voxels already
            hold our indices.
        labels: our classes.

    3D Slicer writes the k-th entry of `label_info` as value k, but its `idx` also counts segments it left out, so
    that `idx` can be larger than the value. Increasing `idx` with values no larger than the number of entries are
    therefore taken by order; otherwise `idx` is the value.

    Returns:
        uint8 array of the same shape with our indices; classes that nobody painted are simply absent.

    Raises:
        BadInputError: a painted segment has a name we do not know, or a value has no name.
    """
    values = [int(value) for value in np.unique(array) if value != 0]
    if not label_info:
        known = set(indices(labels).values())
        unknown = [value for value in values if value not in known]
        if unknown:
            msg = (
                f"the label holds the values {unknown}, but only {indices(labels)} are known and no label_info names "
                "them; send label_info with a name for each value"
            )
            raise BadInputError(msg)
        return array.astype(np.uint8)

    named = _names_by_value(values, label_info)
    table: dict[int, int] = {}
    for value in values:
        name = named.get(value)
        if name is None:
            msg = f"the label holds the value {value}, which label_info {dict(named)} does not name; add its name"
            raise BadInputError(msg)
        index = 0 if _plain(name) in _IGNORED else find_index(name, labels)
        if index is None:
            msg = (
                f"the segment {name!r} is not one of {list(indices(labels))} nor a known spelling of them; rename or "
                "remove it, or add it to the aliases in app.yaml"
            )
            raise BadInputError(msg)
        table[value] = index
    result = np.zeros(array.shape, np.uint8)
    for value, index in table.items():
        result[array == value] = index
    return result


def _names_by_value(values: Sequence[int], label_info: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    try:
        names = [str(entry["name"]) for entry in label_info]
        numbers = [int(entry.get("idx", position)) for position, entry in enumerate(label_info, start=1)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        msg = f"label_info must be a list of objects with 'name' and 'idx', not {label_info!r}"
        raise BadInputError(msg) from error
    if len(set(numbers)) != len(numbers):
        msg = f"label_info gives one idx to several segments: {list(zip(names, numbers, strict=True))}"
        raise BadInputError(msg)
    increasing = numbers == sorted(numbers)
    if increasing and max(values, default=0) <= len(names):
        return dict(enumerate(names, start=1))
    return dict(zip(numbers, names, strict=True))


def _plain(name: str) -> str:
    return re.sub(r"[\s_\-]+", " ", name).strip().casefold()
