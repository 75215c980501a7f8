import numpy as np
import pytest
import torch

from lib.inference.engine import TorchEngine
from lib.inference.predict import padded
from lib.inference.stopwatch import Stopwatch
from lib.transforms.windowing import DEFAULT_CHANNELS, blend, gray_levels
from lib.volume import AIR_HU


def random_hu(shape, seed=0):
    return np.random.default_rng(seed).integers(-1000, 400, shape).astype(np.int16)


def inputs_of(hu):
    return padded(hu), np.stack([gray_levels(one) for one in hu])


def logits_of(network, hu, precision="float32", channels=DEFAULT_CHANNELS):
    height, width = hu.shape[1:]
    found = TorchEngine(network, channels, precision).logits(*inputs_of(hu), Stopwatch())
    return found[..., :height, :width]


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


class Seen(torch.nn.Module):
    """Keeps what it is given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, image):
        self.image = image
        return image


@pytest.mark.parametrize(("height", "width"), [(32, 48), (33, 47), (1, 1), (16, 5)])
def test_input_is_blended_and_padded_at_the_end(height, width):
    hu, network = random_hu((3, height, width)), Seen()
    logits_of(network, hu)
    assert network.image.shape == (3, 3, -(-height // 16) * 16, -(-width // 16) * 16)
    assert network.image.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(network.image[..., :height, :width].numpy(), blend(hu))
    assert not network.image[..., height:, :].any()
    assert not network.image[..., width:].any()


def test_padding_looks_like_air_in_every_window():
    hu, network = random_hu((2, 20, 31)), Seen()
    surrounded = np.full((2, 32, 32), AIR_HU, np.int16)
    surrounded[:, :20, :31] = hu
    logits_of(network, hu, channels=("lungs", "liver"))
    np.testing.assert_array_equal(network.image, blend(surrounded, ("lungs", "liver")))
    assert network.image[0, 0, -1, -1] > 0.2


@pytest.mark.parametrize("shape", [(5, 33, 47), (1, 40, 24), (2, 7, 9)])
def test_equal_to_a_plain_run_slice_by_slice(model, shape):
    hu = random_hu(shape)
    expected = plain_logits(model.network, hu)
    torch.testing.assert_close(logits_of(model.network, hu), expected, atol=1e-4, rtol=1e-4)
    found = TorchEngine(model.network, DEFAULT_CHANNELS, "float32")(*inputs_of(hu), Stopwatch())
    assert found.dtype == np.uint8
    same = found[:, : shape[1], : shape[2]] == expected.argmax(1).numpy()
    assert same.mean() > 0.999  # ties may fall either way


def test_bfloat16_is_close_to_float32(model):
    hu = random_hu((2, 32, 32))
    exact, rounded = (logits_of(model.network, hu, precision) for precision in ("float32", "bfloat16"))
    assert rounded.dtype == torch.float32
    assert (exact - rounded).abs().max() < 0.05 * (exact.max() - exact.min())


def test_the_mode_of_the_network_is_kept(model):
    model.network.train()
    logits_of(model.network, random_hu((1, 16, 16)))
    assert model.network.training


def test_its_name_and_its_steps(model):
    engine, watch = TorchEngine(model.network, DEFAULT_CHANNELS, "bfloat16"), Stopwatch()
    assert engine.name == "PyTorch bfloat16 on cpu"
    engine(*inputs_of(random_hu((1, 16, 16))), watch)
    assert list(watch.seconds) == ["windows", "network"]


def test_what_is_seen_are_the_labels_their_softmax_and_the_bottom_of_the_u(model, sees_the_same):
    engine, hu = TorchEngine(model.network, DEFAULT_CHANNELS, "float32"), random_hu((2, 32, 48))
    seen = sees_the_same(engine, hu)
    with torch.inference_mode():
        bottom = model.network.encode(torch.from_numpy(blend(hu)))[-1]
    np.testing.assert_allclose(seen.features, bottom, atol=1e-4)
    np.testing.assert_allclose(seen.probabilities, plain_logits(model.network, hu).softmax(1), atol=1e-4)


def test_a_network_without_a_bottom_is_seen_without(sees_the_same):
    network = torch.nn.Conv2d(3, 2, 3, padding=1)
    assert sees_the_same(TorchEngine(network, DEFAULT_CHANNELS, "float32"), random_hu((2, 16, 16))).features is None
