"""Label names and indices, and the way from what a client calls a segment to what we train on.

Everything that crosses a boundary is mapped by name, never by number: 3D Slicer numbers segments by their order,
and annotators add, remove, reorder and rename them.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import fastremap
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from lib.box import bounding_box
from lib.errors import BadInputError

# Voxels of a label that nobody judged; no class and not background either.
NOT_LOOKED_AT = 255
NOT_LOOKED_AT_NAME = "not looked at"

# Segments that clients carry along and that mean "nothing here".
IGNORED = {"background", "foreground scribbles", "background scribbles"}
_NOT_LOOKED_AT_NAMES = {NOT_LOOKED_AT_NAME, "not reviewed", "unreviewed", "ignore"}
# A segment that is drawn to tell slices that were looked at from others, see `lib.looked_at`; itself it is nothing.
_MARKERS = {"looked at", "looked at slices", "slices looked at", "reviewed", "reviewed slices"}
RESERVED = IGNORED | _NOT_LOOKED_AT_NAMES | _MARKERS


class Code(BaseModel):
    """A term of a coding scheme, as DICOM has it."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    value: str = Field(min_length=1, max_length=16)
    meaning: str = Field(min_length=1, max_length=64)
    scheme: str = Field(default="SCT", min_length=1, max_length=16)


class Codes(BaseModel):
    """What a class is in DICOM SEG: what kind of thing, which, and where in the body."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    category: Code
    type: Code
    region: Code | None = None


class Label(BaseModel):
    """One class: its index in label volumes, its color on screen, the other names it goes by and its codes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    index: int = Field(ge=1, le=254)
    color: tuple[int, int, int] = (128, 174, 128)
    aliases: tuple[str, ...] = ()
    codes: Codes | None = None


_LIVER_CODE = Code(value="10200004", meaning="Liver")
LIVER = Label(
    index=1,
    color=(221, 130, 101),
    aliases=("liver parenchyma", "hepar", "foie", "leber", "hígado", "fegato"),
    codes=Codes(category=Code(value="123037004", meaning="Anatomical Structure"), type=_LIVER_CODE),
)
TUMOR = Label(
    index=2,
    color=(144, 238, 144),
    aliases=(
        "tumour", "tumors", "tumours", "liver tumor", "liver tumour", "hepatic tumor", "hepatic tumour", "lesion",
        "lesions", "liver lesion", "hepatic lesion", "liver cancer", "neoplasm", "liver neoplasm",
    ),
    codes=Codes(
        category=Code(value="49755003", meaning="Morphologically Altered Structure"),
        type=Code(value="108369006", meaning="Neoplasm"),
        region=_LIVER_CODE,
    ),
)  # fmt: skip
DEFAULT_LABELS: dict[str, Label] = {"liver": LIVER, "tumor": TUMOR}


def indices(labels: Mapping[str, Label]) -> dict[str, int]:
    """`{"liver": 1, "tumor": 2}`: names to indices in index order, as MONAI Label clients want it."""
    return {name: label.index for name, label in sorted(labels.items(), key=lambda item: item[1].index)}


def find_index(name: str, labels: Mapping[str, Label]) -> int | None:
    """Index of the class that a client calls `name`, however it is spelled (see `plain`); None if unknown."""
    wanted = plain(name)
    for known, label in labels.items():
        if wanted == plain(known) or wanted in {plain(alias) for alias in label.aliases}:
            return label.index
    return None


def names_for_clients(labels: Mapping[str, int], *, partly: bool) -> list[dict[str, Any]]:
    """`label_info` of a label with our indices.

    Args:
        labels: names and indices of the classes.
        partly: whether it holds voxels that nobody looked at.
    """
    named = {**labels, NOT_LOOKED_AT_NAME: NOT_LOOKED_AT} if partly else labels
    return [{"name": name, "idx": index} for name, index in named.items()]


def is_not_looked_at(name: str) -> bool:
    """Whether a segment holds the voxels that nobody judged."""
    return plain(name) in _NOT_LOOKED_AT_NAMES


def is_marker(name: str) -> bool:
    """Whether a segment tells by its place which slices were looked at."""
    return plain(name) in _MARKERS


