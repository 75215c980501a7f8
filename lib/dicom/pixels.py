"""The pixels of a DICOM CT in HU: decoding of every transfer syntax we take, stored bits, padding, rescaling.

pydicom decodes uncompressed, deflated and run-length encoded pixels by itself; JPEGs are done in `lib.dicom.jpeg`. Not
by GDCM, which pydicom would take as well: a damaged JPEG makes it end the whole process.
"""

import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import BytesLengthException, InvalidDicomError

from lib.dicom.deflated import NotInflatableError, check_inflatable
from lib.dicom.jpeg import decode_jpeg
from lib.dicom.slices import Slice
from lib.errors import BadInputError
from lib.volume import AIR_HU

_JPEG = "lib.dicom.jpeg"
_HANDLERS = {  # the others are pydicom's names
    uid.ImplicitVRLittleEndian: "numpy",
    uid.ExplicitVRLittleEndian: "numpy",
    uid.ExplicitVRBigEndian: "numpy",
    uid.DeflatedExplicitVRLittleEndian: "numpy",
    uid.RLELossless: "rle",
    uid.JPEG2000Lossless: _JPEG,
    uid.JPEG2000: _JPEG,
    uid.JPEGBaseline8Bit: _JPEG,
    uid.JPEGExtended12Bit: _JPEG,
    uid.JPEGLosslessP14: _JPEG,
    uid.JPEGLosslessSV1: _JPEG,
    uid.JPEGLSLossless: _JPEG,
    uid.JPEGLSNearLossless: _JPEG,
}
# Newer than pydicom's own list of names.
_NAMES = {
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
    "1.2.840.10008.1.2.4.201": "High-Throughput JPEG 2000 (Lossless Only)",
    "1.2.840.10008.1.2.4.202": "High-Throughput JPEG 2000 with RPCL Options (Lossless Only)",
    "1.2.840.10008.1.2.4.203": "High-Throughput JPEG 2000",
}
_NUMBERS = re.compile(r"[0-9.]{1,64}")  # what a UID is made of
_WIDEST = 32767  # what int16 holds
_DENSEST_HU = 3071  # what 12 bits hold above -1024; padding beyond it stands for nothing in a patient
_DAMAGED = (
    InvalidDicomError, BytesLengthException, EOFError, OSError, ValueError, NotImplementedError, RecursionError,
    LookupError, TypeError, AttributeError, OverflowError, zlib.error, struct.error,
)  # fmt: skip
# What pydicom raises on elements that are damaged, which it reads only when they are asked for.
_DAMAGED_ELEMENTS = (
    ValueError, TypeError, OverflowError, NotImplementedError, AttributeError, LookupError, EOFError, RecursionError,
    BytesLengthException, struct.error,
)  # fmt: skip
_UNDECODABLE = (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError, IndexError, struct.error)


def read_file(path: str, *, pixels: bool) -> FileDataset:
    """A DICOM file, or its header alone.

    Raises:
        BadInputError: damaged.
    """
    try:
        check_inflatable(Path(path))
        dataset = pydicom.dcmread(path, stop_before_pixels=not pixels)
    except _DAMAGED as error:
        # Not the error's own words: they can quote what the file holds.
        ours = isinstance(error, NotInflatableError)
        why = str(error) if ours else "truncated" if isinstance(error, EOFError) else type(error).__name__
        msg = f"{path}: damaged DICOM file ({why}); copy it again"
        raise BadInputError(msg) from error
    dataset.filename = path  # pydicom puts a buffer there for deflated files
    return dataset


@contextmanager
def damage_explained(place: str) -> Iterator[None]:
    """Turn what pydicom raises on damaged elements into an error for people.

    Args:
        place: the path of the file, or what messages call the object or series.

    Raises:
        BadInputError: an element is damaged.
    """
    try:
        yield
    except BadInputError:
        raise
    except _DAMAGED_ELEMENTS as error:
        # Not the error's own words: they quote the header, which holds the patient's name.
        msg = f"{place}: damaged DICOM header ({type(error).__name__}); copy the file again"
        raise BadInputError(msg) from error


def planes(slices: Sequence[Slice]) -> Iterator[NDArray[np.int16]]:
    """The pixels of slices that lie in one file, which is read and decoded once.

    Args:
        slices: their `source` is the path of the file.

    Returns:
        int16 HU `(Y, X)` of each, rows downwards; rounded, and clipped to 16 bits.

    Raises:
        BadInputError: a damaged file, colors, or pixels that can't be decoded.
    """
    path = slices[0].source
    with damage_explained(path):
        yield from _planes(slices, path)


