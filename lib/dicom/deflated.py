"""Objects that are stored deflated: whether they may be inflated, as pydicom does it in memory and at once.

A few megabytes could be made so that they fill any memory.
"""

import zlib
from pathlib import Path
from typing import BinaryIO

from pydicom.filereader import read_dataset, read_preamble
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian

MOST_BYTES = 1 << 30  # a SEG of ten classes of a thousand slices has a third of that
_CHUNK = 1 << 20


class NotInflatableError(ValueError):
    """An object that is not inflated; the message is what it is, such as "a damaged object"."""


def check_inflatable(path: Path, most_bytes: int = MOST_BYTES) -> None:
    """Refuse a DICOM file that is deflated and damaged, or too large to be inflated; others are not looked at.

    Args:
        path: a DICOM file.
        most_bytes: what it may have when inflated.

    Raises:
        NotInflatableError: it can't be.
        InvalidDicomError, EOFError, ValueError, struct.error: it is no DICOM file.
    """
    with path.open("rb") as file:
        read_preamble(file, force=False)
        meta = read_dataset(file, is_implicit_VR=False, is_little_endian=True, stop_when=_is_after_meta)
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            _check(file, most_bytes)


def _check(file: BinaryIO, most_bytes: int) -> None:
    inflater, count, rest = zlib.decompressobj(-zlib.MAX_WBITS), 0, b""
    try:
        while not inflater.eof and (rest := rest or file.read(_CHUNK)):
            count += len(inflater.decompress(rest, _CHUNK))
            rest = inflater.unconsumed_tail
            if count > most_bytes:
                msg = f"an object of more than {most_bytes / 2**30:.3g} GiB when inflated"
                raise NotInflatableError(msg)
    except zlib.error as error:
        msg = "a damaged object"
        raise NotInflatableError(msg) from error
    if not inflater.eof:
        msg = "an object without its end"
        raise NotInflatableError(msg)


def _is_after_meta(tag: BaseTag, _: str | None, __: int) -> bool:
    return tag.group != 2
