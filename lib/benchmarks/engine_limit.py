"""How fast the network could be at best: its arithmetic by the fastest this machine multiplies matrices."""

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lib.box import bounding_box
from lib.inference.device import resolve_precision
from lib.inference.engine import STRIDE, Engine
from lib.inference.observer import Seen
from lib.inference.stopwatch import Stopwatch

_SIDE = {"cpu": 1024, "cuda": 8192}  # of the square matrices; on a CPU for each thread as much work
_SECONDS = 0.5  # for each number format
_LEAST_RUNS = 5


class Counted:
    """An engine that tells how many pixels it is given.

    Args:
        engine: that does the work.
        count: called with the pixels before each pass.
    """

    def __init__(self, engine: Engine, count: Callable[[int], object]) -> None:
        self._engine, self._count = engine, count
        self.name, self.device = engine.name, engine.device

    def __call__(self, hu: NDArray[np.int16], levels: NDArray[np.int16], watch: Stopwatch) -> NDArray[np.uint8]:
        """See `lib.inference.engine.Engine`."""
        self._count(hu.size)
        return self._engine(hu, levels, watch)

    def seen(self, hu: NDArray[np.int16], levels: NDArray[np.int16], watch: Stopwatch) -> Seen:
        """See there."""
        self._count(hu.size)
        return self._engine.seen(hu, levels, watch)


def flop_per_pixel(network: nn.Module, channels: int, side: int = 512) -> float:
    """Floating-point operations (a multiplication and an addition are two) for each pixel of a square slice."""
    shadow = copy.deepcopy(network).to("meta")  # shapes without numbers: nothing is computed
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        shadow(torch.empty(1, channels, side, side, device="meta"))
    return float(counter.get_total_flops()) / side**2


def matrix_peaks(device: torch.device) -> dict[str, float]:
    """FLOP/s of the fastest of some matrix multiplications, by the number formats that pay on this device."""
    formats = dict.fromkeys(["float32", resolve_precision(device, "auto")])
    return {name: _peak(device, getattr(torch, name)) for name in formats}


def limits(
    network: nn.Module, channels: int, peaks: Mapping[str, float], *, label: NDArray[np.uint8], seen: int
) -> dict[str, Any]:
    """What the arithmetic alone takes.

    Args:
        network: whose arithmetic.
        channels: of its input.
        peaks: of `matrix_peaks`.
        label: axial `(Z, Y, X)`; the box around what it holds must be seen by any engine, all if it holds nothing.
        seen: pixels that the network was given.

    Returns:
        `gflop_per_slice` of 512 x 512, `gflop` for what `must` be seen, was `seen`, and is the `whole`, `peak_gflops`
        by number format, and by number format the `seconds` for the three.
    """
    whole = tuple(slice(0, size) for size in label.shape)
    must = bounding_box(label) or whole
    each = flop_per_pixel(network, channels)
    pixels = {"must": _pixels(must), "seen": seen, "whole": _pixels(whole)}
    flop = {name: each * count for name, count in pixels.items()}
    return {
        "gflop_per_slice": each * 512**2 / 1e9,
        "gflop": {name: value / 1e9 for name, value in flop.items()},
        "peak_gflops": {kind: peak / 1e9 for kind, peak in peaks.items()},
        "seconds": {kind: {name: value / peak for name, value in flop.items()} for kind, peak in peaks.items()},
    }


def _pixels(box: Sequence[slice]) -> int:
    """Of a box `(Z, Y, X)`, its rows and columns filled up to the network's stride."""
    slices, height, width = (each.stop - each.start for each in box)
    return int(slices * -(-height // STRIDE) * -(-width // STRIDE) * STRIDE**2)


def _peak(device: torch.device, kind: torch.dtype) -> float:
    side = _SIDE[device.type] * (math.isqrt(torch.get_num_threads()) if device.type == "cpu" else 1)
    left, right = (torch.rand(side, side, device=device).to(kind) for _ in range(2))
    best, runs, begin = float("inf"), 0, time.perf_counter()
    while runs < _LEAST_RUNS or time.perf_counter() - begin < _SECONDS:
        start = time.perf_counter()
        torch.matmul(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best, runs = min(best, time.perf_counter() - start), runs + 1
    return 2.0 * side**3 / best
