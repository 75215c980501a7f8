"""From a DICOM SEG to a label volume on the grid of its CT series.

BINARY, FRACTIONAL and LABELMAP (DICOM Supplement 243) are read, whoever wrote them. Memory is taken by the image's
grid, never by what the SEG announces.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import fastremap
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from lib.dicom_seg.codes import Segment, index_of, segment_of
from lib.dicom_seg.frames import frames_of
from lib.dicom_seg.placing import Placing
from lib.dicom_seg.source import UNREADABLE, SourceSeries
from lib.errors import BadInputError
from lib.labels import IGNORED, NOT_LOOKED_AT, Label, indices, is_marker, plain
from lib.volume import Volume

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
LABELMAP_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.7"
_MARKER = -1  # of segments that tell by their place which slices were looked at


@dataclass(frozen=True, eq=False)
class SegLabel:
    """What a SEG says of its series.

    Args:
        volume: uint8 class indices and `NOT_LOOKED_AT` on the series' grid.
        classes: the classes that the SEG has a segment of, in index order, empty ones too. Of others it says
            nothing: in `volume` they look like background.
        unknown: segments that are none of our classes and not part of `volume`.
        marked: bool voxels of segments that tell which slices were looked at (see `lib.looked_at`), None without.
        notes: sentences on what a person should know, such as overlapping segments.
        author: ContentCreatorName as it is written there, empty if nobody is named.
        description: SeriesDescription.
        segments: all segments, known and unknown.
    """

    volume: Volume
    classes: tuple[str, ...]
    unknown: tuple[Segment, ...]
    marked: NDArray[np.bool_] | None
    notes: tuple[str, ...]
    author: str = ""
    description: str = ""
    segments: tuple[Segment, ...] = field(default=(), repr=False)


def read_seg(dataset: Dataset, source: SourceSeries, labels: Mapping[str, Label]) -> SegLabel:
    """Read a SEG that was made for a series.

    Segments are told by code, then by name or alias (`codes.index_of`), never by number. Where classes overlap the
    larger index counts, so that a tumor drawn within a liver stays; a class counts more than "not looked at".

    Args:
        dataset: a SEG as pydicom reads it; not changed.
        source: the series it must belong to.
        labels: our classes.

    Raises:
        BadInputError: not a SEG, damaged, for another series or on another grid.
    """
    try:
        return _read(dataset, source, labels)
    except BadInputError:
        raise
    except UNREADABLE as error:
        # Not the error's own words: they can hold the patient's name.
        msg = f"the SEG is damaged or lacks what a SEG must have ({type(error).__name__}); store it again"
        raise BadInputError(msg) from error


def _read(dataset: Dataset, source: SourceSeries, labels: Mapping[str, Label]) -> SegLabel:
    kind = _kind_of(dataset)
    _check_series(dataset, source)
    segments = [segment_of(item) for item in dataset.get("SegmentSequence") or ()]
    meanings = {segment.number: _meaning(segment, labels) for segment in segments}
    if not segments or len(meanings) != len(segments):
        msg = f"the SEG describes {len(segments)} segments with {len(meanings)} numbers; store it again"
        raise BadInputError(msg)
    count = _frame_count(dataset, source, 1 if kind == "LABELMAP" else len(segments))

    canvas = _Canvas(source, labels)
    placing = Placing(dataset, source)
    groups = dataset.PerFrameFunctionalGroupsSequence
    threshold = _threshold(dataset) if kind == "FRACTIONAL" else 1
    highest: dict[int, int] = defaultdict(int)
    table = _table(meanings, dataset) if kind == "LABELMAP" else {}
    for number, (group, stored) in enumerate(zip(groups, frames_of(dataset, count), strict=True), start=1):
        z, turn = placing.place(group, number)
        frame = turn(stored)
        if kind == "LABELMAP":
            for value in fastremap.unique(stored):
                canvas.paint(z, frame == value, _looked_up(int(value), table))
        else:
            segment_number = _segment_number(dataset, group, meanings)
            highest[segment_number] = max(highest[segment_number], int(frame.max()))
            canvas.paint(z, frame >= threshold, meanings[segment_number])
    faint = [segment for segment in segments if 0 < highest[segment.number] < threshold]
    found = {meaning for meaning in meanings.values() if meaning}
    names = tuple(name for name, index in indices(labels).items() if index in found)
    unknown = tuple(segment for segment in segments if meanings[segment.number] is None)
    marked = canvas.marked
    if marked is None and _MARKER in found:
        marked = np.zeros(source.grid.shape, np.bool_, order="F")
    return SegLabel(
        Volume(canvas.array, source.grid.affine),
        names,
        unknown,
        marked,
        (*_notes(canvas, segments, meanings, labels), *(f"no voxel of segment {one} is half full" for one in faint)),
        author=str(dataset.get("ContentCreatorName") or "").rstrip("^"),
        description=str(dataset.get("SeriesDescription") or ""),
        segments=tuple(segments),
    )


class _Canvas:
    """The label while it is painted."""

    def __init__(self, source: SourceSeries, labels: Mapping[str, Label]) -> None:
        self.array = np.zeros(source.grid.shape, np.uint8, order="F")
        self.marked: NDArray[np.bool_] | None = None
        self.names = {label.index: name for name, label in labels.items()} | {NOT_LOOKED_AT: "not looked at"}
        self.overlaps: dict[tuple[int, int], int] = defaultdict(int)  # voxels by (what counts, what doesn't)

    def paint(self, z: int, mask: NDArray[np.bool_], meaning: int | None) -> None:
        """Paint `(Y, X)` with a class, a marker, or, for 0 and None, not at all."""
        if not meaning:
            return
        if meaning == _MARKER:
            if self.marked is None:
                self.marked = np.zeros(self.array.shape, np.bool_, order="F")
            self.marked[:, :, z] |= mask.T
            return
        plane = self.array[:, :, z].T
        before = plane[mask]
        if not before.any():
            plane[mask] = meaning
            return
        counts = _rank(before) < _rank(np.uint8(meaning))
        for value in np.unique(before[(before != 0) & (before != meaning)]):
            winner, loser = (meaning, int(value)) if _rank(value) < _rank(np.uint8(meaning)) else (int(value), meaning)
            self.overlaps[winner, loser] += int((before == value).sum())
        plane[mask] = np.where(counts, np.uint8(meaning), before)


def _rank(values: NDArray[np.uint8] | np.uint8) -> NDArray[np.uint8]:
    """What counts more where segments overlap: nothing, not looked at, then the classes by index."""
    return np.where(values == NOT_LOOKED_AT, 1, np.where(values == 0, 0, values + 1)).astype(np.uint8)


def _kind_of(dataset: Dataset) -> str:
    sop_class, kind = dataset.get("SOPClassUID"), dataset.get("SegmentationType")
    if sop_class == LABELMAP_SEGMENTATION and kind in (None, "", "LABELMAP"):
        return "LABELMAP"
    if sop_class == SEGMENTATION and kind in ("BINARY", "FRACTIONAL"):
        return str(kind)
    if sop_class in (SEGMENTATION, LABELMAP_SEGMENTATION):
        named = kind if kind == "SURFACE" else "that it names"
        msg = f"a SEG of the type {named} is not read; store it as BINARY, FRACTIONAL or LABELMAP"
    else:
        msg = f"the object is no DICOM SEG (its SOP class is {getattr(sop_class, 'name', sop_class)}); choose a SEG"
    raise BadInputError(msg)


def _check_series(dataset: Dataset, source: SourceSeries) -> None:
    """Make sure that the SEG was made for this series, as far as it says for which."""
    frame_of_reference = str(dataset.get("FrameOfReferenceUID") or "")
    if frame_of_reference and source.frame_of_reference_uid and frame_of_reference != source.frame_of_reference_uid:
        msg = (
            f"the SEG has the frame of reference {frame_of_reference}, its image series "
            f"{source.frame_of_reference_uid}; make it on this series"
        )
        raise BadInputError(msg)
    named = [str(item.get("SeriesInstanceUID") or "") for item in dataset.get("ReferencedSeriesSequence") or ()]
    if named and source.series_uid not in named:
        msg = (
            f"the SEG was made for the series {', '.join(named[:3])}, not for {source.series_uid}; make it on this one"
        )
        raise BadInputError(msg)
    if not named and not frame_of_reference:
        msg = "the SEG names neither an image series nor a frame of reference, so nothing tells where it belongs"
        raise BadInputError(msg)


def _frame_count(dataset: Dataset, source: SourceSeries, layers: int) -> int:
    """Frames that the SEG announces, checked against the image's grid."""
    columns, rows, slices = source.grid.shape
    if sorted((dataset.Rows, dataset.Columns)) != sorted((rows, columns)):  # they may be exchanged
        msg = (
            f"the SEG has frames of {dataset.Rows}x{dataset.Columns}, its image series slices of {rows}x{columns}; "
            "resample it to the image"
        )
        raise BadInputError(msg)
    count, groups = int(dataset.get("NumberOfFrames") or 0), len(dataset.get("PerFrameFunctionalGroupsSequence") or ())
    if count < 1 or count != groups:
        msg = f"the SEG announces {count} frames and describes {groups}; store it again"
        raise BadInputError(msg)
    if count > layers * slices:
        msg = f"the SEG has {count} frames, more than {layers} segments in {slices} slices can have; store it again"
        raise BadInputError(msg)
    return count


