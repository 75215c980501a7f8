"""How much a network's own dropout changes what it says (BALD)."""

import copy
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
_MOST_PIXELS = 500_000  # in all passes that are done at once: faster than one by one, but each takes memory
_STEPS = 1 << 16  # of probability


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
    drops = _replaced(network)
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
            for number, drop in enumerate(drops):
                drop.begin(seed, look.z, number)
            at_once = min(passes, max(1, _MOST_PIXELS // image[0, 0].numel()))
            counts = [min(at_once, passes - done) for done in range(0, passes, at_once)]
            logits = torch.cat([decode(_repeated(features, count)) for count in counts])
        for drop in drops:
            drop.end()
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


class _Drop(nn.Module):
    """Dropout with numbers of its own, so that other threads neither change nor see them; several times as fast.

    Args:
        probability: of each value, or of each channel, to become 0; the others grow to make up for it.
        whole_channels: which of the two.
    """

    def __init__(self, probability: float, *, whole_channels: bool) -> None:
        super().__init__()
        self._dropped = round(probability * _STEPS)
        self._whole_channels = whole_channels
        self._numbers: np.random.Generator | None = None

    def begin(self, *seed: int) -> None:
        """Drop from now on."""
        self._numbers = np.random.Generator(np.random.SFC64(seed))

    def end(self) -> None:
        """Let all pass from now on."""
        self._numbers = None

    def forward(self, values: Tensor) -> Tensor:
        if self._numbers is None or not self._dropped:
            return values
        mask = torch.empty_like(values[:, :, :1, :1] if self._whole_channels else values, dtype=torch.bool)
        drawn = self._numbers.integers(0, _STEPS, mask.numel(), np.uint16) >= self._dropped
        kept = torch.from_numpy(drawn).to(values.device).as_strided(mask.shape, mask.stride())
        return values * kept * (_STEPS / (_STEPS - self._dropped))


def _replaced(network: nn.Module) -> list[_Drop]:
    """Put drops of our own in the place of a network's dropouts."""
    drops = []
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Dropout | nn.Dropout2d):
                drops.append(_Drop(child.p, whole_channels=isinstance(child, nn.Dropout2d)))
                setattr(parent, name, drops[-1])
    return drops


def _repeated(features: Tensor | Sequence[Tensor], count: int) -> Tensor | list[Tensor]:
    """What a network encoded of one slice, as if of `count` slices."""
    if isinstance(features, Tensor):
        return features.expand(count, *features.shape[1:])
    return [each.expand(count, *each.shape[1:]) for each in features]


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