def _planes(slices: Sequence[Slice], path: str) -> Iterator[NDArray[np.int16]]:
    dataset = read_file(path, pixels=True)
    if "PixelData" not in dataset:
        msg = f"{path}: lacks PixelData; the file is damaged or not a CT slice: copy it again or remove it"
        raise BadInputError(msg)
    decoded = _decoded(dataset, path)
    for item in slices:
        plane = decoded
        if item.frame_number is not None and int(dataset.get("NumberOfFrames") or 1) > 1:
            plane = decoded[item.frame_number - 1]
        if plane.shape != item.size:
            msg = f"{path}: a slice has shape {plane.shape}; expected one gray value per pixel"
            raise BadInputError(msg)
        yield _hounsfield(plane, dataset, item)


def _name_of(syntax: uid.UID | None) -> str:
    """A transfer syntax in words; of what is none, nothing is repeated."""
    if syntax is None:
        return "no transfer syntax"
    if syntax in uid.UID_dictionary or _NUMBERS.fullmatch(syntax):
        return str(syntax.name)
    return "an unknown transfer syntax"


def _decoded(dataset: FileDataset, path: str) -> NDArray:
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    name = _NAMES.get(str(syntax)) or _name_of(syntax)
    handler = _HANDLERS.get(syntax)
    if handler is None:
        msg = (
            f"{path}: compressed as {name}, which is not supported; have the PACS send, or export, the series "
            "as Explicit VR Little Endian"
        )
        raise BadInputError(msg)
    try:
        if handler == _JPEG:
            return decode_jpeg(dataset)
        dataset.convert_pixel_data(handler)
        return dataset.pixel_array
    except _UNDECODABLE as error:
        msg = (
            f"{path}: the pixels can't be decoded ({name}: {' '.join(str(error).split())[:200]}); copy the file "
            "again, or convert the series to uncompressed"
        )
        raise BadInputError(msg) from error


def _hounsfield(decoded: NDArray, dataset: Dataset, item: Slice) -> NDArray[np.int16]:
    values, slope, intercept = _stored_values(decoded, dataset), item.slope, item.intercept
    hu: NDArray
    if slope == 1 and intercept == int(intercept) and abs(intercept) <= _WIDEST and dataset.BitsAllocated <= 16:
        hu = np.add(values, int(intercept), dtype=np.int32, casting="unsafe")  # nearly every CT, in half the time
    else:
        hu = np.rint(values * np.float64(slope) + intercept)
    outside = _padding(decoded, dataset)
    if outside is not None:
        # Darker than air is left as it is. So is padding that equals tissue: such a header is wrong, and holes in
        # the patient would be worse than gray around them.
        hu[outside & (hu > _DENSEST_HU)] = AIR_HU
    if hu.min() < -_WIDEST - 1 or hu.max() > _WIDEST:
        np.clip(hu, -_WIDEST - 1, _WIDEST, out=hu)
    return hu.astype(np.int16)


def _stored_values(decoded: NDArray, dataset: Dataset) -> NDArray:
    """The values without what else the words hold (PS3.5 8.1.1), as integers wide enough for the sign."""
    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    if not 0 < stored < allocated:
        return decoded
    shift = int(dataset.get("HighBit", stored - 1)) + 1 - stored
    syntax = dataset.file_meta.TransferSyntaxUID
    as_words = not syntax.is_compressed or syntax == uid.RLELossless  # other codecs store the values alone
    wide = np.int32 if allocated <= 16 else np.int64
    values = decoded
    if as_words and (shift > 0 or _has_overlay_bits(dataset)):
        values = np.right_shift(values.astype(wide), max(shift, 0)) & ((1 << stored) - 1)
    if dataset.PixelRepresentation == 1:
        # Zeros may stand above the sign bit. What the stored bits can't hold, such as a padding of -3024, is meant so.
        half = 1 << (stored - 1)
        values = values.astype(wide)
        values[(values >= half) & (values < 2 * half)] -= 2 * half
    return values


def _has_overlay_bits(dataset: Dataset) -> bool:
    """Whether unused bits hold drawings, as before 2004 (PS3.3 C.9.2 then)."""
    groups = range(0x6000, 0x6020, 2)
    return any((group, 0x0102) in dataset and (group, 0x3000) not in dataset for group in groups)


def _padding(decoded: NDArray, dataset: Dataset) -> NDArray[np.bool_] | None:
    """Which pixels lie outside the field of view (PS3.3 C.7.5.1.1.2), as far as the header tells."""
    value, limit = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    if not isinstance(value, int):
        return None
    ends = [value, limit if isinstance(limit, int) else value]
    # Writers take the wrong one of two's complement and unsigned: 63536 for -2000.
    bits = 8 * decoded.dtype.itemsize
    low, high = sorted(np.array([end % (1 << bits) for end in ends], np.uint64).astype(decoded.dtype))
    return (decoded >= low) & (decoded <= high)
