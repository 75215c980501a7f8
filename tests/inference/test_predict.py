import numpy as np
import pytest
import torch

from lib.inference.predict import logits_by_slices, predict_axial, to_input
from lib.inference.stopwatch import Stopwatch
from lib.transforms.windowing import DEFAULT_CHANNELS, blend
from lib.volume import AIR_HU

CPU = torch.device("cpu")


def random_hu(shape, seed=0):
    return np.random.default_rng(seed).integers(-1000, 400, shape).astype(np.int16)


def all_logits(network, hu, **options):
    return torch.cat([logits for _, logits in logits_by_slices(network, hu, DEFAULT_CHANNELS, **options)])


def plain_logits(network, hu):
    """Slice by slice, padded by hand."""
    height, width = hu.shape[1:]
    logits = []
    for z in range(len(hu)):
        image = np.zeros((1, 3, -(-height // 16) * 16, -(-width // 16) * 16), np.float32)
        image[:, :, :height, :width] = blend(hu[z : z + 1])
        with torch.inference_mode():
            logits.append(network(torch.from_numpy(image))[..., :height, :width])
    return torch.cat(logits)


@pytest.mark.parametrize(("height", "width"), [(32, 48), (33, 47), (1, 1), (16, 5)])
def test_input_is_blended_and_padded_at_the_end(height, width):
    hu = random_hu((3, height, width))
    inputs = to_input(hu, DEFAULT_CHANNELS, CPU)
    assert inputs.shape == (3, 3, -(-height // 16) * 16, -(-width // 16) * 16)
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(inputs[..., :height, :width].numpy(), blend(hu))
    assert not inputs[..., height:, :].any()
    assert not inputs[..., width:].any()


def test_padding_looks_like_air_in_every_window():
    hu = random_hu((2, 20, 31))
    surrounded = np.full((2, 32, 32), AIR_HU, np.int16)
    surrounded[:, :20, :31] = hu
    inputs = to_input(hu, ("lungs", "liver"), CPU).numpy()
    np.testing.assert_array_equal(inputs, blend(surrounded, ("lungs", "liver")))
    assert inputs[0, 0, -1, -1] > 0.2


@pytest.mark.parametrize("shape", [(5, 33, 47), (1, 40, 24), (2, 7, 9)])
def test_equal_to_a_plain_run_slice_by_slice(model, shape):
    hu = random_hu(shape)
    expected = plain_logits(model.network, hu)
    torch.testing.assert_close(all_logits(model.network, hu, precision="float32"), expected, atol=1e-4, rtol=1e-4)
    predicted = predict_axial(model.network, hu, DEFAULT_CHANNELS, precision="float32")
    assert predicted.dtype == np.uint8
    assert predicted.shape == shape
    assert (predicted == expected.argmax(1).numpy()).mean() > 0.999  # ties may fall either way


@pytest.mark.parametrize("batch_slices", [1, 2, 3, 100])
def test_batch_size_does_not_matter(model, batch_slices):
    hu = random_hu((7, 30, 34))
    logits = all_logits(model.network, hu, batch_slices=batch_slices, precision="float32")
    torch.testing.assert_close(
        logits, all_logits(model.network, hu, batch_slices=4, precision="float32"), atol=1e-4, rtol=1e-4
    )


def test_bfloat16_is_close_to_float32(model):
    hu = random_hu((2, 32, 32))
    exact = all_logits(model.network, hu, precision="float32")
    rounded = all_logits(model.network, hu, precision="bfloat16")
    assert rounded.dtype == torch.float32
    assert (exact - rounded).abs().max() < 0.05 * (exact.max() - exact.min())


def test_memory_layout_does_not_matter(model):
    hu = random_hu((4, 20, 18))
    view = np.asfortranarray(hu[::-1])[::-1]
    np.testing.assert_array_equal(
        predict_axial(model.network, view, DEFAULT_CHANNELS, precision="float32"),
        predict_axial(model.network, hu, DEFAULT_CHANNELS, precision="float32"),
    )


def test_progress_and_stopwatch(model):
    done, watch = [], Stopwatch()
    predict_axial(
        model.network, random_hu((7, 16, 16)), DEFAULT_CHANNELS, batch_slices=3, progress=done.append, watch=watch
    )
    assert done == [3, 3, 1]
    assert list(watch.seconds) == ["windows", "network"]


def test_the_mode_of_the_network_is_kept(model):
    model.network.train()
    predict_axial(model.network, random_hu((1, 16, 16)), DEFAULT_CHANNELS)
    assert model.network.training
