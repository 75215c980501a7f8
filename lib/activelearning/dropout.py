"""How much a network's own dropout changes what it says (BALD)."""

import copy
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lib.inference.device import Precision, autocast
from lib.inference.engine import STRIDE
from lib.inference.predict import padded
from lib.inference.queue import GiveWay
from lib.transforms.lookup import look_up, slice_levels
from lib.transforms.windowing import Channel, channel_tables

_TINY = 1e-12
_CONTEXT = 32  # pixels around the region that the network sees as well
_SEEDED = threading.Lock()  # PyTorch's dropout has no generator of its own, so that one thread at a time draws


@dataclass(frozen=True)
class Look:
    """One slice to look at.

    Args:
        z: axial slice; the same gets the same dropout.
        hu: int16 HU of the whole slice `(Y, X)`.
        rows: of the region.
        columns: of the region.
        mask: the region there, bool `(Y', X')`.
    """

    z: int
    hu: NDArray[np.int16]
    rows: slice
    columns: slice
    mask: NDArray[np.bool_]


@torch.inference_mode()
def bald(
    network: nn.Module,
    looks: Sequence[Look],
    channels: Sequence[Channel],
    *,
    passes: int,
    give_way: GiveWay,
    precision: Precision = "auto",
    seed: int = 0,
) -> float:
    """Mean mutual information between prediction and weights in the regions of a few slices.

    Dropout stays on for several passes; where they agree, however unsure each is, the value is low; where they
    disagree it is high (Houlsby et al., arXiv 1112.5745; Gal et al., arXiv 1506.02142). A network with `encode` and
    `decode` encodes each slice once, without dropout, and only decodes it several times.

    Args:
        network: with dropout layers; not changed, as other threads may be segmenting with it.
        looks: what to look at.
        channels: the network's input channels.
        passes: for each slice.
        give_way: called before each slice.
        precision: see `lib.inference.device.autocast`.
        seed: of the dropout, so that a value can be repeated.

    Returns:
        Nats, at least 0; 0 where there is nothing to look at.
    """
    network = copy.deepcopy(network).eval()
    dropouts = [module for module in network.modules() if isinstance(module, nn.Dropout | nn.Dropout2d)]
    encode, decode = getattr(network, "encode", None), getattr(network, "decode", None)
    if encode is None or decode is None:
        encode, decode = nn.Identity(), network
    device = next(network.parameters()).device
    total, pixels = 0.0, 0
    for look in looks:
        give_way()
        image, inside = _input(look, channels, device)
        with autocast(device, precision):
            features = encode(image)
            with _SEEDED, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                torch.manual_seed(seed + look.z)
                for dropout in dropouts:
                    dropout.train()
                logits = torch.cat([decode(features) for _ in range(passes)])
        for dropout in dropouts:
            dropout.eval()
        information = mutual_information(logits[..., *inside].float().softmax(1))
        mask = torch.from_numpy(np.ascontiguousarray(look.mask)).to(device)
        total += float((information * mask).sum())
        pixels += int(np.count_nonzero(look.mask))
    return total / pixels if pixels else 0.0


def mutual_information(probabilities: Tensor) -> Tensor:
    """Entropy of the mean minus mean of the entropies.

    Args:
        probabilities: `(passes, classes, Y, X)`, each pass's softmax.

    Returns:
        `(Y, X)` in nats, at least 0.
    """
    mean = probabilities.mean(0)
    total = -(mean * mean.clamp_min(_TINY).log()).sum(0)
    each = -(probabilities * probabilities.clamp_min(_TINY).log()).sum(1).mean(0)
    return (total - each).clamp_min(0)


def _input(look: Look, channels: Sequence[Channel], device: torch.device) -> tuple[Tensor, tuple[slice, slice]]:
    """The network's input around the region, `(1, channels, Y'', X'')`, and where in it the region lies."""
    cuts, inside = [], []
    for side, size in zip((look.rows, look.columns), look.hu.shape, strict=True):
        first = max(0, side.start - _CONTEXT) // STRIDE * STRIDE
        cuts.append(slice(first, min(size, side.stop + _CONTEXT)))
        inside.append(slice(side.start - first, side.stop - first))
    whole = np.ascontiguousarray(look.hu[None])
    tables, low = channel_tables(slice_levels(whole, device), channels)
    part = torch.from_numpy(padded(whole[:, cuts[0], cuts[1]])).to(device)
    return look_up(part, torch.from_numpy(tables).to(device), low), (inside[0], inside[1])
