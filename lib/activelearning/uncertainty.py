"""How unsure a network is of an image, from its own dropout."""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lib.inference.device import Precision
from lib.inference.engine import TorchEngine
from lib.inference.predict import padded
from lib.inference.stopwatch import Stopwatch
from lib.transforms.windowing import Channel, gray_levels

_TINY = 1e-12


@torch.inference_mode()
def uncertainty_score(
    network: nn.Module,
    hu: NDArray[np.int16],
    channels: Sequence[Channel],
    *,
    passes: int,
    slices: int,
    precision: Precision = "auto",
    seed: int = 0,
) -> float:
    """Mean mutual information between prediction and weights (BALD) where the network sees liver or tumor.

    Dropout stays on for several passes; where they agree, however unsure each is, the score is low; where they
    disagree it is high (Houlsby et al., arXiv 1112.5745; Gal et al., arXiv 1506.02142). Only voxels that any pass
    takes for foreground count, so that easy background does not decide; an image without any is scored over all
    voxels.

    Args:
        network: with dropout layers; not changed, as other threads may be segmenting with it.
        hu: int16 HU, axial `(Z, Y, X)`.
        channels: the input channels.
        passes: forward passes per slice.
        slices: how many evenly spaced slices are looked at.
        precision: see `lib.inference.device.autocast`.
        seed: of the dropout, so that a score can be repeated.

    Returns:
        Mutual information in nats, at least 0.
    """
    device = next(network.parameters()).device
    height, width = hu.shape[1:]
    chosen = np.unique(np.linspace(0, len(hu) - 1, slices).round().astype(int))
    foreground = everything = 0.0
    foreground_voxels = voxels = 0
    network = copy.deepcopy(network).eval()
    for module in network.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.train()
    engine = TorchEngine(network, channels, precision)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for z in chosen:
            inputs = padded(hu[z : z + 1]), gray_levels(hu[z])[None]
            logits = torch.cat([engine.logits(*inputs, Stopwatch()) for _ in range(passes)])
            probabilities = logits[..., :height, :width].float().softmax(1)
            information = mutual_information(probabilities)
            seen = (probabilities.argmax(1) > 0).any(0)
            foreground += float(information[seen].sum())
            everything += float(information.sum())
            foreground_voxels += int(seen.sum())
            voxels += information.numel()
    return foreground / foreground_voxels if foreground_voxels else everything / voxels


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
