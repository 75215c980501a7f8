"""One-hot planes of a label ("OHESS"): one plane of zeros and ones per class, and the way back by argmax."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from lib.errors import BadInputError
from lib.files import atomic_write

Array = TypeVar("Array", NDArray[Any], torch.Tensor)

# Suffixes of lossless image formats: a plane of 0 and 255 must come back as it went.
_IMAGE_SUFFIXES = (".png", ".tif", ".tiff")


def encode(labels: Array, classes: int) -> Array:
    """One plane of zeros and ones per class, background included.

    Args:
        labels: `(...)` integers, any axes: class indices 0 to `classes - 1`; ndarray, tensor or MetaTensor.
        classes: number of planes C, background counted: 3 for background, liver, tumor. 1 to 255.

    Returns:
        `(C, ...)` uint8 of the same kind and on the same device; the planes add up to one everywhere.

    Raises:
        BadInputError: `labels` are no integers or hold an index outside 0 to `classes - 1`, or `classes` is no number
            of planes.

    Example:
        >>> encode(np.array([0, 2, 1], np.uint8), 3).tolist()
        [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
    """
    if not 1 <= classes <= 255:
        msg = f"one-hot encoding makes 1 to 255 planes, not {classes}"
        raise BadInputError(msg)
    _check_integers(labels)
    shape = (classes, *labels.shape)
    if 0 not in shape and (int(labels.min()) < 0 or int(labels.max()) >= classes):
        msg = (
            f"the label holds the indices {int(labels.min())} to {int(labels.max())}, but {classes} classes have only "
            f"0 to {classes - 1}; remap the label or give the right number of classes"
        )
        raise BadInputError(msg)
    # Plane by plane, as comparing with all indices at once would go through a second array of the full size.
    if isinstance(labels, torch.Tensor):
        return torch.stack([(labels == index).to(torch.uint8) for index in range(classes)])
    planes = np.empty(shape, np.uint8)
    for index in range(classes):
        np.equal(labels, index, out=planes[index].view(bool))
    return planes


def decode(planes: Array) -> Array:
    """The index of the largest plane at each place: the inverse of `encode`, and argmax of logits or probabilities.

    Args:
        planes: `(C, ...)` of any real dtype with 1 to 255 planes; ndarray, tensor or MetaTensor.

    Returns:
        `(...)` uint8 of the same kind and on the same device. Of equal planes the lowest index wins, so that doubt
        goes to the background.

    Raises:
        BadInputError: there is no plane or more than 255 of them.

    Example:
        >>> decode(np.array([[0.2, 0.5], [0.7, 0.5], [0.1, 0.0]])).tolist()
        [1, 0]
    """
    classes = planes.shape[0] if planes.ndim else 0
    if not 1 <= classes <= 255:
        msg = f"one-hot decoding needs 1 to 255 planes on the first axis, not an array of shape {tuple(planes.shape)}"
        raise BadInputError(msg)
    # A running maximum reads each plane once; argmax over the first axis jumps through memory and is several times
    # slower on a volume.
    if isinstance(planes, torch.Tensor):
        best, index = planes[0], torch.zeros_like(planes[0], dtype=torch.uint8)
        for candidate in range(1, classes):
            larger = planes[candidate] > best
            index = index.masked_fill(larger, candidate)
            best = torch.maximum(best, planes[candidate])
        return index
    labels = np.zeros(planes.shape[1:], np.uint8)
    highest = planes[0].copy()
    for candidate in range(1, classes):
        np.putmask(labels, planes[candidate] > highest, candidate)
        np.maximum(highest, planes[candidate], out=highest)
    return labels


def planes_as_images(
    label: NDArray[np.integer[Any]],
    names: Mapping[str, int],
    directory: str | Path,
    suffix: str = ".png",
) -> list[Path]:
    """Write one 8-bit gray image per class and axial slice: `directory/liver/liver_0000.png` and so on.

    Args:
        label: axial `(Z, Y, X)` class indices.
        names: class name to index; name the background too to have its planes.
        directory: made if missing; images of the same names in it are replaced, each one atomically.
        suffix: ".png", ".tif" or ".tiff".

    Returns:
        The paths, class by class, slices from feet to head. Pixels are 255 where the class is, else 0.

    Raises:
        BadInputError: `label` is no `(Z, Y, X)` array of integers, the suffix is unknown, or a class name can't be a
            file name.
        StorageError: the disk is full, read-only, or may not be written.
    """
    if label.ndim != 3:
        msg = f"class planes are written from an axial (Z, Y, X) label, not from shape {label.shape}"
        raise BadInputError(msg)
    if suffix.lower() not in _IMAGE_SUFFIXES:
        msg = f"class planes are written as {', '.join(_IMAGE_SUFFIXES)}, not as {suffix!r}"
        raise BadInputError(msg)
    for name in names:
        if not re.fullmatch(r"\w[\w .\-]*", name):
            msg = f"the class name {name!r} can't be a file name; use letters, digits, spaces, '_', '-' or '.'"
            raise BadInputError(msg)
    _check_integers(label)
    directory = Path(directory)
    digits = max(4, len(str(len(label) - 1)))
    paths = []
    for name, index in names.items():
        for position, axial_slice in enumerate(label):
            path = directory / name / f"{name}_{position:0{digits}d}{suffix}"
            plane = np.where(axial_slice == index, np.uint8(255), np.uint8(0))
            with atomic_write(path) as temporary:
                Image.fromarray(plane).save(temporary)
            paths.append(path)
    return paths


def _check_integers(labels: NDArray[Any] | torch.Tensor) -> None:
    is_integer = (
        not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
        if isinstance(labels, torch.Tensor)
        else np.issubdtype(labels.dtype, np.integer)
    )
    if not is_integer:
        msg = f"a label holds integer class indices, not {labels.dtype}; convert it first"
        raise BadInputError(msg)
