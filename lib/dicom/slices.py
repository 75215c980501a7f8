"""One slice of a CT series as its header describes it, and which DICOM objects are slices at all."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage

from lib.errors import BadInputError

_OF_THE_PLANE = ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing")
_OF_THE_OBJECT = ("Rows", "Columns")
_OPTIONAL = (
    "SliceThickness", "InstanceNumber", "RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence",
)  # fmt: skip
# Hounsfield units, also after a correction; US (unspecified) is what older scanners and converters write.
_HOUNSFIELD = ("", "HU", "HU_MOD", "US")
_OTHER_UNITS = ("OD", "MGML", "Z_EFF", "ED", "EDW", "PCT")  # DICOM PS3.3 C.11.1.1.2


@dataclass(frozen=True, eq=False)
class Slice:
    """One plane of a series.

    Args:
        source: the path of its file, or else what messages call the object that holds it.
        sop_class_uid: kind of the object that holds it.
        sop_instance_uid: identity of the object that holds it; empty where the header has none.
        frame_number: from 1 on within a multi-frame object, None for an object of one slice.
        position: `(3,)`, center of the first pixel in mm, LPS.
        orientation: `(2, 3)`, directions in LPS in which column numbers and row numbers grow.
        pixel_spacing: mm between rows, mm between columns.
        size: rows, columns.
        thickness: mm; None where the header has none.
        slope: HU per stored unit.
        intercept: HU of the stored value 0.
        instance_number: the scanner's count; for a frame its number.
        stack: which of the stacks of a multi-frame series it belongs to; empty outside them.
    """

    source: str
    sop_class_uid: str
    sop_instance_uid: str
    frame_number: int | None
    position: NDArray[np.float64]
    orientation: NDArray[np.float64]
    pixel_spacing: tuple[float, float]
    size: tuple[int, int]
    thickness: float | None
    slope: float
    intercept: float
    instance_number: int | None
    stack: str = ""

    @property
    def normal(self) -> NDArray[np.float64]:
        """`(3,)`, across the slice in LPS; the volume's Z follows it."""
        return np.cross(*self.orientation)

    @property
    def height(self) -> float:
        """Where the slice lies along its normal, in mm; for axial slices their z."""
        return float(self.normal @ self.position)


def is_slice(header: Dataset) -> bool:
    """Whether a DICOM object is a CT slice: not a localizer, a dose report, a screenshot or another modality."""
    if header.get("Modality") != "CT" or is_localizer(header.get("ImageType")):
        return False
    if "ImagePositionPatient" in header:
        return True
    # A CT image without a position is damaged, which is worth saying, unless it is a page with text.
    return header.get("SOPClassUID") == CTImageStorage and "SECONDARY" not in _words(header.get("ImageType"))


def is_localizer(image_type: Any) -> bool:
    """Whether Image Type or Frame Type (PS3.3 C.8.2.1.1.1) says that this is a scout view."""
    return "LOCALIZER" in _words(image_type)


def slice_of(header: Dataset, source: str) -> Slice:
    """The slice in an object of one slice.

    Raises:
        BadInputError: the header lacks what the geometry needs, or holds what can't be.
    """
    return make_slice(header, {name: header.get(name) for name in (*_OF_THE_PLANE, *_OPTIONAL)}, source)


def make_slice(
    header: Dataset, values: Mapping[str, Any], source: str, *, frame: int | None = None, stack: str = ""
) -> Slice:
    """A slice of `header`'s object, whose position, spacing, rescaling and the like stand in `values`.

    Raises:
        BadInputError: they lack what the geometry needs, or hold what can't be.
    """
    place = source if frame is None else f"{source}, frame {frame}"
    missing = [name for name in _OF_THE_PLANE if values.get(name) in (None, "")]
    missing += [name for name in _OF_THE_OBJECT if header.get(name) in (None, "")]
    if missing:
        msg = f"{place}: lacks {', '.join(missing)}; the file is damaged or not a CT slice: copy it again or remove it"
        raise BadInputError(msg)
    _check_unit(values, place)
    rows, columns = numbers(header.Rows, 1, "Rows", place)[0], numbers(header.Columns, 1, "Columns", place)[0]
    down, across = numbers(values["PixelSpacing"], 2, "PixelSpacing", place)
    if min(rows, columns, down, across) <= 0:
        msg = f"{place}: {rows:g}x{columns:g} pixels of {down:g}x{across:g} mm can't be; the header is damaged"
        raise BadInputError(msg)
    thickness = _optional(values, "SliceThickness", place)
    number = frame if frame is not None else _optional(values, "InstanceNumber", place)
    return Slice(
        source=source,
        sop_class_uid=str(header.get("SOPClassUID") or ""),
        sop_instance_uid=str(header.get("SOPInstanceUID") or ""),
        frame_number=frame,
        position=np.array(numbers(values["ImagePositionPatient"], 3, "ImagePositionPatient", place)),
        orientation=_directions(values["ImageOrientationPatient"], place),
        pixel_spacing=(down, across),
        size=(int(rows), int(columns)),
        thickness=thickness if thickness and thickness > 0 else None,
        slope=_slope(values, place),
        intercept=_optional(values, "RescaleIntercept", place) or 0.0,
        instance_number=None if number is None else int(number),
        stack=stack,
    )


def numbers(value: Any, count: int, name: str, source: str) -> list[float]:
    """The finite numbers of an element.

    Raises:
        BadInputError: another count of them, or not numbers.
    """
    try:
        found = [float(item) for item in np.atleast_1d(np.asarray(value, dtype=object))]
    except (TypeError, ValueError):
        found = []
    if len(found) != count or not np.isfinite(found).all():
        expected = "a finite number" if count == 1 else f"{count} finite numbers"
        msg = f"{source}: {name} is not {expected}; the header is damaged: copy the file again"
        raise BadInputError(msg)
    return found


def _optional(values: Mapping[str, Any], name: str, source: str) -> float | None:
    value = values.get(name)
    return None if value in (None, "") else numbers(value, 1, name, source)[0]


def _slope(values: Mapping[str, Any], source: str) -> float:
    slope = _optional(values, "RescaleSlope", source)
    if slope == 0:
        msg = f"{source}: RescaleSlope is 0, which makes all pixels alike; export the series again"
        raise BadInputError(msg)
    return 1.0 if slope is None else slope


def _check_unit(values: Mapping[str, Any], source: str) -> None:
    unit = str(values.get("RescaleType") or "")
    if unit not in _HOUNSFIELD:
        named = unit if unit in _OTHER_UNITS else "another unit"  # any other text may name a patient
        msg = f"{source}: the pixels are in {named}, not in Hounsfield units; give the CT itself, not a map made of it"
        raise BadInputError(msg)
    if values.get("ModalityLUTSequence"):
        msg = f"{source}: has a table of values instead of rescale slope and intercept; export the series with those"
        raise BadInputError(msg)


def _directions(value: Any, source: str) -> NDArray[np.float64]:
    directions = np.array(numbers(value, 6, "ImageOrientationPatient", source)).reshape(2, 3)
    if not np.allclose(directions @ directions.T, np.eye(2), atol=1e-2):
        msg = (
            f"{source}: ImageOrientationPatient is not two directions of length 1 at right angles; the header is "
            "damaged: copy the file again"
        )
        raise BadInputError(msg)
    return directions


def _words(image_type: Any) -> set[str]:
    if image_type is None:
        return set()
    parts = [image_type] if isinstance(image_type, str) else image_type
    return {str(part).strip().upper() for part in parts}
