"""Small valid files of every kind that is taken, and damaged ones made of them by a seed."""

import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pydicom
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from lib.labels import DEFAULT_LABELS
from lib.volume import Volume
from lib.volume_io import write_image, write_label, write_planes
from tests.dicom.written import ORIGIN, make_slice, recompress, save, stored_values

SHAPE = (4, 5, 6)
AFFINE = np.diag([-0.7, -0.8, 2.5, 1.0])
# What tends to break readers: of headers' numbers, as they stand in binary and in words.
_NUMBERS = (0, 1, 2, 3, 7, 127, 128, 255, 256, 348, 540, 32767, 32768, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
_FLOATS = (0.0, -1.0, 1e-30, 1e30, np.inf, -np.inf, np.nan, 3e38, 352.0, 1e9)
_WORDS = (
    b"0", b"-1",
    b"1e400", b"nan", b"inf", b"999999999999999999999", b"4 5 6", b"2048 2048 280", b"1 1 1 1 1 1", b"none",
    b"(1,0,0) (0,1,0) (0,0,1)", b"(nan,0,0) none none", b"/etc/passwd", b"LIST", b"raw", b"gzip", b"bzip2", b"ascii",
    b"hex",
    b"big", b"little", b"float", b"block", b"uchar", b"\xff\xfe", b"", b"()", b"(", b"1,2", b"%d 0 9 1", b"x" * 5000,
)  # fmt: skip
_LINES = (
    b"data file: /etc/passwd", b"datafile: LIST", b"byte skip: -1", b"line skip: 99999999", b"sizes: 4 5 6",
    b"dimension: 4",
    b"Segment0_Name:=liver", b"Segment1_Name:=tumor", b"Segment0_Layer:=-1", b"Segment1_Layer:=7",
    b"Segment0_LabelValue:=1e9",
    b"Segment0_LabelValue:=999999999999999999999999", b"encoding: gzip", b"endian: big", b"space: lps",
    b"spacings: 1 1 1",
    b"space origin: (nan,0,0)", b"kinds: list domain domain domain", b"type: double", b": ", b"a", b"#",
    b"x:=" + b"y" * 3000,
)  # fmt: skip


def seeds() -> dict[str, bytes]:
    """Valid files by their names, whose suffixes say what they are; the same in every process."""
    found: dict[str, bytes] = {}
    rng = np.random.default_rng(0)
    classes = Volume(rng.integers(0, 3, SHAPE).astype(np.uint8), AFFINE)
    hounsfield = Volume(rng.integers(-1000, 900, SHAPE).astype(np.int16), AFFINE)
    with TemporaryDirectory() as folder:
        path = Path(folder)
        for suffix in (".nii", ".nii.gz", ".nrrd"):
            write_image(path / f"image{suffix}", hounsfield)
        for suffix in (".nii", ".nii.gz", ".nrrd", ".seg.nrrd"):
            write_label(path / f"label{suffix}", classes, DEFAULT_LABELS)
        write_label(path / "raw.seg.nrrd", classes, DEFAULT_LABELS, compress=False)
        write_planes(path / "planes.seg.nrrd", classes, DEFAULT_LABELS)
        _save_slice(path / "plain.dcm")
        _save_slice(path / "implicit.dcm", ImplicitVRLittleEndian)
        _save_slice(path / "deflated.dcm", DeflatedExplicitVRLittleEndian)
        _save_slice(path / "jpeg2000.dcm", JPEG2000Lossless)
        for name, syntax in (("jpegls", JPEGLSLossless), ("jpeg", JPEGLosslessSV1)):
            _save_slice(path / f"{name}.dcm")
            recompress(path / f"{name}.dcm", syntax)
        rle = pydicom.dcmread(path / "plain.dcm")
        rle.compress(RLELossless)
        rle.save_as(path / "rle.dcm")
        found = {each.name: each.read_bytes() for each in sorted(path.iterdir())}
    slices = [found["plain.dcm"], found["implicit.dcm"], b"text"]
    found |= {
        "series.zip": zipped(slices),
        "series.tar": tarred(slices),
        "series.tar.gz": gzip.compress(tarred(slices), 1, mtime=0),
    }
    return found


def _save_slice(path: Path, syntax: UID = ExplicitVRLittleEndian) -> None:
    """A slice whose UID is no new one each time."""
    made = make_slice(stored_values()[0], ORIGIN, syntax=syntax, SOPInstanceUID="1.2.3.4")
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    save(made, path)


def zipped(contents: list[bytes]) -> bytes:
    """A zip of files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, content in enumerate(contents):
            archive.writestr(zipfile.ZipInfo(f"CT/IM{number}"), content, zipfile.ZIP_DEFLATED, 1)
    return buffer.getvalue()


def tarred(contents: list[bytes]) -> bytes:
    """A tar of files, one with a long name."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for number, content in enumerate(contents):
            info = tarfile.TarInfo(f"IM{number}" + "n" * (120 * (number % 2)))
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def damaged(content: bytes, suffix: str, rng: np.random.Generator) -> bytes:
    """A file with one to four faults; of compressed ones half are made within."""
    if suffix in {".nii.gz", ".tar.gz"} and rng.random() < 0.6:
        inner = _with_faults(gzip.decompress(content), suffix, rng)
        if rng.random() < 0.05:
            inner += bytes(20_000_000)  # a small bomb; large ones have tests of their own
        return gzip.compress(inner, 1, mtime=0)
    return _with_faults(content, suffix, rng)


def _with_faults(content: bytes, suffix: str, rng: np.random.Generator) -> bytes:
    made = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        faults = _TEXT_FAULTS if suffix.endswith("nrrd") and rng.random() < 0.6 else _FAULTS
        made = faults[rng.integers(len(faults))](made, _length_of_head(made, suffix), rng)
        if not made:
            break
    return bytes(made)


def _length_of_head(content: bytearray, suffix: str) -> int:
    """Faults are made where they matter: mostly in headers."""
    if suffix in {".nii", ".nii.gz"}:
        return 352
    if suffix.endswith("nrrd"):
        return max(content.find(b"\n\n"), 20)
    return min(len(content), 1200)


Fault = Callable[[bytearray, int, np.random.Generator], bytearray]


def _place(content: bytearray, head: int, rng: np.random.Generator) -> int:
    return int(rng.integers(0, max(min(head, len(content)) if rng.random() < 0.8 else len(content), 1)))


def _flip(content: bytearray, head: int, rng: np.random.Generator) -> bytearray:
    for _ in range(rng.integers(1, 8)):
        at = _place(content, head, rng)
        if at < len(content):
            content[at] ^= 1 << int(rng.integers(8))
    return content


def _number(content: bytearray, head: int, rng: np.random.Generator) -> bytearray:
    order = "<>"[rng.integers(2)]
    if rng.random() < 0.3:
        packed = struct.pack(order + "f", _FLOATS[rng.integers(len(_FLOATS))])
    else:
        size = (1, 2, 4, 8)[rng.integers(4)]
        value = _NUMBERS[rng.integers(len(_NUMBERS))] % 256**size
        packed = value.to_bytes(size, "little" if order == "<" else "big")
    at = _place(content, head, rng) // 2 * 2
    content[at : at + len(packed)] = packed
    return content


def _cut(content: bytearray, head: int, rng: np.random.Generator) -> bytearray:
    return content[: int(rng.integers(0, len(content) + 1))]


def _drop(content: bytearray, head: int, rng: np.random.Generator) -> bytearray:
    at = _place(content, head, rng)
    del content[at : at + int(rng.integers(1, 40))]
    return content


def _insert(content: bytearray, head: int, rng: np.random.Generator) -> bytearray:
    at = _place(content, head, rng)
    content[at:at] = rng.bytes(int(rng.integers(1, 24)))
    return content


def _swap(content: bytearray, head: int, rng: np.random.Generator) -> bytearray:
    first, second = sorted(_place(content, head, rng) for _ in range(2))
    size = int(rng.integers(1, 64))
    content[first : first + size], content[second : second + size] = (
        content[second : second + size], content[first : first + size],
    )  # fmt: skip
    return content


def _repeat(content: bytearray, head: int, rng: np.random.Generator) -> bytearray:
    at, size = _place(content, head, rng), int(rng.integers(1, 400))
    content[at:at] = content[at : at + size] * int(rng.integers(1, 4))
    return content


def _fill(content: bytearray, head: int, rng: np.random.Generator) -> bytearray:
    at, size = _place(content, head, rng), int(rng.integers(1, 16))
    content[at : at + size] = bytes([(0, 255, 32, 10)[rng.integers(4)]]) * size
    return content


def _deflated_bomb(content: bytearray, head: int, rng: np.random.Generator) -> bytearray:
    """Something that unpacks to much, where packed bytes may stand."""
    return content[: max(head, 0)] + _bombs()[rng.integers(2)]


@cache
def _bombs() -> tuple[bytes, bytes]:
    """Three megabytes of nothing, as deflate alone and as gzip."""
    packers = (zlib.compressobj(9, zlib.DEFLATED, bits) for bits in (-15, 31))
    first, second = (packer.compress(bytes(3_000_000)) + packer.flush() for packer in packers)
    return first, second


def _line(content: bytearray, head: int, rng: np.random.Generator) -> bytearray:
    lines = bytes(content[:head]).split(b"\n")
    at = int(rng.integers(1, len(lines) + 1))
    match rng.integers(4):
        case 0:
            lines.insert(at, _LINES[rng.integers(len(_LINES))])
        case 1 if at < len(lines):
            del lines[at]
        case 2 if at < len(lines):
            lines.append(lines.pop(at))
        case _ if at < len(lines):
            key, separator, _ = lines[at].partition(b":")
            lines[at] = key + separator + b" " + _WORDS[rng.integers(len(_WORDS))]
    return bytearray(b"\n".join(lines)) + content[head:]


_FAULTS: tuple[Fault, ...] = (
    _flip, _flip, _number, _number, _number, _cut, _drop, _insert, _swap, _repeat, _fill, _deflated_bomb,
)  # fmt: skip
_TEXT_FAULTS: tuple[Fault, ...] = (_line, _line, _line, _line, _flip, _fill)
