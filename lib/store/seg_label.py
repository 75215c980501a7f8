"""What a SEG that was found in a PACS says as a label of ours: what is in it, for what it counts, what is noted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from lib.dicom_seg.codes import index_of
from lib.dicom_seg.read import SegLabel
from lib.errors import BadInputError
from lib.labels import NOT_LOOKED_AT, Label, indices, names_for_clients
from lib.looked_at import is_partial, limited_to
from lib.store.layout import FINAL, ORIGINAL
from lib.volume import Volume

NOBODY = "PACS"  # the author where a SEG names none
SEG = "seg"  # in a version's info: the SEG that it was made from
_AUTOMATIC = "AUTOMATIC"
_MARKER_NAME = "looked at"


@dataclass(frozen=True, eq=False)
class FoundLabel:
    """A label to be saved.

    Args:
        volume: uint8 values that `info["label_info"]` names.
        tag: `final` for what a person made, `original` for what is only to begin from.
        author: who made it.
        info: as `lib.store.store.Store.save` wants it.
    """

    volume: Volume
    tag: str
    author: str
    info: dict[str, Any]


def label_of(found: SegLabel, dataset: Dataset, labels: Mapping[str, Label]) -> FoundLabel:
    """What to save of a SEG.

    A class that the SEG has no segment of was not judged. Where it could be, the label is `NOT_LOOKED_AT`: in the
    background, and in segments of classes that it would be drawn over, as a tumor in the liver. If nothing is left,
    the label is one to begin from, as is what programs made alone.

    Args:
        found: the SEG as `read_seg` reads it.
        dataset: the SEG, for its UIDs and time.
        labels: our classes.

    Raises:
        BadInputError: it holds none of our classes, or nothing to begin from either.
    """
    ours = indices(labels)
    if not found.classes:
        strange = ", ".join(str(segment) for segment in found.unknown[:5]) or "none that is one"
        msg = f"the SEG has no segment of {list(ours)}, only {strange}; name or code one so, or add it to app.yaml"
        raise BadInputError(msg)
    missing = [name for name in ours if name not in found.classes]
    notes = list(found.notes)
    volume = found.volume
    extra: dict[str, Any] = {}
    tag = ORIGINAL if _is_automatic(found, labels) else FINAL
    if tag == FINAL and missing:
        volume = _judged(found, max(ours[name] for name in missing))
        names = ", ".join(missing)
        if (volume.array == NOT_LOOKED_AT).all():
            tag, volume = ORIGINAL, found.volume
            notes.append(
                f"it has no segment {names}, so it is only to begin from; an empty one says that there is none"
            )
        else:
            notes.append(f"it has no segment {names}, so where that could be counts as not looked at")
    elif tag == FINAL and found.marked is not None and found.marked.any():
        volume, extra = _with_marker(found.volume, found.marked, max(ours.values()) + 1)
    if tag == ORIGINAL and not np.isin(found.volume.array, list(ours.values())).any():
        msg = "no voxel of the SEG tells a class, and not every class was looked for, so there is nothing to take in"
        raise BadInputError(msg)
    named = names_for_clients(ours, partly=is_partial(volume.array))
    if "marker" in extra:
        named.append({"name": _MARKER_NAME, "idx": extra.pop("marker")})
    info = {
        "label_info": sorted(named, key=lambda entry: entry["idx"]),
        **extra,
        SEG: _described(found, dataset, missing, notes),
    }
    return FoundLabel(volume, tag, author_of(found), info)


def author_of(found: SegLabel) -> str:
    """Who made a SEG, in one line."""
    return " ".join(found.author.replace("^", " ").split())[:64] or NOBODY


def content_time(dataset: Dataset) -> tuple[str, str]:
    """By what SEGs are ordered: date and time of their content, else of their making; empty ones come first."""
    for day, hour in (("ContentDate", "ContentTime"), ("InstanceCreationDate", "InstanceCreationTime")):
        if dataset.get(day):
            return str(dataset[day].value), str(dataset.get(hour) or "")
    return "", ""


def _is_automatic(found: SegLabel, labels: Mapping[str, Label]) -> bool:
    """Whether programs made all that is of our classes."""
    kinds = [one.algorithm_type for one in found.segments if index_of(one, labels) not in (None, 0, NOT_LOOKED_AT)]
    return bool(kinds) and all(kind == _AUTOMATIC for kind in kinds)


def _judged(found: SegLabel, most: int) -> Volume:
    """The label where no class up to the index `most`, which nobody judged, could be."""
    volume = found.volume
    if found.marked is not None and found.marked.any():
        volume = limited_to(volume, _slices(found.marked, volume))
        volume.array[found.marked & (volume.array == 0)] = NOT_LOOKED_AT
    array = volume.array.copy()
    array[array < most] = NOT_LOOKED_AT
    return Volume(array, volume.affine)


def _with_marker(volume: Volume, marked: NDArray[np.bool_], value: int) -> tuple[Volume, dict[str, Any]]:
    """The label with the marks as a segment of its own, as clients send it; so the door judges it alike."""
    array = volume.array.copy()
    array[marked & (array == 0)] = value
    marks = {"marker": value} if (array == value).any() else {}
    slices = _slices(marked, volume)
    return Volume(array, volume.affine), {"looked_at": [[int(z), int(z)] for z in np.flatnonzero(slices)], **marks}


def _slices(marked: NDArray[np.bool_], volume: Volume) -> NDArray[np.bool_]:
    """The axial slices that hold a mark."""
    return np.asarray(Volume(marked, volume.affine).axial().any(axis=(1, 2)))


def _described(found: SegLabel, dataset: Dataset, missing: list[str], notes: list[str]) -> dict[str, Any]:
    day, hour = content_time(dataset)
    return {
        "sop_uid": str(dataset.SOPInstanceUID),
        "series_uid": str(dataset.get("SeriesInstanceUID") or ""),
        "made": f"{day} {hour}".strip(),
        "description": found.description,
        "unknown": [str(segment) for segment in found.unknown],
        "not_judged": missing,
        "notes": notes,
    }