def remap(
    array: NDArray[np.uint8], label_info: Sequence[Mapping[str, Any]] | None, labels: Mapping[str, Label]
) -> NDArray[np.uint8]:
    """Turn a client's label voxels into our indices, by the names the client gave them.

    Args:
        array: uint8, three axes in any order, 0 = background; not changed.
        label_info: `[{"name": "Liver", "idx": 1}, ...]` as 3D Slicer sends it; an entry without `idx` has its place
            in the list. None or empty: the voxels already hold our indices and `NOT_LOOKED_AT`.
        labels: our classes.

    3D Slicer writes the k-th entry of `label_info` as value k, but its `idx` also counts segments it left out
    (scribbles, background), so that `idx` can be larger than the value. Other clients mean by `idx` the value. Both are
    understood: by order where `idx` increase from 1 or more and no value exceeds the number of entries, by `idx`
    otherwise. Where both readings are possible and differ in what was painted, neither is guessed.

    Returns:
        uint8 array of the same shape with our indices and `NOT_LOOKED_AT`; classes that nobody painted are simply
        absent, scribbles, "background" and markers (see `marked`) become 0.

    Raises:
        BadInputError: a painted segment has a name we do not know, a value has no name, or two.
    """
    values = _painted_values(array)
    if not label_info:
        known = {*indices(labels).values(), NOT_LOOKED_AT}
        unknown = [value for value in values if value not in known]
        if unknown:
            msg = (
                f"the label holds the values {unknown}, but only {indices(labels)} are known and no label_info names "
                "them; send label_info with a name for each value"
            )
            raise BadInputError(msg)
        return array

    named = _names_by_value(values, label_info)
    table = np.zeros(256, np.uint8)
    for value in values:
        if value not in named:
            msg = f"the label holds the value {value}, which label_info {_short(named)} does not name; add its name"
            raise BadInputError(msg)
        table[value] = _known_index(named[value], labels)
    return array if all(table[value] == value for value in values) else table[array]


def marked(array: NDArray[np.uint8], label_info: Sequence[Mapping[str, Any]] | None) -> NDArray[np.bool_] | None:
    """The voxels of marker segments in a client's label; None where it has no such segment.

    Args:
        array: as for `remap`, which has accepted it.
        label_info: as for `remap`.
    """
    if not any(is_marker(str(entry["name"])) for entry in label_info or ()):
        return None
    values = _painted_values(array)
    named = _names_by_value(values, label_info or ())
    return np.isin(array, [value for value in values if is_marker(named[value])])


def merge(
    segments: Iterable[tuple[str, NDArray[np.uint8]]], shape: Sequence[int], labels: Mapping[str, Label]
) -> NDArray[np.uint8]:
    """One array of our indices from masks with names, as a `.seg.nrrd` holds them.

    Args:
        segments: name and mask (0 or 1) of each; they may overlap: the larger index counts, so that a tumor painted
            within a liver stays, and markers count nothing. Empty masks may have any name.
        shape: of every mask and of the result.
        labels: our classes.

    Raises:
        BadInputError: a segment with voxels has a name we do not know.
    """
    result = np.zeros(tuple(shape), np.uint8, order="F")
    for name, mask in segments:
        if mask.any():
            np.maximum(result, mask * np.uint8(_known_index(name, labels)), out=result)
    return result


def _painted_values(array: NDArray[np.uint8]) -> list[int]:
    box = bounding_box(array)
    return [int(value) for value in fastremap.unique(array[box].ravel("K")) if value != 0] if box else []


def _known_index(name: str, labels: Mapping[str, Label]) -> int:
    """Index of a segment that has voxels; 0 for scribbles and markers."""
    if is_not_looked_at(name):
        return NOT_LOOKED_AT
    index = 0 if plain(name) in RESERVED else find_index(name, labels)
    if index is None:
        msg = (
            f"the segment {_short(name)} is not one of {list(indices(labels))} nor a known spelling of them; rename or "
            "remove it, or add it to the aliases in app.yaml"
        )
        raise BadInputError(msg)
    return index


def _names_by_value(values: Sequence[int], label_info: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    try:
        names = [str(entry["name"]) for entry in label_info]
        numbers = [int(entry.get("idx", position)) for position, entry in enumerate(label_info, start=1)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        msg = f"label_info must be a list of objects with 'name' and 'idx', not {_short(label_info)}"
        raise BadInputError(msg) from error
    if len(set(numbers)) != len(numbers):
        msg = f"label_info gives one idx to several segments: {_short(list(zip(names, numbers, strict=True)))}"
        raise BadInputError(msg)
    by_index, by_order = dict(zip(numbers, names, strict=True)), dict(enumerate(names, start=1))
    if numbers[0] < 1 or numbers != sorted(numbers) or max(values, default=0) > len(names):
        return by_index
    doubtful = [value for value in values if by_index.get(value, by_order[value]) != by_order[value]]
    if doubtful and by_index.keys() >= set(values):
        value = doubtful[0]
        msg = (
            f"the value {value} is {by_index[value]!r} by idx but {by_order[value]!r} by its place in label_info "
            f"{_short(by_index)}; number the segments from 1 without gaps, or remove those that are empty"
        )
        raise BadInputError(msg)
    return by_order


def plain(name: str) -> str:
    """The form in which names are compared: case, `_`, `-`, spaces and ways to write an accent do not matter."""
    return re.sub(r"[\s_\-]+", " ", unicodedata.normalize("NFKC", name)).strip().casefold()


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
