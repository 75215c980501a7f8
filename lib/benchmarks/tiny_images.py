"""A studies folder of many tiny images, made once, to measure with instead of terabytes of CT."""

import gzip
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np

from lib.errors import BadInputError, StorageError
from lib.volume import Grid, Volume

_SHAPE = (4, 4, 4)
_SUFFIX = ".nii.gz"
_MARK = ".made-by-liverloop-benchmark"
_BYTES_EACH = 5_000  # on disk: a block of the file system, and what a ledger notes
_EVERY = 1_000  # images between two calls of `progress`


def grid() -> Grid:
    """Where the voxels of every tiny image lie."""
    return Grid(_SHAPE, np.diag([-0.8, -0.8, 2.5, 1.0]))


def label() -> Volume:
    """A label that fits every tiny image: background, liver and tumor."""
    return Volume((np.arange(np.prod(_SHAPE)) % 3).astype(np.uint8).reshape(_SHAPE), grid().affine)


def make_images(folder: Path, count: int, progress: Callable[[int], object]) -> None:
    """Make a folder of `count` CT-like images of a few voxels, no two alike; those there already are kept.

    What stores have noted in the folder is removed.

    Args:
        folder: made by this function earlier, empty, or missing.
        count: how many images.
        progress: called with the number of images added since the last call.

    Raises:
        BadInputError: the folder holds something else, or another number of images.
        StorageError: the disk is too small.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not is_ours(folder):
        if any(folder.iterdir()):
            msg = f"{folder} was not made by this benchmark and is not empty; choose another --folder"
            raise BadInputError(msg)
        (folder / _MARK).touch()
    forget(folder)
    known = {name for name in os.listdir(folder) if name.endswith(_SUFFIX)}
    if len(known) > count:
        msg = f"{folder} holds {len(known)} images instead of {count}; remove it"
        raise BadInputError(msg)
    needed, free = (count - len(known)) * _BYTES_EACH, shutil.disk_usage(folder).free
    if needed > free:
        msg = f"{count} images take about {needed / 1e9:.1f} GB, the disk of {folder} has {free / 1e9:.1f} GB left"
        raise StorageError(msg)
    header, voxels = _template()
    for index in range(count):
        name = f"case_{index:08d}{_SUFFIX}"
        if name not in known:
            voxels[:2] = index // 1000, index % 1000  # so that no two are alike
            (folder / name).write_bytes(gzip.compress(header + voxels.tobytes(), 1, mtime=0))
        if (index + 1) % _EVERY == 0:
            progress(_EVERY)
    progress(count % _EVERY)


def is_ours(folder: Path) -> bool:
    """Whether `make_images` made a folder, so that it may be changed and removed."""
    return (folder / _MARK).is_file()


def forget(folder: Path) -> None:
    """Take away all that stores have noted in a folder of `make_images`: no image of it is known any more."""
    for name in ("labels", "ledger"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("datastore_v2.json", ".lock"):
        (folder / name).unlink(missing_ok=True)


def _template() -> tuple[bytes, np.ndarray]:
    """The bytes before the voxels, which all images share, and voxels to change and append to them."""
    voxels = np.linspace(-900, 300, int(np.prod(_SHAPE))).astype("<i2")
    image = nib.Nifti1Image(voxels.reshape(_SHAPE, order="F"), grid().affine)
    return image.to_bytes()[: -voxels.nbytes], voxels
