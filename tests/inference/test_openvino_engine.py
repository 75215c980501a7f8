import sys
import threading

import numpy as np
import pytest
import torch

from lib.inference.engine import TorchEngine
from lib.inference.openvino_engine import OpenVinoEngine
from lib.inference.stopwatch import Stopwatch
from lib.transforms.windowing import DEFAULT_CHANNELS, gray_levels


def random_hu(shape, seed=0):
    return np.random.default_rng(seed).integers(-150, 250, shape).astype(np.int16)


def levels_of(hu):
    return np.stack([gray_levels(one) for one in hu])


def run(engine, hu):
    return engine(hu, levels_of(hu), Stopwatch())


@pytest.fixture(scope="module", params=[1, 3], ids="{} streams".format)
def engine(request, network):
    return OpenVinoEngine(network, DEFAULT_CHANNELS, "float32", threads=request.param, streams=request.param)


@pytest.fixture(scope="module")
def network(settings, weights):
    from lib.inference.model import load_model

    return load_model(settings, weights, torch.device("cpu")).network


@pytest.mark.parametrize("shape", [(1, 16, 16), (2, 32, 48), (3, 48, 32), (5, 64, 64), (4, 112, 16)])
def test_the_labels_are_those_of_pytorch(engine, network, shape):
    hu = random_hu(shape)
    found, expected = run(engine, hu), run(TorchEngine(network, DEFAULT_CHANNELS, "float32"), hu)
    assert found.dtype == np.uint8
    assert found.shape == shape
    assert len(np.unique(expected)) > 1
    assert (found == expected).mean() > 0.999  # ties may fall either way


def test_bfloat16_is_close(network):
    hu = random_hu((2, 64, 64))
    rounded = OpenVinoEngine(network, DEFAULT_CHANNELS, "bfloat16", threads=1)
    assert (run(rounded, hu) == run(TorchEngine(network, DEFAULT_CHANNELS, "float32"), hu)).mean() > 0.97
    assert rounded.name == "OpenVINO bfloat16, 1 stream on cpu"


@pytest.mark.parametrize(("precision", "streams"), [("float32", 1), ("bfloat16", 2)])
def test_what_is_seen_are_the_labels_their_softmax_and_the_bottom_of_the_u(network, sees_the_same, precision, streams):
    engine = OpenVinoEngine(network, DEFAULT_CHANNELS, precision, threads=streams, streams=streams, has_bottom=True)
    for seed, shape in enumerate([(3, 64, 80), (1, 32, 16)]):
        hu = random_hu(shape, seed)
        seen = sees_the_same(engine, hu)
        expected = sees_the_same(TorchEngine(network, DEFAULT_CHANNELS, "float32"), hu)
        rounded = precision == "bfloat16"
        np.testing.assert_allclose(
            seen.features, expected.features, atol=0.02 * expected.features.max() if rounded else 1e-4
        )
        np.testing.assert_allclose(seen.probabilities, expected.probabilities, atol=0.05 if rounded else 1e-4)


def test_what_can_not_be_told_beside_the_labels():
    engine = OpenVinoEngine(torch.nn.Conv2d(3, 2, 1), DEFAULT_CHANNELS, "float32", threads=1, has_bottom=True)
    hu = random_hu((1, 16, 16))
    assert run(engine, hu).shape == hu.shape
    with pytest.raises(RuntimeError, match="the network has no ConvolutionBackpropData, hence nothing to look at"):
        engine.seen(hu, levels_of(hu), Stopwatch())
    without = OpenVinoEngine(torch.nn.Conv2d(3, 2, 1), DEFAULT_CHANNELS, "float32", threads=1)
    assert without.seen(hu, levels_of(hu), Stopwatch()).features is None


def test_threads_that_use_it_at_once_get_their_own_labels(engine):
    images = [random_hu((1 + seed % 3, 32 + 16 * (seed % 4), 48), seed) for seed in range(6)]
    expected = [run(engine, hu) for hu in images]
    wrong = []

    def use(number):
        for turn in range(8):
            chosen = (number + turn) % len(images)
            if not np.array_equal(run(engine, images[chosen]), expected[chosen]):
                wrong.append(chosen)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_earlier_result_is_not_overwritten(engine):
    first = run(engine, random_hu((2, 32, 32), 1))
    kept = first.copy()
    run(engine, random_hu((2, 32, 32), 2))
    np.testing.assert_array_equal(first, kept)


def test_the_network_stays_as_it_is(network):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    OpenVinoEngine(network, DEFAULT_CHANNELS, "float32", threads=1)
    assert network.training
    network.eval()
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_its_steps_and_its_name(engine):
    watch, hu = Stopwatch(), random_hu((1, 16, 16))
    engine(hu, levels_of(hu), watch)
    assert list(watch.seconds) == ["windows", "network"]
    assert engine.name in {"OpenVINO float32, 1 stream on cpu", "OpenVINO float32, 3 streams on cpu"}


def test_a_network_that_it_can_not_express(network):
    class Odd(torch.nn.Module):
        def forward(self, image):
            return torch.linalg.lu(image.double())[2].float()

    with pytest.raises(Exception, match="lu"):
        OpenVinoEngine(Odd(), DEFAULT_CHANNELS, "float32", threads=1)


def test_importing_openvino_reports_nothing_over_the_network():
    import openvino.tools.ovc

    assert sys.modules["openvino_telemetry"] is None
    assert type(openvino.tools.ovc.telemetry).__module__ == "openvino.tools.ovc.telemetry_stub"
