"""JPEG and JPEG-LS frames in DICOM, decoded by libjpeg-turbo and CharLS through imagecodecs.

Their headers are looked at first: a decoder takes memory for whatever size a damaged header announces, and libjpeg
fills what a truncated image lacks with gray and says nothing.
"""

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import generate_pixel_data_frame
from pydicom.uid import JPEGLSLossless, JPEGLSNearLossless

_FRAME_HEADERS = (0xC0, 0xC1, 0xC2, 0xC3, 0xF7)  # ITU-T T.81, B.1.1.3, and T.87, C.1.1
_END = b"\xff\xd9"
_PADDING = 64  # bytes that may follow the end; one is usual


def decode_jpeg(dataset: Dataset) -> NDArray:
    """The frames of an encapsulated image.

    Returns:
        `(Y, X)`, or `(frame, Y, X)` for several; with the signs that the dataset announces.

    Raises:
        ValueError: truncated, or of another size than the dataset says.
        RuntimeError: what the decoders find wrong.
    """
    is_ls = dataset.file_meta.TransferSyntaxUID in (JPEGLSLossless, JPEGLSNearLossless)
    decode = imagecodecs.jpegls_decode if is_ls else imagecodecs.jpeg8_decode
    count = int(dataset.get("NumberOfFrames") or 1)
    frames = []
    for stream in generate_pixel_data_frame(dataset.PixelData, count):
        _check_stream(stream, (int(dataset.Rows), int(dataset.Columns)))
        frames.append(decode(stream))
    if len(frames) != count:
        msg = f"{len(frames)} frames found where {count} are announced"
        raise ValueError(msg)
    decoded = frames[0] if count == 1 else np.stack(frames)
    return decoded.view(f"i{decoded.itemsize}") if dataset.PixelRepresentation == 1 else decoded


def _check_stream(stream: bytes, expected: tuple[int, int]) -> None:
    if _END not in stream[-_PADDING:]:
        msg = "the image is truncated"
        raise ValueError(msg)
    size = _size(stream)
    if size != expected:
        msg = f"an image of {size[0]}x{size[1]} where {expected[0]}x{expected[1]} are announced"
        raise ValueError(msg)


def _size(stream: bytes) -> tuple[int, int]:
    """Rows and columns by the image's own header."""
    at = 2  # after the marker that starts an image come segments, each of marker, length and content
    while stream[at : at + 1] == b"\xff" and at + 9 <= len(stream):
        if stream[at + 1] in _FRAME_HEADERS:
            return int.from_bytes(stream[at + 5 : at + 7], "big"), int.from_bytes(stream[at + 7 : at + 9], "big")
        at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    msg = "the image has no header"
    raise ValueError(msg)
