"""What a segment is: its codes, its name and its color, and which of our classes that is.

Segments are told by code, then by name, never by number: whoever stores a SEG numbers those that it holds from 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pydicom.dataset import Dataset

from lib.labels import DEFAULT_LABELS, NOT_LOOKED_AT, Code, Codes, Label, find_index, is_not_looked_at

if TYPE_CHECKING:
    from pydicom.sr.coding import Code as Concept

# Of a class without codes of its own: says nothing, so such a class is told by its name alone.
UNSPECIFIED = Codes(
    category=Code(value="85756007", meaning="Tissue"), type=Code(value="85756007", meaning="Tissue")
)  # fmt: skip
NOT_LOOKED_AT_CODES = Codes(
    category=Code(value="309825002", meaning="Spatial and Relational Concept"),
    type=Code(value="373121007", meaning="Not Evaluated"),
)
BACKGROUND = Code(value="125040", meaning="Background", scheme="DCM")
NOT_LOOKED_AT_COLOR = (128, 128, 128)
_SRGB_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_D65 = np.array([0.950456, 1.0, 1.088754])


@dataclass(frozen=True)
class Segment:
    """What a SEG says of one of its segments.

    Args:
        number: its SegmentNumber, which means nothing outside of its SEG.
        name: its SegmentLabel.
        category: what kind of thing, None where the SEG doesn't say.
        type: which thing.
        regions: where in the body.
        algorithm_type: `AUTOMATIC`, `SEMIAUTOMATIC`, `MANUAL` or empty.
        algorithm: name and version of the program, as far as they are given.
    """

    number: int
    name: str
    category: Code | None = None
    type: Code | None = None
    regions: tuple[Code, ...] = ()
    algorithm_type: str = ""
    algorithm: str = ""

    def __str__(self) -> str:
        """For messages: `3 'gallbladder' (Gallbladder, 28231008 SCT)`."""
        code = f"{self.type.meaning}, {self.type.value} {self.type.scheme}" if self.type else "no code"
        return f"{self.number} {self.name[:64]!r} ({code})"


def codes_of(name: str, label: Label) -> Codes | None:
    """The codes of a class: its own, those of our class that goes by its name, or None."""
    if label.codes:
        return label.codes
    index = find_index(name, DEFAULT_LABELS)
    return next((known.codes for known in DEFAULT_LABELS.values() if known.index == index), None)


def segment_of(item: Dataset) -> Segment:
    """Read an item of the SegmentSequence."""
    version = ""
    if item.get("SegmentationAlgorithmIdentificationSequence"):
        version = str(item.SegmentationAlgorithmIdentificationSequence[0].get("AlgorithmVersion") or "")
    return Segment(
        number=int(item.SegmentNumber),
        name=str(item.get("SegmentLabel") or ""),
        category=next(iter(_codes(item, "SegmentedPropertyCategoryCodeSequence")), None),
        type=next(iter(_codes(item, "SegmentedPropertyTypeCodeSequence")), None),
        regions=tuple(_codes(item, "AnatomicRegionSequence")),
        algorithm_type=str(item.get("SegmentAlgorithmType") or ""),
        algorithm=f"{item.get('SegmentAlgorithmName') or ''} {version}".strip(),
    )


def index_of(segment: Segment, labels: Mapping[str, Label]) -> int | None:
    """Index of the class that a segment is, `NOT_LOOKED_AT`, or 0 for background; None if it is none of them.

    The type's code decides, where a class has one; if the segment says where in the body it is, that must agree: a
    neoplasm of the kidney is no tumor of the liver, whatever its name. Other segments are told by name.
    """
    if _same(segment.type, NOT_LOOKED_AT_CODES.type):
        return NOT_LOOKED_AT
    if _same(segment.type, BACKGROUND):  # some LABELMAPs describe it
        return 0
    coded = {name: codes for name, label in labels.items() if (codes := codes_of(name, label))}
    alike = {name: codes for name, codes in coded.items() if _same(segment.type, codes.type)}
    if alike:
        found = {name: labels[name] for name, codes in alike.items() if _is_in(segment, codes.region)}
        return next(iter(found.values())).index if len(found) == 1 else find_index(segment.name, found)
    return NOT_LOOKED_AT if is_not_looked_at(segment.name) else find_index(segment.name, labels)


def concept(code: Code) -> "Concept":
    """A code as pydicom and highdicom want it; it equals the same concept in the older scheme SRT."""
    from pydicom.sr.coding import Code as Concept  # a second, for its tables of all codes

    return Concept(code.value, code.scheme, code.meaning)


def cielab(color: tuple[int, int, int]) -> list[int]:
    """RecommendedDisplayCIELabValue of an sRGB color (0 to 255 each).

    The white point is D65, with which dcmtk, dcmqi and OHIF turn it back into the same color.
    """
    srgb = np.array(color) / 255
    linear = np.where(srgb > 0.04045, ((srgb + 0.055) / 1.055) ** 2.4, srgb / 12.92)
    ratio = _SRGB_TO_XYZ @ linear / _D65
    x, y, z = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    scaled = np.array([(116 * y - 16) / 100, (500 * (x - y) + 128) / 255, (200 * (y - z) + 128) / 255])
    return [int(value) for value in np.rint(np.clip(scaled, 0, 1) * 65535)]


def _codes(item: Dataset, keyword: str) -> list[Code]:
    found = []
    for each in item.get(keyword) or ():
        value, scheme = str(each.get("CodeValue") or ""), str(each.get("CodingSchemeDesignator") or "")
        if value and scheme:
            meaning = str(each.get("CodeMeaning") or value)
            found.append(Code(value=value[:16], scheme=scheme[:16], meaning=meaning[:64]))
    return found


def _is_in(segment: Segment, region: Code | None) -> bool:
    return region is None or not segment.regions or any(_same(each, region) for each in segment.regions)


def _same(first: Code | None, second: Code | None) -> bool:
    return first is not None and second is not None and bool(concept(first) == concept(second))
