"""The stored frames of a SEG, one at a time: bits, bytes or words, packed together or compressed each by itself."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from openjpeg.utils import get_parameters
from pydicom.dataset import Dataset
from pydicom.encaps import generate_pixel_data_frame
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from lib.errors import BadInputError

_NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian)


def frames_of(dataset: Dataset, count: int) -> Iterator[NDArray]:
    """Decode the frames in their order.

    Args:
        dataset: a SEG whose Rows, Columns and counts have been checked; no more memory than its pixel data and one
            frame is taken.
        count: frames that it announces.

    Yields:
        `(rows, columns)` uint8 (bits as 0 and 1) or uint16.

    Raises:
        BadInputError: no pixel data, less than announced, or a form that we don't read.
    """
    bits, syntax = int(dataset.BitsAllocated), _syntax_of(dataset)
    data = dataset.get("PixelData")
    if not data:
        msg = "the SEG has no pixel data; store it again"
        raise BadInputError(msg)
    if bits not in (1, 8, 16) or int(dataset.get("SamplesPerPixel") or 1) != 1:
        msg = f"the SEG has {dataset.get('SamplesPerPixel')} samples of {bits} bits; one of 1, 8 or 16 bits is read"
        raise BadInputError(msg)
    if syntax in _NATIVE:
        return _native(data, count, int(dataset.Rows), int(dataset.Columns), bits)
    if syntax in (RLELossless, JPEG2000Lossless) and bits > 1:
        return _compressed(dataset, data, count, syntax)
    msg = (
        f"the SEG is stored as {syntax.name} with {bits} bits, which is not read; store it uncompressed (Explicit VR "
        "Little Endian)"
    )
    raise BadInputError(msg)


def _syntax_of(dataset: Dataset) -> UID:
    """The transfer syntax; uncompressed where none is named, as of a dataset that was never a file."""
    named = getattr(dataset, "file_meta", Dataset()).get("TransferSyntaxUID")
    return UID(str(named)) if named else ExplicitVRLittleEndian


def _native(data: bytes, count: int, rows: int, columns: int, bits: int) -> Iterator[NDArray]:
    size = rows * columns * bits
    if len(data) * 8 < size * count:
        msg = f"the SEG announces {count} frames but holds {len(data):,} bytes; store it again"
        raise BadInputError(msg)
    for number in range(count):
        start, end = number * size, (number + 1) * size
        stored = np.frombuffer(data, np.uint8, (end + 7) // 8 - start // 8, start // 8)
        if bits == 1:  # frames follow each other without a gap, so one may begin within a byte
            stored = np.unpackbits(stored, bitorder="little")[start % 8 :][:size]
        yield stored.view("<u2" if bits == 16 else np.uint8).reshape(rows, columns)


def _compressed(dataset: Dataset, data: bytes, count: int, syntax: UID) -> Iterator[NDArray]:
    from highdicom.frame import decode_frame  # a second, which scripts without a PACS need not wait for

    rows, columns, bits = int(dataset.Rows), int(dataset.Columns), int(dataset.BitsAllocated)
    found = 0
    for found, frame in enumerate(generate_pixel_data_frame(data, count), start=1):
        if found > count:
            break
        if syntax == JPEG2000Lossless:
            inner = get_parameters(frame)
            if (inner["rows"], inner["columns"], inner["samples_per_pixel"]) != (rows, columns, 1):
                msg = f"frame {found} of the SEG is {inner['rows']}x{inner['columns']}, not {rows}x{columns} as it says"
                raise BadInputError(msg)
        yield decode_frame(frame, syntax, rows, columns, 1, bits, int(dataset.BitsStored), "MONOCHROME2")
    if found != count:
        msg = f"the SEG announces {count} frames but holds {found}; store it again"
        raise BadInputError(msg)
