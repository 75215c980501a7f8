"""The NIfTI format, 1 and 2, in one file: nibabel parses headers; voxels and limits are done here."""

from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from isal import igzip
from numpy.typing import NDArray

from lib.errors import BadInputError
from lib.files import read_into
from lib.gzip_file import unpack_into
from lib.limits import DEFAULT_LIMITS, MOST_DEFLATED, Limits
from lib.volume import Grid, checked_shape, checked_size

_BY_SIZE: Any = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
_MOST_BEFORE_VOXELS = 64_000_000  # bytes of a NIfTI file's header and extensions


class _Header(NamedTuple):
    """What a NIfTI header says: shape `(X, Y, Z)`, stored numbers, where they begin, what they mean, RAS+ affine."""

    shape: tuple[int, int, int]
    dtype: np.dtype
    size: int
    offset: int
    slope: float
    intercept: float
    affine: NDArray[np.float64]


def read_nifti(path: Path, limits: Limits = DEFAULT_LIMITS, *, compressed: bool) -> tuple[NDArray, NDArray[np.float64]]:
    """Voxels `(X, Y, Z)`, rescaled to float32 where the header says so, and the RAS+ affine.

    Args:
        path: the file.
        limits: what is taken.
        compressed: it is gzipped.

    Raises:
        BadInputError: not a NIfTI file with voxels that we take, by its header.
        OSError, ValueError, EOFError and what else nibabel and the unpackers raise on damaged files.
    """
    header = _header(path, limits, compressed=compressed)
    length = path.stat().st_size
    if header.offset + header.size > (length * MOST_DEFLATED if compressed else length):
        msg = f"the file has {length} bytes, too few for {header.size} bytes of voxels"
        raise EOFError(msg)
    raw = _voxels(path, header, compressed=compressed)
    if header.slope == 1.0 and header.intercept == 0.0:
        return raw, header.affine
    array = raw.astype(np.float32)
    array *= np.float32(header.slope)
    array += np.float32(header.intercept)
    return array, header.affine


def read_nifti_grid(path: Path, limits: Limits = DEFAULT_LIMITS, *, compressed: bool) -> Grid:
    """Shape `(X, Y, Z)` and affine by the header alone; arguments and errors as for `read_nifti`."""
    header = _header(path, limits, compressed=compressed)
    return Grid(header.shape, header.affine)


def _header(path: Path, limits: Limits, *, compressed: bool) -> _Header:
    opened: Any = igzip.open(path, "rb") if compressed else path.open("rb")
    with opened as file:
        start = file.read(max(_BY_SIZE))
    sizes = (int.from_bytes(start[:4], order) for order in ("little", "big"))
    count = next((size for size in sizes if size in _BY_SIZE), None)
    if count is None:
        msg = f"{path.name}: not a NIfTI file (it begins with {start[:4]!r}); export it again"
        raise BadInputError(msg)
    if (start[344:346] if count == 348 else start[4:6]) == b"ni":
        msg = f"{path.name}: holds a header only, its voxels are in an .img file; export it as one .nii"
        raise BadInputError(msg)
    if len(start) < count:
        msg = "its header is cut off"
        raise EOFError(msg)
    # The header alone: extensions may hold anything, and nothing of them is needed.
    header = _BY_SIZE[count](start[:count])
    shape, dtype = checked_shape(header.get_data_shape(), path.name, limits=limits), header.get_data_dtype()
    size = checked_size(shape, dtype, path.name, limits)
    offset = header.get_data_offset() or count + 4  # the four bytes say whether extensions follow
    if not count <= offset <= _MOST_BEFORE_VOXELS:
        msg = f"its voxels can't begin at byte {offset}"
        raise ValueError(msg)
    slope, intercept = header.get_slope_inter()
    return _Header(shape, dtype, size, offset, slope or 1.0, intercept or 0.0, header.get_best_affine())


def _voxels(path: Path, header: _Header, *, compressed: bool) -> NDArray:
    """The voxels.

    Raises:
        EOFError: the file ends before them.
    """
    voxels = np.empty(header.shape, header.dtype, order="F")
    memory = voxels.reshape(-1, order="F").view(np.uint8).data
    if compressed:
        done = unpack_into(memory, path, skip=header.offset)
    else:  # nothing is mapped from disk: whoever shortened the file meanwhile would end the whole process
        with path.open("rb") as file:
            file.seek(header.offset)
            done = read_into(memory, file)
    if done < header.size:
        msg = f"the file ends after {done} of {header.size} bytes of voxels"
        raise EOFError(msg)
    return voxels
