"""The NRRD format: attached headers, LPS or RAS space, 3D Slicer's segment fields and layers.

pynrrd parses headers and voxels; unpacking, limits and writing are done here.
"""

import bz2
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import nrrd
import numpy as np
from isal import igzip
from numpy.typing import NDArray

from lib.errors import BadInputError
from lib.segments import Segment, find_segments
from lib.volume import LPS_TO_RAS, Grid, checked_shape

_TO_RAS = {
    **dict.fromkeys(("left-posterior-superior", "lps"), LPS_TO_RAS),
    **dict.fromkeys(("right-anterior-superior", "ras"), np.eye(4)),
    **dict.fromkeys(("left-anterior-superior", "las"), np.diag([-1.0, 1.0, 1.0, 1.0])),
}
_TYPES = {"uint8": "uint8", "int16": "int16", "int32": "int32", "float32": "float", "float64": "double"}
_WIDEST_VOXEL = 8  # bytes
REQUIRED = ("type", "dimension", "sizes", "encoding")  # fields
_NO_NRRD, _NO_END = WORDS = ("it does not begin with NRRD", "its header does not end")
# The format's own spaces that we don't take.
_SPACES = {
    one + time for one in ("scanner-xyz", "3d-right-handed", "3d-left-handed", *_TO_RAS) for time in ("", "-time")
}
_LONGEST_LINE, _MOST_LINES = 1_000_000, 10_000  # of a header


class Nrrd(NamedTuple):
    """What a file holds: voxels `(X, Y, Z)`, or `(layer, X, Y, Z)` if it has layers, RAS+ affine, segments."""

    array: NDArray
    affine: NDArray[np.float64]
    segments: list[Segment]


def read_nrrd(path: Path, *, may_be_layered: bool = False) -> Nrrd:
    """Read an attached NRRD.

    Args:
        path: the file.
        may_be_layered: segments count, and may lie in layers along the first of four axes.

    Raises:
        BadInputError: another count of axes, a size or a space that we don't take, voxels in another file.
        OSError, ValueError and what else pynrrd and the unpackers raise on damaged files.
    """
    with path.open("rb") as file:
        header = _header(file)
        shape, segments = _layout(header, path, may_be_layered=may_be_layered)
        array = _voxels(header, file).reshape(shape, order="F")
    layers = shape[0] if len(shape) == 4 else 1
    if any(not 0 <= segment.layer < layers for segment in segments):
        msg = f"{path.name}: a segment lies in a layer beyond the file's {layers}; save the segmentation again"
        raise BadInputError(msg)
    return Nrrd(array, _affine(header, path), segments)


def read_nrrd_grid(path: Path, *, may_be_layered: bool = False) -> Grid:
    """Shape `(X, Y, Z)` and affine by the header alone; arguments and errors as for `read_nrrd`."""
    with path.open("rb") as file:
        header = _header(file)
    x, y, z = _layout(header, path, may_be_layered=may_be_layered)[0][-3:]
    return Grid((x, y, z), _affine(header, path))


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
        file.write(igzip.compress(voxels, compresslevel=1) if compress else voxels)


def _header(file: BinaryIO) -> dict[str, Any]:
    """Header fields; segment names are UTF-8, which pynrrd by itself would strip to ASCII."""
    if file.read(4) != b"NRRD":
        raise ValueError(_NO_NRRD)
    file.seek(0)
    lines: list[str] = []
    while (line := file.readline(_LONGEST_LINE)).strip():
        lines.append(line.decode("utf-8", errors="replace"))
        if len(lines) > _MOST_LINES:
            raise ValueError(_NO_END)
    if not line:
        msg = "its header is cut off"
        raise EOFError(msg)
    return dict(nrrd.read_header(lines))


def _layout(header: Mapping[str, Any], path: Path, *, may_be_layered: bool) -> tuple[tuple[int, ...], list[Segment]]:
    """The array's shape, layers first if there are any, and the segments in it."""
    if "data file" in header or "datafile" in header:
        # A detached header could name any file of the server.
        msg = f"{path.name}: keeps its voxels in another file; save it as one attached .nrrd"
        raise BadInputError(msg)
    sizes = tuple(int(size) for size in header["sizes"])
    segments = find_segments(header) if may_be_layered else []
    if len(sizes) == 4 and segments:
        return (sizes[0], *checked_shape(sizes[1:], path.name, layers=sizes[0])), segments
    return checked_shape(sizes, path.name), segments


def _voxels(header: Mapping[str, Any], file: BinaryIO) -> NDArray:
    """The voxels behind a header; of compressed ones no more than it announces is unpacked."""
    openers: dict[str, Any] = {"gzip": igzip.open, "gz": igzip.open, "bzip2": bz2.open, "bz2": bz2.open}
    encoding = str(header["encoding"]).lower()
    skips = any(key in header for key in ("byte skip", "byteskip", "line skip", "lineskip"))
    if encoding in openers and not skips:
        wanted = math.prod(int(size) for size in header["sizes"]) * _WIDEST_VOXEL
        with openers[encoding](file, "rb") as packed:
            header, file = {**header, "encoding": "raw"}, io.BytesIO(packed.read(wanted))
    return np.asarray(nrrd.read_data(header, file, index_order="F"))


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
        named = f"NRRD space {space!r}" if space in _SPACES else "the NRRD space"  # any other text may name a patient
        msg = f"{path.name}: {named} is not supported; use left-posterior-superior"
        raise BadInputError(msg)
    return _TO_RAS[space] @ affine
