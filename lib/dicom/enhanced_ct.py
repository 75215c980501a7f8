"""The slices of multi-frame CT objects: Enhanced CT (PS3.3 A.38) and its Legacy Converted sibling (A.70).

What an object of one slice says once, these say per frame or for all frames together, in functional groups; a frame's
own group counts before the shared one.
"""

from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage

from lib.dicom.slices import Slice, is_localizer, make_slice
from lib.errors import BadInputError

# The functional groups (PS3.3 C.7.6.16.2 and C.8.15.3) and what is taken from each.
_GROUPS = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept", "RescaleType"),
    "FrameContentSequence": ("StackID",),
    "CTImageFrameTypeSequence": ("FrameType",),
}


def is_enhanced(header: Dataset) -> bool:
    """Whether an object is a multi-frame CT that is no localizer as a whole."""
    kinds = (EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
    return header.get("SOPClassUID") in kinds and not is_localizer(header.get("ImageType"))


def frames_of(header: Dataset, source: str) -> list[Slice]:
    """The frames of a multi-frame object in their stored order, localizers left out.

    Args:
        header: with or without pixels.
        source: what messages call it.

    Raises:
        BadInputError: frames without description, or with one that can't be.
    """
    shared = _first(header, "SharedFunctionalGroupsSequence")
    described = list(header.get("PerFrameFunctionalGroupsSequence") or [])
    announced = int(header.get("NumberOfFrames") or 0)
    if not described or len(described) != announced:
        msg = (
            f"{source}: {announced} frames announced but {len(described)} described; the file is damaged: copy it "
            "again, or export the series with one file per slice"
        )
        raise BadInputError(msg)
    found = []
    for number, own in enumerate(described, start=1):
        values = _values(own, shared)
        if not is_localizer(values.get("FrameType")):
            stack = str(values.get("StackID") or "")
            found.append(make_slice(header, values, source, frame=number, stack=stack))
    return found


def _values(own: Dataset, shared: Dataset) -> dict[str, Any]:
    values = {}
    for group, names in _GROUPS.items():
        content = _first(own, group) or _first(shared, group)
        values.update({name: content.get(name) for name in names})
    return values


def _first(dataset: Dataset, name: str) -> Dataset:
    """The only item of a sequence, empty where there is none."""
    items = dataset.get(name)
    return items[0] if items else Dataset()
