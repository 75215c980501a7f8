"""Windowing as MONAI dictionary transforms: thin shells around `lib.transforms.windowing`."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms.transform import MapTransform
from monai.utils.type_conversion import convert_to_dst_type
from numpy.typing import NDArray

from lib.errors import BadInputError
from lib.transforms.windowing import DEFAULT_CHANNELS, Channel, blend, find_window, window_level

_Image = NDArray[Any] | torch.Tensor


class WindowLeveld(MapTransform):
    """Scale HU to [0, 1] through one window, voxel by voxel.

    Takes ndarray, tensor or MetaTensor of any shape and dtype; gives float32 of the same kind, shape and metadata.

    Args:
        keys: the entries to transform.
        window: a `Window` or the name of a preset.
        allow_missing_keys: whether an entry may be absent.

    Raises:
        BadInputError: there is no such preset.
    """

    def __init__(self, keys: KeysCollection, window: Channel, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.window = find_window(window)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """A copy of `data` with the entries replaced."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            result[key] = _like(window_level(_to_numpy(image), self.window), image)
        return result


class WindowBlendd(MapTransform):
    """Turn one channel of HU into several windows of it, see `blend`.

    | in (int16 HU)  | `slice_axis`  | out (float32)  |
    |----------------|---------------|----------------|
    | `(1, Y, X)`    | not used      | `(C, Y, X)`    |
    | `(1, X, Y, Z)` | -1            | `(C, X, Y, Z)` |
    | `(1, Z, Y, X)` | 1             | `(C, Z, Y, X)` |

    The histogram channel is computed slice by slice, so `slice_axis` must be the axis that runs from one axial slice
    to the next; within a slice the order and direction of the axes don't matter. Metadata of a MetaTensor is kept.

    Args:
        keys: the entries to transform.
        channels: for each channel the name of a preset, a `Window`, or "histogram".
        slice_axis: 1, 2 or 3, or the same from the end: the axis of a 4D image along which axial slices follow.
        allow_missing_keys: whether an entry may be absent.

    Raises:
        BadInputError: when called: the image is not int16, hasn't exactly one channel or not 2 or 3 spatial axes, or
            a channel is unknown.
    """

    def __init__(
        self,
        keys: KeysCollection,
        channels: Sequence[Channel] = DEFAULT_CHANNELS,
        slice_axis: int = -1,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if slice_axis not in (1, 2, 3, -1, -2, -3):
            msg = f"slice_axis must be a spatial axis of (1, X, Y, Z), 1 to 3 or -3 to -1, not {slice_axis}"
            raise BadInputError(msg)
        self.channels = tuple(channels) if not isinstance(channels, str) else channels
        self.slice_axis = slice_axis

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """A copy of `data` with the entries replaced."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            result[key] = _like(self._blend(_to_numpy(image)), image)
        return result

    def _blend(self, image: NDArray[Any]) -> NDArray[np.float32]:
        if image.ndim not in (3, 4) or image.shape[0] != 1:
            msg = f"window blending needs an image of shape (1, Y, X) or (1, X, Y, Z), not {image.shape}"
            raise BadInputError(msg)
        if image.ndim == 3:
            return blend(image, self.channels)[0]
        slices = np.moveaxis(image, self.slice_axis, 1)[0]
        blended = blend(slices, self.channels)  # (slice, C, ., .)
        return np.ascontiguousarray(np.moveaxis(blended.swapaxes(0, 1), 1, self.slice_axis))


def _to_numpy(image: _Image) -> NDArray[Any]:
    return image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)


def _like(array: NDArray[np.float32], image: _Image) -> _Image:
    """`array` as the kind of `image`: ndarray, or tensor with its device and metadata, but float32."""
    return convert_to_dst_type(array, image, dtype=np.float32)[0]
