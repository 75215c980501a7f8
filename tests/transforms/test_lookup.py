import numpy as np
import pytest
import torch

from lib.transforms.lookup import look_up, slice_levels
from lib.transforms.windowing import DEFAULT_CHANNELS, Window, blend, channel_tables, gray_levels

OTHERS = (Window(10, 2000), "histogram", "lungs", Window(4000, -500))


def slices(seed=0):
    """A noisy slice, one that is nothing but air, one with metal."""
    stack = np.random.default_rng(seed).normal(0, 300, (3, 24, 20)).clip(-1024, 3071).astype(np.int16)
    stack[1] = -1000
    stack[2, :3] = 32767
    return stack


def looked_up(hu, whole, channels):
    tables, low = channel_tables(np.stack([gray_levels(one) for one in whole]), channels)
    return look_up(torch.from_numpy(hu), torch.from_numpy(tables), low)


@pytest.mark.parametrize("channels", [DEFAULT_CHANNELS, OTHERS, OTHERS[:1]])
def test_channels_are_exactly_those_of_blend(channels):
    hu = slices()
    found = looked_up(hu, hu, channels)
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(found, blend(hu, channels))


def test_a_crop_is_windowed_by_its_whole_slice():
    whole = slices()
    crop = np.ascontiguousarray(whole[:, 5:15, 3:9])
    np.testing.assert_array_equal(
        looked_up(crop, whole, DEFAULT_CHANNELS), blend(crop, DEFAULT_CHANNELS, histogram_of=whole)
    )


def test_hu_beyond_the_tables_are_as_their_ends():
    whole = slices()
    far = np.array([[[-32768, 32767]]] * 3, np.int16)
    np.testing.assert_array_equal(
        looked_up(far, whole, DEFAULT_CHANNELS), blend(far, DEFAULT_CHANNELS, histogram_of=whole)
    )


def test_no_slices_give_no_channels():
    assert look_up(torch.zeros(0, 4, 4, dtype=torch.int16), torch.zeros(0, 3, 5), 0).shape == (0, 3, 4, 4)


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))],
)
def test_gray_levels_are_the_same_on_every_device(device):
    whole = slices()
    expected = np.stack([gray_levels(one) for one in whole])
    found = slice_levels(whole, torch.device(device))
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, expected)
