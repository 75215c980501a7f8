"""CT windows and window blending: from HU to the channels that the network sees.

CT values are integers, so every channel is a look-up table over the HU values that occur in a slice. Even the
histogram channel needs no sorting: counting the values gives its order statistics exactly.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lib.cores import available_cores
from lib.errors import BadInputError

HISTOGRAM = "histogram"


@dataclass(frozen=True)
class Window:
    """A display window: `width` and `level` (its center), both in whole HU.

    Raises:
        BadInputError: one of them is no whole number, or `width` is less than 2 HU.

    Example:
        >>> Window(width=150, level=30).low, Window(width=150, level=30).high
        (-45, 105)
    """

    width: int
    level: int

    def __post_init__(self) -> None:
        for name, value in (("width", self.width), ("level", self.level)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                msg = f"a window's {name} must be a whole number of HU, not {value!r}"
                raise BadInputError(msg)
        if self.width < 2:
            msg = f"a window's width must be at least 2 HU, not {self.width}"
            raise BadInputError(msg)

    @property
    def low(self) -> int:
        """The HU shown as 0: `level - width // 2`."""
        return self.level - self.width // 2

    @property
    def high(self) -> int:
        """The HU shown as 1: `level + width // 2`."""
        return self.level + self.width // 2


PRESETS: dict[str, Window] = {
    "brain": Window(80, 40),
    "subdural": Window(254, 100),
    "stroke": Window(8, 32),
    "brain_bone": Window(2800, 600),
    "brain_soft": Window(375, 40),
    "lungs": Window(1500, -600),
    "mediastinum": Window(350, 50),
    "abdomen_soft": Window(400, 50),
    "liver": Window(150, 30),
    "spine_soft": Window(250, 50),
    "spine_bone": Window(1800, 400),
    "custom": Window(200, 60),
}
Channel = str | Window
DEFAULT_CHANNELS: tuple[Channel, ...] = ("liver", "custom", HISTOGRAM)

# Slices handled together by one thread: 32 int16 voxels are one cache line where slices are the fastest axis.
_BLOCK = 32


def find_window(window: Channel) -> Window:
    """A `Window` as it is, or the preset of that name.

    Raises:
        BadInputError: there is no preset of that name.
    """
    if isinstance(window, Window):
        return window
    if window not in PRESETS:
        msg = f"there is no window {window!r}; choose one of {', '.join(PRESETS)}, or give a width and a level"
        raise BadInputError(msg)
    return PRESETS[window]


def window_level(hu: ArrayLike, window: Channel) -> NDArray[np.float32]:
    """Clip to a window and scale it to [0, 1]: `(clip(hu, low, high) - low) / (high - low)`.

    Args:
        hu: HU of any shape and any real dtype; NaN stays NaN.
        window: a `Window` or the name of a preset.

    Returns:
        float32 of the same shape.
    """
    window = find_window(window)
    values = np.clip(np.asarray(hu, dtype=np.float64), window.low, window.high)
    return ((values - window.low) / (window.high - window.low)).astype(np.float32)


def histogram_scale(slice_hu: NDArray[np.int16]) -> NDArray[np.float32]:
    """Scale one slice so that its gray values are used about equally often, as fast.ai's `hist_scaled` does.

    The HU at the fractions 0.001, 0.005, 0.015, ... 0.995, 0.999 of all sorted pixels (rank = floor(fraction times
    number of pixels)), without repetition, are break points; between them HU are mapped linearly to equal steps of
    [0, 1]; what lies outside becomes 0 or 1. A slice with one break point, such as a constant one, becomes 0.

    Args:
        slice_hu: int16 HU, `(Y, X)`; the result doesn't depend on the order of the pixels.

    Returns:
        float32 of the same shape in [0, 1].

    Raises:
        BadInputError: the slice is not 2D, is empty or not int16.
    """
    _check_hu(slice_hu, axes=2)
    return blend(slice_hu[np.newaxis], (HISTOGRAM,), threads=1)[0, 0]


def blend(
    slices: NDArray[np.int16],
    channels: Sequence[Channel] = DEFAULT_CHANNELS,
    *,
    histogram_of: NDArray[np.int16] | None = None,
    out: NDArray[np.float32] | None = None,
    threads: int | None = None,
) -> NDArray[np.float32]:
    """Show each axial slice through several windows at once, one per channel.

    Args:
        slices: int16 HU, axial `(Z, Y, X)`, contiguous or not; any int16 value is allowed.
        channels: for each channel the name of a preset, a `Window`, or "histogram" for `histogram_scale`.
        histogram_of: int16 HU `(Z, Y', X')`, the whole slices that `slices` were cut out of: the "histogram" channel
            then uses their gray values, so that a crop looks as it does in its slice. None: those of `slices`.
        out: where to put the result: float32, C-contiguous, `(Z, C, Y, X)`; new memory if None.
        threads: how many slices to work on at once; None: the number of CPU cores.

    Returns:
        float32 `(Z, C, Y, X)` in [0, 1]; `out` if it was given.

    Raises:
        BadInputError: `slices` is not int16, not 3D or empty; a channel is unknown or there is none; `out` has
            another shape, dtype or memory layout.

    Example:
        >>> blend(np.array([[[-1000, 30, 500]]], np.int16), ("liver",)).tolist()
        [[[[0.0, 0.5, 1.0]]]]
    """
    _check_hu(slices, axes=3)
    if histogram_of is not None:
        _check_hu(histogram_of, axes=3)
        if len(histogram_of) != len(slices):
            msg = f"histogram_of must have as many slices as slices ({len(slices)}), not {len(histogram_of)}"
            raise BadInputError(msg)
    windows = _find_channels(channels)
    depth, height, width = slices.shape
    shape = (depth, len(windows), height, width)
    if out is None:
        out = np.empty(shape, np.float32)
    elif out.shape != shape or out.dtype != np.float32 or not out.flags.c_contiguous:
        layout = "C-contiguous" if out.flags.c_contiguous else "not C-contiguous"
        msg = f"out must be float32, C-contiguous and of shape {shape}, not {out.dtype}, {layout}, {out.shape}"
        raise BadInputError(msg)

    starts = range(0, depth, _BLOCK)
    workers = min(threads or available_cores(), depth)
    if workers > 1 and depth < workers * _BLOCK:  # small volumes: let every thread have its share
        step = -(-depth // workers)
        starts = range(0, depth, step)
    target = out

    def work(start: int) -> None:
        end = min(start + starts.step, depth)
        whole = None if histogram_of is None else histogram_of[start:end]
        _blend_block(slices[start:end], windows, target[start:end], whole)

    if workers == 1:
        for start in starts:
            work(start)
    else:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, starts))
    return out


def _blend_block(
    slices: NDArray[np.int16],
    windows: Sequence[Window | None],
    out: NDArray[np.float32],
    histogram_of: NDArray[np.int16] | None,
) -> None:
    slices = np.ascontiguousarray(slices)
    index = np.empty(slices[0].size, np.intp)
    flat = zip(slices.reshape(len(slices), -1), out.reshape(*out.shape[:2], -1), strict=True)
    for position, (slice_hu, planes) in enumerate(flat):
        low, high = int(slice_hu.min()), int(slice_hu.max())
        np.subtract(slice_hu, low, out=index, dtype=np.intp)
        values = np.arange(low, high + 1)
        for window, plane in zip(windows, planes, strict=True):
            if window:
                table = window_level(values, window)
            elif histogram_of is None:
                table = _spread(_levels(np.bincount(index), low), values)
            else:
                table = _spread(gray_levels(histogram_of[position]), values)
            np.take(table, index, out=plane, mode="clip")  # "raise" would go through a buffer; no index is outside


def gray_levels(slice_hu: NDArray[np.int16]) -> NDArray[np.int16]:
    """The HU that decide a slice's histogram channel, see `histogram_scale`.

    Args:
        slice_hu: int16 HU of any shape, at least one pixel.

    Returns:
        int16 `(102,)`, ascending, with repetitions.
    """
    flat = slice_hu.ravel()
    low = int(flat.min())
    return _levels(np.bincount(flat.astype(np.intp) - low), low).astype(np.int16)


def channel_tables(
    levels: NDArray[np.int16], channels: Sequence[Channel] = DEFAULT_CHANNELS
) -> tuple[NDArray[np.float32], int]:
    """What each channel makes of each HU, for slices of which only the gray levels are at hand.

    Args:
        levels: int16 `(N, 102)`, the `gray_levels` of each slice.
        channels: see `blend`.

    Returns:
        float32 `(N, C, L)` and the HU that its first entries stand for; HU below and above are as the first and last.
    """
    windows = _find_channels(channels)
    named = [window for window in windows if window]
    low = min([int(levels.min()), *(window.low for window in named)])
    high = max([int(levels.max()), *(window.high for window in named)])
    values = np.arange(low, high + 1)
    tables = np.empty((len(levels), len(windows), len(values)), np.float32)
    for channel, window in enumerate(windows):
        if window:
            tables[:, channel] = window_level(values, window)
        else:
            for row, each in zip(tables, levels, strict=True):
                row[channel] = _spread(each, values)
    return tables, low


def _levels(counts: NDArray[np.intp], low: int) -> NDArray[np.intp]:
    """`gray_levels` of a slice that has `counts` pixels of each HU from `low` on."""
    cumulative = np.cumsum(counts)
    return low + np.searchsorted(cumulative, ranks(int(cumulative[-1])), side="right")


def _spread(levels: NDArray[np.integer], values: NDArray[np.intp]) -> NDArray[np.float32]:
    """The histogram channel's value of each of `values` in HU."""
    breaks = np.unique(levels)
    return np.interp(values, breaks, np.linspace(0.0, 1.0, len(breaks))).astype(np.float32)


def ranks(size: int) -> list[int]:
    """Positions of the break points among `size` sorted pixels, in whole numbers: no rounding of fractions."""
    return [size // 1000, *(size * (2 * step + 1) // 200 for step in range(100)), size * 999 // 1000]


def _find_channels(channels: Sequence[Channel]) -> list[Window | None]:
    """The window of each channel, None for the histogram."""
    if isinstance(channels, str) or len(channels) == 0:
        msg = f"channels must be a list of at least one window name, Window or {HISTOGRAM!r}, not {channels!r}"
        raise BadInputError(msg)
    return [None if channel == HISTOGRAM else find_window(channel) for channel in channels]


def _check_hu(array: NDArray, axes: int) -> None:
    names = "(Z, Y, X)" if axes == 3 else "(Y, X)"
    if array.ndim != axes or 0 in array.shape:
        msg = f"HU must come as {names} with at least one pixel, not with shape {array.shape}"
        raise BadInputError(msg)
    if array.dtype != np.int16:
        msg = f"HU must be int16, not {array.dtype}; round them and convert them first"
        raise BadInputError(msg)