def _meaning(segment: Segment, labels: Mapping[str, Label]) -> int | None:
    """Class index, `NOT_LOOKED_AT`, `_MARKER`, 0 for what clients carry along, None for what we don't know."""
    index = index_of(segment, labels)
    if index is not None:
        return index
    if is_marker(segment.name):
        return _MARKER
    return 0 if plain(segment.name) in IGNORED else None


def _threshold(dataset: Dataset) -> float:
    highest = int(dataset.get("MaximumFractionalValue") or 0)
    if highest < 1:
        msg = "the FRACTIONAL SEG lacks MaximumFractionalValue; store it again"
        raise BadInputError(msg)
    return highest / 2


def _table(meanings: Mapping[int, int | None], dataset: Dataset) -> dict[int, int | None]:
    """Meaning of each stored value of a LABELMAP."""
    padding = dataset.get("PixelPaddingValue")
    nothing = {0, *(() if padding is None else (int(padding),))}
    return {**dict.fromkeys(nothing, 0), **meanings}


def _looked_up(value: int, table: Mapping[int, int | None]) -> int | None:
    if value not in table:
        msg = f"the SEG holds the value {value}, which none of its segments has; store it again"
        raise BadInputError(msg)
    return table[value]


def _segment_number(dataset: Dataset, group: Dataset, meanings: Mapping[int, int | None]) -> int:
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    items = group.get("SegmentIdentificationSequence") or shared.SegmentIdentificationSequence
    number = int(items[0].ReferencedSegmentNumber)
    if number not in meanings:
        msg = f"a frame of the SEG belongs to segment {number}, which is not described; store it again"
        raise BadInputError(msg)
    return number


def _notes(
    canvas: _Canvas, segments: Sequence[Segment], meanings: Mapping[int, int | None], labels: Mapping[str, Label]
) -> list[str]:
    names = canvas.names
    notes = [
        f"{count} voxels are both {names[winner]} and {names[loser]}; they count as {names[winner]}"
        for (winner, loser), count in sorted(canvas.overlaps.items())
    ]
    for segment in segments:
        meaning = meanings[segment.number]
        if meaning is None:
            notes.append(f"segment {segment} is none of {list(indices(labels))} and was left out")
        elif meaning > 0 and meaning != NOT_LOOKED_AT:
            by_name = index_of(Segment(segment.number, segment.name), labels)
            if by_name not in (None, meaning):
                notes.append(f"segment {segment} is taken as {names[meaning]}, by its code and not by its name")
    return notes
