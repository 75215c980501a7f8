"""Volumes as the slice images and masks that 2D pipelines train on.

The image is the window-blended slice as an 8-bit RGB PNG. Not JPEG, as the original had: its artifacts are strongest
where the label changes, and its color transform mixes the channels, which here are three different windows.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lib.errors import BadInputError
from lib.files import atomic_write
from lib.transforms.windowing import blend
from lib.volume import Volume
from lib.volume_io import read_image, read_label, stem_of

_BLOCK = 16  # slices blended at a time: bounds the memory for a thousand-slice CT


def write_slices(image_path: str | Path, label_path: str | Path, output: str | Path, *, every: bool = False) -> int:
    """Write slices as `images/NAME_slice_ZZZZ.png` and `masks/NAME_slice_ZZZZ.tif`; replaces what is there.

    Slices are axial, seen as radiologists do (patient's right on the left side, front on top), numbered from feet to
    head from 0. Masks are 8-bit with the values 0, 1, 2, and 255 where a corrected label says that nobody looked.

    Args:
        image_path: CT.
        label_path: its label, voxel for voxel; the image's header counts for both.
        output: folder, made if missing.
        every: all slices; otherwise only those that hold background, liver and tumor, as the original trained on.

    Returns:
        Number of slices written.

    Raises:
        BadInputError: a file is unreadable, or their shapes differ.
        StorageError: the folder can't be written.
    """
    image, label = read_image(image_path), read_label(label_path)
    if image.shape != label.shape:
        msg = f"{Path(label_path).name}: shape {label.shape}, but {Path(image_path).name} has {image.shape}"
        raise BadInputError(msg)
    voxels, mask = image.axial(), Volume(label.array, image.affine).axial()
    chosen = np.arange(len(mask)) if every else slices_with_all_classes(mask)
    output, stem = Path(output), stem_of(image_path)
    for start in range(0, len(chosen), _BLOCK):
        block = chosen[start : start + _BLOCK]
        channels = blend(np.ascontiguousarray(voxels[block]))
        colors = np.rint(channels.transpose(0, 2, 3, 1) * 255).astype(np.uint8)
        for z, color in zip(block, colors, strict=True):
            name = f"{stem}_slice_{z:04d}"
            with atomic_write(output / "images" / f"{name}.png") as temporary:
                Image.fromarray(color).save(temporary, compress_level=1)
            with atomic_write(output / "masks" / f"{name}.tif") as temporary:
                Image.fromarray(np.ascontiguousarray(mask[z])).save(temporary, compression="tiff_adobe_deflate")
    return len(chosen)


def slices_with_all_classes(mask: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Indices along Z of the slices of a `(Z, Y, X)` mask that hold each of 0, 1 and 2."""
    return np.flatnonzero(np.all([(mask == value).any(axis=(1, 2)) for value in (0, 1, 2)], axis=0))
