"""One-hot planes and post-processing as MONAI dictionary transforms: thin shells without arithmetic."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms.transform import MapTransform
from monai.utils.type_conversion import convert_to_dst_type

from lib.errors import BadInputError
from lib.transforms.onehot import decode, encode
from lib.transforms.postprocessing import PostprocessingSettings, postprocess


class OneHotEncoded(MapTransform):
    """Turn labels of one channel, `(1, ...)` integers, into one-hot planes `(C, ...)` uint8, see `encode`.

    Args:
        keys: the entries to transform; ndarray, tensor or MetaTensor, whose metadata is kept.
        classes: number of planes, background counted.
        allow_missing_keys: whether an entry may be absent.

    Raises:
        BadInputError: when called: the label hasn't one channel, or an index without a plane.
    """

    def __init__(self, keys: KeysCollection, classes: int = 3, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.classes = classes

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """A copy of `data` with the entries replaced."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = encode(_only_channel(result[key], key), self.classes)
        return result


class OneHotDecoded(MapTransform):
    """Turn planes, logits or probabilities `(C, ...)` into a label `(1, ...)` uint8, see `decode`.

    Args:
        keys: the entries to transform; ndarray, tensor or MetaTensor, whose metadata is kept.
        allow_missing_keys: whether an entry may be absent.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """A copy of `data` with the entries replaced."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = decode(result[key])[None]
        return result


class Postprocessd(MapTransform):
    """Make predicted labels plausible, see `postprocess`.

    Args:
        keys: the entries to transform: `(1, Z, Y, X)` or `(Z, Y, X)` integers 0, 1, 2; ndarray, tensor or MetaTensor,
            whose metadata is kept. They come back as uint8 of the same shape.
        settings: the steps and limits; all of them when left out.
        spacing_key: where `data` holds the voxel size in mm along `(Z, Y, X)`.
        changes_key: where `data` may hold what this request wants otherwise, such as `{"fill_holes": False}`.
        allow_missing_keys: whether an entry may be absent.

    Raises:
        BadInputError: when called: the spacing is missing, a change is not possible, or an entry is no such label.
    """

    def __init__(
        self,
        keys: KeysCollection,
        settings: PostprocessingSettings | None = None,
        spacing_key: str = "spacing",
        changes_key: str = "postprocessing",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.settings = settings or PostprocessingSettings()
        self.spacing_key = spacing_key
        self.changes_key = changes_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """A copy of `data` with the entries replaced."""
        result = dict(data)
        if self.spacing_key not in result:
            msg = f"post-processing needs the voxel size in mm along (Z, Y, X) under the key {self.spacing_key!r}"
            raise BadInputError(msg)
        spacing = [float(length) for length in result[self.spacing_key]]
        settings = self.settings.changed(result.get(self.changes_key) or {})
        for key in self.key_iterator(result):
            label = result[key]
            array = label.detach().cpu().numpy() if isinstance(label, torch.Tensor) else np.asarray(label)
            axial = _only_channel(array, key) if array.ndim == 4 else array
            cleaned = postprocess(_to_uint8(axial, key), spacing, settings).reshape(array.shape)
            result[key] = convert_to_dst_type(cleaned, label, dtype=np.uint8)[0]
        return result


def _only_channel(label: Any, key: Hashable) -> Any:
    if label.ndim < 2 or label.shape[0] != 1:
        msg = f"the label {key!r} must have one channel on its first axis, not the shape {tuple(label.shape)}"
        raise BadInputError(msg)
    return label[0]


def _to_uint8(label: Any, key: Hashable) -> Any:
    """A float label with whole numbers, as networks' transforms leave behind, is accepted; anything else is not."""
    if label.dtype == np.uint8:
        return label
    converted = label.astype(np.uint8)
    if not np.array_equal(converted, label):
        msg = f"the label {key!r} holds {label.dtype} values that are no class indices; decode it first"
        raise BadInputError(msg)
    return converted
