"""Segment names in the header of 3D Slicer's `.seg.nrrd`.

Each segment has a name, a layer and the value that marks it there. Segments that don't overlap share one layer of a
3D file; otherwise the file is 4D with the layers along its first axis.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lib.labels import Label


class Segment(NamedTuple):
    """One segment: its voxels are those of `layer` that hold `value`."""

    name: str
    layer: int
    value: int


def segment_fields(shape: Sequence[int], labels: Mapping[str, Label], *, layered: bool = False) -> dict[str, str]:
    """Header fields for one segment per label, in index order.

    Args:
        shape: voxels `(X, Y, Z)`.
        labels: names, indices and colors.
        layered: each segment has a layer of its own and the value 1 there; otherwise all share one layer and are
            marked by their index.
    """
    fields = {
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    extent = " ".join(f"0 {size - 1}" for size in shape)
    for position, (name, label) in enumerate(sorted(labels.items(), key=lambda item: item[1].index)):
        fields |= {
            f"Segment{position}_ID": name,
            f"Segment{position}_Name": name,
            f"Segment{position}_LabelValue": "1" if layered else str(label.index),
            f"Segment{position}_Layer": str(position if layered else 0),
            f"Segment{position}_Extent": extent,
            f"Segment{position}_Color": " ".join(f"{channel / 255:.6f}" for channel in label.color),
        }
    return fields


def find_segments(header: Mapping[str, Any]) -> list[Segment]:
    """The segments that a header lists, in its order; empty for a file that is not a segmentation.

    Raises:
        ValueError: a layer or value is not a whole number.
    """
    segments: list[Segment] = []
    while f"Segment{len(segments)}_Name" in header:
        key = f"Segment{len(segments)}"
        layer, value = (
            int(header.get(f"{key}_{field}", default)) for field, default in (("Layer", 0), ("LabelValue", 1))
        )
        segments.append(Segment(str(header[f"{key}_Name"]), layer, value))
    return segments
