"""Files that are no CT, each with what the server says of it."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np

from lib.volume import Volume
from lib.volume_io import write_image


class BadImage(NamedTuple):
    """How to write it, the end of its name and the reason it is refused for."""

    write: Callable[[Path, Volume], object]
    suffix: str
    reason: str


def _nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


def _floats(path: Path, volume: Volume, change: Callable[[np.ndarray], object]) -> None:
    array = volume.array.astype(np.float32)
    change(array)
    _nifti(path, array, volume.affine)


def _header_alone(path: Path, shape: tuple[int, ...]) -> None:
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((1,) * len(shape))
    header["dim"][1 : len(shape) + 1] = shape
    header["vox_offset"] = 352
    with nib.openers.ImageOpener(str(path), "wb") as file:
        file.write(header.binaryblock + b"\0" * 20)


def _nrrd_header(path: Path, fields: str) -> None:
    text = (
        "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nencoding: raw\nendian: little\n"
        f"space directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\n{fields}\n\n"
    )
    path.write_bytes(text.encode() + b"\0" * 16)


def _rgb(path: Path, volume: Volume) -> None:
    array = np.zeros(volume.shape, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    array["R"] = 200
    _nifti(path, array)


def _truncated(path: Path, volume: Volume) -> None:
    write_image(path, volume)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flat_affine(path: Path, volume: Volume) -> None:
    image = nib.Nifti1Image(volume.array, volume.affine)
    for name in ("srow_x", "srow_y", "srow_z"):
        image.header[name] = (1, 0, 0, 0)
    content = image.header.binaryblock + b"\0" * 4 + volume.array.tobytes(order="F")
    with nib.openers.ImageOpener(str(path), "wb") as file:
        file.write(content)


def _set(index: int, value: float) -> Callable[[np.ndarray], object]:
    return lambda array: array.flat.__setitem__(slice(index, index + 3), value)


BAD_IMAGES = {
    "truncated": BadImage(_truncated, ".nii.gz", "not a readable .nii.gz file (truncated"),
    "empty": BadImage(lambda path, _: path.write_bytes(b""), ".nii.gz", "the file is empty"),
    "text": BadImage(lambda path, _: path.write_text("no image"), ".nii.gz", "not a readable .nii.gz file"),
    "normalized": BadImage(
        lambda path, volume: _floats(path, volume, lambda array: np.divide(array + 1024, 4096, out=array)),
        ".nii.gz",
        "which is not a CT in Hounsfield units (air -1000, water 0); save it without rescaling",
    ),
    "constant": BadImage(
        lambda path, volume: _nifti(path, np.full(volume.shape, -1000, np.int16)),
        ".nii.gz",
        "values run from -1000 to -1000, which is not a CT",
    ),
    "rgb": BadImage(_rgb, ".nii.gz", "(RGB or complex); expected one gray value per voxel"),
    "four_axes": BadImage(
        lambda path, volume: _nifti(path, np.stack([volume.array] * 2, axis=-1)),
        ".nii.gz",
        "has 4 axes (64, 64, 8, 2); expected one 3D volume",
    ),
    "nan": BadImage(
        lambda path, volume: _floats(path, volume, _set(100, np.nan)),
        ".nii.gz",
        "3 voxels are NaN or infinite; a CT holds Hounsfield units",
    ),
    "infinite": BadImage(
        lambda path, volume: _floats(path, volume, _set(7, -np.inf)),
        ".nii.gz",
        "3 voxels are NaN or infinite; a CT holds Hounsfield units",
    ),
    "no_slices": BadImage(
        lambda path, _: _header_alone(path, (64, 64, 0)), ".nii", "has no slices (shape (64, 64, 0))"
    ),
    "absurd": BadImage(
        lambda path, _: _header_alone(path, (32000, 32000, 32000)),
        ".nii.gz",
        "shape (32000, 32000, 32000) is larger than any CT we take",
    ),
    "promised": BadImage(
        lambda path, _: _header_alone(path, (512, 512, 3000)), ".nii.gz", "not a readable .nii.gz file"
    ),
    "promised_raw": BadImage(lambda path, _: _header_alone(path, (512, 512, 3000)), ".nii", "not a readable .nii file"),
    "absurd_nrrd": BadImage(
        lambda path, _: _nrrd_header(path, "sizes: 100000 100000 100000"), ".nrrd", "is larger than any CT we take"
    ),
    "promised_nrrd": BadImage(
        lambda path, _: _nrrd_header(path, "sizes: 512 512 100"), ".nrrd", "not a readable .nrrd file"
    ),
    "detached_nrrd": BadImage(
        lambda path, _: _nrrd_header(path, "sizes: 4 4 2\ndata file: /etc/passwd"),
        ".nrrd",
        "keeps its voxels in another file; save it as one attached .nrrd",
    ),
    "flat_affine": BadImage(
        lambda path, volume: _flat_affine(path, volume),
        ".nii.gz",
        "the affine must be an invertible, finite 4x4 matrix",
    ),
}
