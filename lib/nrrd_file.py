"""The NRRD format: attached headers, LPS or RAS space, 3D Slicer's segment fields and layers.

pynrrd parses headers; voxels, limits and writing are done here, so that no header can make another file be opened.
"""

import bz2
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import nrrd
import numpy as np
from isal import igzip
from numpy.typing import NDArray

from lib.errors import BadInputError
from lib.files import read_into
from lib.gzip_file import unpack_into
from lib.limits import DEFAULT_LIMITS, MOST_DEFLATED, Limits
from lib.segments import Segment, find_segments
from lib.volume import LPS_TO_RAS, Grid, checked_shape, checked_size

_TO_RAS = {
    **dict.fromkeys(("left-posterior-superior", "lps"), LPS_TO_RAS),
    **dict.fromkeys(("right-anterior-superior", "ras"), np.eye(4)),
    **dict.fromkeys(("left-anterior-superior", "las"), np.diag([-1.0, 1.0, 1.0, 1.0])),
}
_TYPES = {"uint8": "uint8", "int16": "int16", "int32": "int32", "float32": "float", "float64": "double"}
_STORED = {  # what the format calls its types
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_CODES = {name: code for code, names in _STORED.items() for name in names}
_BYTE_ORDERS: Any = {"little": "<", "big": ">"}
_ASCII, _GZIP, _BZIP2 = ("ascii", "text", "txt"), ("gzip", "gz"), ("bzip2", "bz2")
_SKIPS = ("line skip", "lineskip", "byte skip", "byteskip")
_LONGEST_LINE, _MOST_LINES, _LONGEST_HEADER = 1_000_000, 10_000, 8_000_000  # bytes, lines, bytes
REQUIRED = ("type", "dimension", "sizes", "encoding", "endian")  # fields
# What the format knows and we don't take. Only these words of a header are quoted: any other may name a patient.
_NOT_TAKEN = {
    "block", "hex", "scanner-xyz", "3d-right-handed", "3d-left-handed",
    *(f"{space}-time" for space in ("scanner-xyz", "3d-right-handed", "3d-left-handed", *_TO_RAS)),
}  # fmt: skip
_MOST_SEGMENTS = 255  # more values than that has no label


class NrrdError(ValueError):
    """A damaged file, in words that quote nothing of it but numbers."""


class Nrrd(NamedTuple):
    """What a file holds: voxels `(X, Y, Z)`, or `(layer, X, Y, Z)` if it has layers, RAS+ affine, segments."""

    array: NDArray
    affine: NDArray[np.float64]
    segments: list[Segment]


def read_nrrd(path: Path, *, may_be_layered: bool = False, limits: Limits = DEFAULT_LIMITS) -> Nrrd:
    """Read an attached NRRD.

    Args:
        path: the file.
        may_be_layered: segments count, and may lie in layers along the first of four axes.
        limits: what is taken.

    Raises:
        BadInputError: another count of axes, a size, a space or an encoding that we don't take, voxels in another file.
        OSError, ValueError and what else pynrrd and the unpackers raise on damaged files.
    """
    with path.open("rb") as file:
        header = _header(file)
        shape, segments = _layout(header, path, limits, may_be_layered=may_be_layered)
        array = _voxels(header, file, shape, path, limits)
    layers = shape[0] if len(shape) == 4 else 1
    if any(not 0 <= segment.layer < layers for segment in segments):
        msg = f"{path.name}: a segment lies in a layer beyond the file's {layers}; save the segmentation again"
        raise BadInputError(msg)
    return Nrrd(array, _affine(header, path), segments)


def read_nrrd_grid(path: Path, *, may_be_layered: bool = False, limits: Limits = DEFAULT_LIMITS) -> Grid:
    """Shape `(X, Y, Z)` and affine by the header alone; arguments and errors as for `read_nrrd`."""
    with path.open("rb") as file:
        header = _header(file)
    shape = _layout(header, path, limits, may_be_layered=may_be_layered)[0]
    checked_size(shape, _dtype(header, path), path.name, limits)
    x, y, z = shape[-3:]
    return Grid((x, y, z), _affine(header, path))


def is_packed_nrrd(path: Path) -> bool:
    """Whether the voxels are compressed, by the header alone.

    Raises:
        OSError, ValueError and what else pynrrd raises on damaged files.
    """
    with path.open("rb") as file:
        return _encoding(_header(file)) in _GZIP + _BZIP2


def write_nrrd(
    path: Path, array: NDArray, affine: NDArray[np.float64], fields: Mapping[str, str], *, compress: bool
) -> None:
    """Write voxels in LPS space.

    Args:
        path: the file, overwritten.
        array: `(X, Y, Z)`, or `(layer, X, Y, Z)`.
        affine: voxel index to RAS+ mm.
        fields: keys and values beside those of the format, see `lib.segments.segment_fields`.
        compress: gzip the voxels.
    """
    lps = LPS_TO_RAS @ affine
    layered = array.ndim == 4
    vectors = ["(" + ",".join(f"{value:.17g}" for value in vector) + ")" for vector in lps[:3].T]
    header = {
        "type": _TYPES[array.dtype.name],
        "dimension": array.ndim,
        "space": "left-posterior-superior",
        "sizes": " ".join(map(str, array.shape)),
        "space directions": " ".join([*["none"] * layered, *vectors[:3]]),
        "kinds": " ".join([*["list"] * layered, "domain", "domain", "domain"]),
        "endian": "little",
        "encoding": "gzip" if compress else "raw",
        "space origin": vectors[3],
    }
    lines = ["NRRD0005", *(f"{key}: {value}" for key, value in header.items())]
    lines += [f"{key}:={value}" for key, value in fields.items()]
    # In the order of the file, which for a label that we made is that of memory: no copy.
    voxels = np.asfortranarray(array, dtype=array.dtype.newbyteorder("<")).T.data
    with path.open("wb") as file:
        file.write("\n".join([*lines, "", ""]).encode())
        # Without the time: the same voxels are the same file.
        file.write(igzip.compress(voxels, compresslevel=1, mtime=0) if compress else voxels)


def _header(file: BinaryIO) -> dict[str, Any]:
    """Header fields; segment names are UTF-8, which pynrrd by itself would strip to ASCII."""
    if file.read(4) != b"NRRD":
        msg = "it does not begin with NRRD"
        raise NrrdError(msg)
    file.seek(0)
    lines: list[str] = []
    size = 0
    while (line := file.readline(_LONGEST_LINE)).strip():
        lines.append(line.decode("utf-8", errors="replace"))
        size += len(line)
        if len(line) == _LONGEST_LINE or len(lines) > _MOST_LINES or size > _LONGEST_HEADER:
            msg = "its header does not end"
            raise NrrdError(msg)
    if not line:
        msg = "its header is cut off"
        raise EOFError(msg)
    return dict(nrrd.read_header(lines))


def _layout(
    header: Mapping[str, Any], path: Path, limits: Limits, *, may_be_layered: bool
) -> tuple[tuple[int, ...], list[Segment]]:
    """The array's shape, layers first if there are any, and the segments in it."""
    if "data file" in header or "datafile" in header:
        # A detached header could name any file of the server.
        msg = f"{path.name}: keeps its voxels in another file; save it as one attached .nrrd"
        raise BadInputError(msg)
    sizes = tuple(int(size) for size in header["sizes"])
    if header["dimension"] != len(sizes):
        msg = f"it announces {header['dimension']} axes and gives the sizes of {len(sizes)}"
        raise NrrdError(msg)
    segments = find_segments(header) if may_be_layered else []
    if len(segments) > _MOST_SEGMENTS:
        msg = f"{path.name}: has {len(segments)} segments; at most {_MOST_SEGMENTS} are taken"
        raise BadInputError(msg)
    if len(sizes) == 4 and segments:
        return (sizes[0], *checked_shape(sizes[1:], path.name, sizes[0], limits)), segments
    return checked_shape(sizes, path.name, limits=limits), segments


def _dtype(header: Mapping[str, Any], path: Path) -> np.dtype:
    kind = str(header["type"]).lower()
    if kind not in _CODES:
        msg = f"{path.name}: holds voxels of {_named('the type', kind)}; expected one gray value per voxel"
        raise BadInputError(msg)
    dtype = np.dtype(_CODES[kind])
    if dtype.itemsize == 1 or _encoding(header) in _ASCII:
        return dtype
    order = str(header["endian"]).lower()
    if order not in _BYTE_ORDERS:
        msg = "its byte order is neither little nor big"
        raise NrrdError(msg)
    return dtype.newbyteorder(_BYTE_ORDERS[order])


def _encoding(header: Mapping[str, Any]) -> str:
    return str(header["encoding"]).lower()


def _voxels(
    header: Mapping[str, Any], file: BinaryIO, shape: tuple[int, ...], path: Path, limits: Limits
) -> NDArray[Any]:
    """The voxels behind a header; of compressed ones no more than it announces is unpacked."""
    encoding, dtype = _encoding(header), _dtype(header, path)
    size = checked_size(shape, dtype, path.name, limits)
    if any(header.get(key, 0) != 0 for key in _SKIPS):
        msg = f"{path.name}: skips a part of the file before its voxels; save it without 'line skip' and 'byte skip'"
        raise BadInputError(msg)
    packed_size = os.fstat(file.fileno()).st_size - file.tell()
    if encoding in _ASCII:
        # Each number takes a digit and a space at least.
        count = size // dtype.itemsize
        voxels = np.fromfile(file, dtype, count, sep=" ") if packed_size >= 2 * count - 1 else np.empty(0, dtype)
        done = voxels.nbytes
    elif encoding == "raw":
        if packed_size > size:
            msg = f"{packed_size} bytes of voxels where {size} are announced"
            raise NrrdError(msg)
        voxels, done = np.fromfile(file, dtype), packed_size
    elif encoding in _GZIP and size > packed_size * MOST_DEFLATED:
        voxels, done = np.empty(0, dtype), 0
    elif encoding in _GZIP + _BZIP2:
        voxels = np.empty(size // dtype.itemsize, dtype)
        memory = voxels.view(np.uint8).data
        if encoding in _GZIP:
            done = unpack_into(memory, path, file.tell())
        else:
            with bz2.open(file, "rb") as packed:
                done = read_into(memory, packed)
    else:
        msg = f"{path.name}: {_named('the NRRD encoding', encoding)} is not supported; save it as raw or gzip"
        raise BadInputError(msg)
    if done != size:
        msg = f"the file ends after {done} of {size} bytes of voxels"
        raise EOFError(msg)
    return voxels.reshape(shape, order="F")


def _affine(header: Mapping[str, Any], path: Path) -> NDArray[np.float64]:
    """Voxel index to RAS+ mm; like ITK, LPS where no space is named and 1 mm where no spacing is."""
    affine = np.eye(4)
    if (directions := header.get("space directions")) is not None:
        vectors = np.asarray(directions, dtype=np.float64)
        vectors = vectors[np.isfinite(vectors).all(axis=1)]
        if vectors.shape != (3, 3):
            msg = f"{path.name}: has space directions of shape {vectors.shape}; expected three vectors of three numbers"
            raise BadInputError(msg)
        affine[:3, :3] = vectors.T
    elif (spacings := header.get("spacings")) is not None:
        affine[:3, :3] = np.diag(np.asarray(spacings, dtype=np.float64)[-3:])
    affine[:3, 3] = np.asarray(header.get("space origin", (0, 0, 0)), dtype=np.float64)
    space = str(header.get("space", "left-posterior-superior")).lower()
    if space not in _TO_RAS:
        msg = f"{path.name}: {_named('the NRRD space', space)} is not supported; use left-posterior-superior"
        raise BadInputError(msg)
    return _TO_RAS[space] @ affine


def _named(what: str, value: str) -> str:
    return f"{what} {value!r}" if value in _NOT_TAKEN else f"{what} that it names"
