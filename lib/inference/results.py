"""Finished segmentations, kept in memory until the model changes or the room is needed."""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from lib.box import bounding_box
from lib.transforms.postprocessing import PostprocessingSettings

_OVERHEAD = 2000  # bytes, of an entry beside its voxels


def content_of(path: str | Path) -> Hashable | None:
    """What changes whenever the content of a file does, or of any file in a folder, without reading it.

    Returns:
        Path, device, inode, times of the last change and size of each file; None if something can't be looked at.
    """
    path = Path(path)
    try:
        files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        states = [(each, each.stat()) for each in files]
    except OSError:
        return None
    return tuple(
        (str(file), state.st_dev, state.st_ino, state.st_mtime_ns, state.st_ctime_ns, state.st_size)
        for file, state in states
    )


class Key(NamedTuple):
    """What a result depends on, beside the settings, which are those of the process.

    Args:
        content: of the image, see `content_of`.
        version: of the model.
        postprocessing: None: before it.
    """

    content: Hashable
    version: str
    postprocessing: PostprocessingSettings | None


@dataclass(frozen=True)
class Packed:
    """Class indices, most of which are background, in little memory.

    Args:
        shape: of the whole array.
        order: "C" or "F", of its memory.
        box: around what is not background; None: there is nothing else.
        content: the voxels in the box, compressed.
    """

    shape: tuple[int, ...]
    order: str
    box: tuple[slice, slice, slice] | None
    content: bytes

    @classmethod
    def of(cls, array: NDArray[np.uint8]) -> "Packed":
        """Pack a three-dimensional array with any axes."""
        order = "C" if array.flags.c_contiguous else "F"
        box = bounding_box(array)
        part = array[box] if box else array[:0]
        voxels = np.ascontiguousarray(part if order == "C" else part.T)  # tobytes copies voxel by voxel
        return cls(array.shape, order, box, isal_zlib.compress(voxels, 1) if box else b"")

    def unpacked(self) -> NDArray[np.uint8]:
        """A new array with the content and the memory order of the one that was packed."""
        array = np.zeros(self.shape, np.uint8, order=self.order)  # type: ignore[call-overload]
        if self.box:
            part = np.frombuffer(isal_zlib.decompress(self.content), np.uint8)
            array[self.box] = part.reshape(array[self.box].shape, order=self.order)  # type: ignore[call-overload]
        return array


@dataclass(frozen=True)
class Kept:
    """A result as it is kept.

    Args:
        voxels: axial `(Z, Y, X)` before post-processing, `(X, Y, Z)` in the image's order after it.
        affine: the image's.
        image_shape: the image's, `(X, Y, Z)`.
        summary: see `lib.inference.segment.finish`; empty before it.
        centers: see `lib.transforms.summary.centers`; empty before it.
    """

    voxels: Packed
    affine: NDArray[np.float64]
    image_shape: tuple[int, int, int]
    summary: dict[str, Any] = field(default_factory=dict)
    centers: dict[str, tuple[int, int, int]] = field(default_factory=dict)


class Results:
    """The results that were used last, of one version of the model; safe to use from several threads.

    Args:
        most_bytes: for all of them; 0: nothing is kept.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[Key, Kept] = OrderedDict()  # the one unused for longest first
        self._version: str | None = None
        self.bytes = 0

    def __len__(self) -> int:
        with self._lock:
            return len(self._kept)

    def keep_only(self, version: str) -> None:
        """Drop the results of other versions, and take none from now on."""
        with self._lock:
            if version != self._version:
                self._kept.clear()
                self.bytes = 0
                self._version = version

    def get(self, key: Key) -> Kept | None:
        """The result, which counts as used now."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: Key, result: Kept) -> None:
        """Keep a result and drop those unused for longest where the room is needed."""
        size = _size(result)
        with self._lock:
            if key.version != self._version or key.content is None or size > self._most:
                return
            before = self._kept.pop(key, None)
            self.bytes += size - (_size(before) if before else 0)
            self._kept[key] = result
            while self.bytes > self._most:
                self.bytes -= _size(self._kept.popitem(last=False)[1])


def _size(result: Kept) -> int:
    return len(result.voxels.content) + _OVERHEAD
