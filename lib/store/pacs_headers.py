"""A series' headers beside its volume: what a DICOM SEG needs of its source, so that the PACS isn't needed to write it.

Gzipped DICOM JSON (PS3.18 annex F): of one object all that is neither pixels nor private, of others where they lie.
Patient data is in it, as it must be in a SEG; the working folder is protected for that.
"""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from lib.dicom.series import Series, series_grid
from lib.dicom_seg.source import SourceSeries, SourceSlice
from lib.errors import BadInputError
from lib.files import atomic_write

_OF_EACH = (
    "SOPClassUID", "SOPInstanceUID", "Modality", "ImageType", "StudyInstanceUID", "SeriesInstanceUID",
    "FrameOfReferenceUID", "PatientID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "SliceThickness", "InstanceNumber", "Rows", "Columns",
)  # fmt: skip
_BINARY = {"OB", "OD", "OF", "OL", "OV", "OW", "UN"}


def write_headers(path: Path, headers: Sequence[Dataset], series: Series) -> None:
    """Keep the headers of a series, whole or not at all.

    Args:
        path: ends in `.json.gz`.
        headers: of all objects that were read.
        series: what they made; only objects that hold one of its slices are kept.

    Raises:
        StorageError: the disk refused.
    """
    used = {item.sop_instance_uid for item in series.slices}
    first, *others = [header for header in headers if str(header.get("SOPInstanceUID")) in used]
    kept = [_public(first), *(_short(one) for one in others)]
    content = json.dumps([one.to_json_dict(suppress_invalid_tags=True) for one in kept])
    with atomic_write(path) as temporary:
        temporary.write_bytes(gzip.compress(content.encode(), mtime=0))


def read_source(path: Path) -> SourceSeries:
    """The series that a SEG refers to.

    Raises:
        FileNotFoundError: there are no headers.
        BadInputError: the file is damaged.
    """
    content = path.read_bytes()
    try:
        headers = [Dataset.from_json(item) for item in json.loads(gzip.decompress(content))]
        series = series_grid(headers, path.name)
        header = headers[0]
    except (OSError, EOFError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        msg = f"{path} is damaged; remove it, and the series is fetched again"
        raise BadInputError(msg) from error
    return SourceSeries(header, series.grid, tuple(_slice(item) for item in series.slices))


def _slice(item: Any) -> SourceSlice:
    x, y, z = (float(value) for value in item.position)
    return SourceSlice(item.sop_class_uid, item.sop_instance_uid, (x, y, z), item.frame_number)


def _public(header: Dataset) -> Dataset:
    """All that is neither private nor binary."""
    kept = Dataset()
    for element in header:
        if not element.tag.is_private and element.VR not in _BINARY and not element.VR.startswith("OB or"):
            kept[element.tag] = element
    return kept


def _short(header: Dataset) -> Dataset:
    kept = Dataset()
    for keyword in _OF_EACH if "NumberOfFrames" not in header else ():
        if keyword in header:
            kept[keyword] = header[keyword]
    return kept if len(kept) else _public(header)
