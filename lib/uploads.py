"""What a file is, by its first bytes: names that clients send say nothing.

Only what LiverLoop reads has a kind. Sources: NIfTI-1 and NIfTI-2 (nifti1.h, nifti2.h: size of the header, then its
magic), NRRD (its magic line), DICOM PS3.10 7.1 (preamble and prefix), POSIX pax/ustar (magic and checksum), PKWARE's
APPNOTE.TXT 4.3.7 (local file header), RFC 1952 (gzip).
"""

import re
import zlib
from enum import Enum

HEAD_BYTES = 4096  # of a file are enough to tell its kind
_NRRD = re.compile(rb"NRRD000[1-5]\r?\n")
_SEGMENT = re.compile(rb"^Segment0_Name:=", re.MULTILINE)
_GZIP = b"\x1f\x8b\x08"
_ZIP = b"PK\x03\x04"
_DICOM, _PREAMBLE = b"DICM", 128
_TAR_BLOCK = 512
_TAR_CHECKSUM = slice(148, 156)
_TAR_MAGICS = (b"ustar\x00", b"ustar ")  # POSIX and GNU


class Kind(Enum):
    """What LiverLoop takes from clients."""

    NIFTI = "NIfTI"
    NRRD = "NRRD"
    DICOM = "DICOM"
    ARCHIVE = "archive"


def kind_of(head: bytes) -> Kind | None:
    r"""The kind of a file.

    Args:
        head: the first `HEAD_BYTES` of the file, or all of a shorter one. Gzip is looked into: gzipped NIfTI is NIFTI,
            a gzipped tar ARCHIVE; nothing else is taken gzipped.

    Returns:
        None for everything that is not taken: other formats, pairs of `.hdr` and `.img`, DICOM without preamble.

    Example:
        >>> kind_of(b"NRRD0004\n"), kind_of(b"#!/bin/sh")
        (<Kind.NRRD: 'NRRD'>, None)
    """
    suffix = suffix_by_content(head)
    return None if suffix is None else _KINDS[suffix]


def suffix_by_content(head: bytes) -> str | None:
    """The suffix by which the readers know a file.

    Args:
        head: as for `kind_of`; of an NRRD as much as may hold the header, which tells a segmentation from a volume.

    Returns:
        `.nii`, `.nii.gz`, `.nrrd`, `.seg.nrrd`, `.dcm`, `.zip`, `.tar` or `.tar.gz`; None for what is not taken.
    """
    if head.startswith(_GZIP):
        inner = _plain_suffix(_unpacked(head))
        return f"{inner}.gz" if inner in {".nii", ".tar"} else None
    return _plain_suffix(head)


def _plain_suffix(head: bytes) -> str | None:
    if _is_nifti(head):
        return ".nii"
    if _NRRD.match(head):
        return ".seg.nrrd" if _SEGMENT.search(head) else ".nrrd"
    if head[_PREAMBLE : _PREAMBLE + len(_DICOM)] == _DICOM:
        return ".dcm"
    if head.startswith(_ZIP):
        return ".zip"
    return ".tar" if _is_tar(head) else None


def _is_nifti(head: bytes) -> bool:
    sizes = {int.from_bytes(head[:4], order) for order in ("little", "big")}
    return (348 in sizes and head[344:348] == b"n+1\x00") or (540 in sizes and head[4:12] == b"n+2\x00\r\n\x1a\n")


def _is_tar(head: bytes) -> bool:
    """By the magic and by the checksum, which is counted with its own eight bytes as spaces."""
    block = head[:_TAR_BLOCK]
    if len(block) < _TAR_BLOCK or not block[257:].startswith(_TAR_MAGICS):
        return False
    try:
        announced = int(block[_TAR_CHECKSUM].split(b"\x00")[0].strip() or b"0", 8)
    except ValueError:
        return False
    return announced == sum(block) - sum(block[_TAR_CHECKSUM]) + 8 * ord(" ")


def _unpacked(head: bytes) -> bytes:
    """The first bytes within a gzip, no more than `HEAD_BYTES`; empty if it is damaged."""
    try:
        return zlib.decompressobj(wbits=31).decompress(head, HEAD_BYTES)
    except zlib.error:
        return b""


_KINDS = {
    ".nii": Kind.NIFTI,
    ".nii.gz": Kind.NIFTI,
    ".nrrd": Kind.NRRD,
    ".seg.nrrd": Kind.NRRD,
    ".dcm": Kind.DICOM,
    ".zip": Kind.ARCHIVE,
    ".tar": Kind.ARCHIVE,
    ".tar.gz": Kind.ARCHIVE,
}
