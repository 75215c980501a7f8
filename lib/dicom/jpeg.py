"""JPEG, JPEG-LS and JPEG 2000 frames in DICOM, decoded by libjpeg-turbo, CharLS and OpenJPEG through imagecodecs.

It lets other threads work meanwhile, which matters most for JPEG 2000: a CT of 200 slices takes seconds.

Their headers are looked at first: a decoder takes memory for whatever size a damaged header announces, and libjpeg
fills what a truncated image lacks with gray and says nothing.
"""

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import generate_pixel_data_frame
from pydicom.pixel_data_handlers.util import get_j2k_parameters
from pydicom.uid import JPEG2000, JPEG2000Lossless, JPEGLSLossless, JPEGLSNearLossless

_FRAME_HEADERS = (0xC0, 0xC1, 0xC2, 0xC3, 0xF7)  # ITU-T T.81, B.1.1.3, and T.87, C.1.1
_JPEG_2000 = (JPEG2000, JPEG2000Lossless)
_DECODERS = {
    JPEGLSLossless: imagecodecs.jpegls_decode,
    JPEGLSNearLossless: imagecodecs.jpegls_decode,
    JPEG2000: imagecodecs.jpeg2k_decode,
    JPEG2000Lossless: imagecodecs.jpeg2k_decode,
}
_SIZ = b"\xff\x4f\xff\x51"
_END = b"\xff\xd9"
_MOST_COMPONENTS = 4  # a decoder takes memory for all that are announced; colors are refused after it
_PADDING = 64  # bytes that may follow the end; one is usual


def decode_jpeg(dataset: Dataset) -> NDArray:
    """The frames of an encapsulated image.

    Returns:
        `(Y, X)`, or `(frame, Y, X)` for several; with the signs that the dataset announces.

    Raises:
        ValueError: truncated, or of another size than the dataset says.
        RuntimeError: what the decoders find wrong.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    decode = _DECODERS.get(syntax, imagecodecs.jpeg8_decode)
    size_of = _size_2000 if syntax in _JPEG_2000 else _size
    count = int(dataset.get("NumberOfFrames") or 1)
    frames = []
    for stream in generate_pixel_data_frame(dataset.PixelData, count):
        rows, columns, components = size_of(stream)
        _check_stream(stream, (rows, columns), (int(dataset.Rows), int(dataset.Columns)))
        if not 1 <= components <= _MOST_COMPONENTS:
            msg = f"an image of {components} components"
            raise ValueError(msg)
        plane = decode(stream)
        if syntax in _JPEG_2000 and dataset.PixelRepresentation == 1:
            plane = _with_sign(plane, stream)
        frames.append(plane)
    if len(frames) != count:
        msg = f"{len(frames)} frames found where {count} are announced"
        raise ValueError(msg)
    decoded = frames[0] if count == 1 else np.stack(frames)
    return decoded.view(f"i{decoded.itemsize}") if dataset.PixelRepresentation == 1 else decoded


def _check_stream(stream: bytes, size: tuple[int, int], expected: tuple[int, int]) -> None:
    if _END not in stream[-_PADDING:]:
        msg = "the image is truncated"
        raise ValueError(msg)
    if size != expected:
        msg = f"an image of {size[0]}x{size[1]} where {expected[0]}x{expected[1]} are announced"
        raise ValueError(msg)


def _size(stream: bytes) -> tuple[int, int, int]:
    """Rows, columns and components by the image's own header."""
    at = 2  # after the marker that starts an image come segments, each of marker, length and content
    while stream[at : at + 1] == b"\xff" and at + 10 <= len(stream):
        if stream[at + 1] in _FRAME_HEADERS:
            rows, columns = (int.from_bytes(stream[at + i : at + i + 2], "big") for i in (5, 7))
            return rows, columns, stream[at + 9]
        at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    msg = "the image has no header"
    raise ValueError(msg)


def _with_sign(plane: NDArray, stream: bytes) -> NDArray:
    """Signed values, also where an encoder took their two's complement, of fewer bits than a word, for unsigned."""
    bits = get_j2k_parameters(stream).get("precision")
    shift = 8 * plane.itemsize - bits if plane.dtype.kind == "u" and isinstance(bits, int) else 0
    return (plane << shift).view(f"i{plane.itemsize}") >> shift


def _size_2000(stream: bytes) -> tuple[int, int, int]:
    """Rows, columns and components by the SIZ segment (ITU-T T.800, A.5.1), which follows the start of a codestream."""
    at = stream.find(_SIZ) + len(_SIZ) + 4  # after its length and capabilities
    if at < len(_SIZ) + 4 or at + 34 > len(stream):
        msg = "the image has no header"
        raise ValueError(msg)
    width, height, left, top = (int.from_bytes(stream[at + 4 * i : at + 4 * i + 4], "big") for i in range(4))
    # Tiles and their offset come before the count of components.
    return height - top, width - left, int.from_bytes(stream[at + 32 : at + 34], "big")
