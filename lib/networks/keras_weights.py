"""Weights of the original Keras U-Net, read with h5py alone: neither Keras nor TensorFlow is needed.

Three kinds of file are understood: HDF5 as Keras 1 and 2 wrote it (a whole model or only its weights), Keras 3's
`.weights.h5`, and `.keras`, a zip archive around such a file.
"""

import io
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lib.errors import ModelError
from lib.networks.unet import MulticlassUNet

# Conv2D keeps its kernel as (h, w, in, out), Conv2DTranspose as (h, w, out, in). PyTorch wants (out, in, h, w) and
# (in, out, h, w): one permutation serves both. Neither library flips the kernel of a transposed convolution.
_KERNEL_AXES = (3, 2, 0, 1)
_KINDS: dict[type[nn.Module], str] = {nn.Conv2d: "Conv2D", nn.ConvTranspose2d: "Conv2DTranspose"}
_KERAS3_NAMES = {"conv2d": "Conv2D", "conv2d_transpose": "Conv2DTranspose"}


@dataclass(frozen=True)
class _Layer:
    """One convolution of the file; `kernel` has Keras' axes."""

    name: str
    kernel: NDArray[np.float32]
    bias: NDArray[np.float32] | None


def load_keras_weights(path: str | Path, network: MulticlassUNet) -> None:
    """Put the weights of a Keras U-Net into `network`; it is unchanged if they don't fit.

    Args:
        path: `.h5`, `.weights.h5` or `.keras`.
        network: with the channels, classes and filters of the Keras network.

    Raises:
        ModelError: the file is missing, is none of these kinds, or a layer doesn't fit; the message names the layer.
    """
    path = Path(path)
    targets = {
        name: module for name, module in network.named_modules() if type(module) in _KINDS
    }  # named_modules gives them in the order in which an image passes them
    kinds = [_KINDS[type(module)] for module in targets.values()]
    layers = _read(path, kinds)
    if len(layers) != len(targets):
        msg = f"{path} holds {len(layers)} convolution layers; {type(network).__name__} has {len(targets)}"
        raise ModelError(msg)

    state: dict[str, torch.Tensor] = {}
    expected = network.state_dict()
    for layer, name, kind in zip(layers, targets, kinds, strict=True):
        wanted = tuple(expected[f"{name}.weight"].permute(2, 3, 1, 0).shape)
        if layer.kernel.shape != wanted:
            msg = (
                f"the layer {layer.name} in {path} has a kernel of shape {layer.kernel.shape}; {name} of "
                f"{type(network).__name__} needs {wanted} ({kind})"
            )
            raise ModelError(msg)
        if layer.bias is None or layer.bias.shape != expected[f"{name}.bias"].shape:
            found = "no bias" if layer.bias is None else f"a bias of shape {layer.bias.shape}"
            msg = f"the layer {layer.name} in {path} has {found}; {name} needs {tuple(expected[f'{name}.bias'].shape)}"
            raise ModelError(msg)
        state[f"{name}.weight"] = torch.from_numpy(np.ascontiguousarray(layer.kernel.transpose(_KERNEL_AXES)))
        state[f"{name}.bias"] = torch.from_numpy(layer.bias)
    network.load_state_dict(state, strict=True)


def _read(path: Path, kinds: Sequence[str]) -> list[_Layer]:
    """The convolutions of the file, in the order in which an image passes them."""
    if not path.is_file():
        msg = f"there is no weights file {path}"
        raise ModelError(msg)
    source: Path | io.BytesIO = path
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                source = io.BytesIO(archive.read("model.weights.h5"))
        with h5py.File(source, "r") as file:
            root = file.get("model_weights", file)
            if "layer_names" in root.attrs:
                return list(_legacy_layers(root))
            return _ordered(path, list(_keras3_layers(file)), kinds)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        msg = f"{path} is no Keras weights file (.h5, .weights.h5 or .keras): {error}"
        raise ModelError(msg) from error


def _legacy_layers(root: h5py.Group) -> Iterator[_Layer]:
    """Keras 1 and 2: the attribute `layer_names` gives the order, each layer's `weight_names` kernel and bias."""
    for layer_name in map(_text, root.attrs["layer_names"]):
        group = root[layer_name]
        arrays = [_array(group[_text(name)]) for name in group.attrs["weight_names"]]
        if arrays:
            yield _Layer(layer_name, arrays[0], arrays[1] if len(arrays) > 1 else None)


def _keras3_layers(file: h5py.File) -> Iterator[_Layer]:
    """Keras 3: `layers/conv2d_7/vars/0` is a kernel, `.../1` its bias; h5py lists the groups alphabetically."""
    for root in ("layers", "_layer_checkpoint_dependencies"):  # the second is what Keras 2.13 calls it
        group = file.get(root, {})
        for name in sorted(group, key=_natural):
            variables = group[name].get("vars", {})
            if "0" in variables:
                yield _Layer(name, _array(variables["0"]), _array(variables["1"]) if "1" in variables else None)


def _ordered(path: Path, layers: Sequence[_Layer], kinds: Sequence[str]) -> list[_Layer]:
    """Keras 3 counts layers per class, so that only the network knows where the transposed ones come in between."""
    queues: dict[str, list[_Layer]] = {kind: [] for kind in _KINDS.values()}
    for layer in layers:
        kind = _KERAS3_NAMES.get(re.sub(r"_\d+$", "", layer.name))
        if kind is None:
            msg = f"the layer {layer.name} in {path} has weights but is no Conv2D and no Conv2DTranspose"
            raise ModelError(msg)
        queues[kind].append(layer)
    for kind, found in queues.items():
        if len(found) != kinds.count(kind):
            msg = f"{path} holds {len(found)} {kind} layers; the network has {kinds.count(kind)}"
            raise ModelError(msg)
    return [queues[kind].pop(0) for kind in kinds]


def _array(dataset: h5py.Dataset) -> NDArray[np.float32]:
    return np.asarray(dataset[()], dtype=np.float32)


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts conv2d_2 before conv2d_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
