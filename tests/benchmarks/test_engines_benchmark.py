import argparse
import json

import pytest
import torch

from lib.benchmarks import engines
from lib.errors import BadInputError
from lib.inference.model import new_network
from lib.networks.checkpoint import save_weights
from lib.settings import Settings

NETWORK = {"filters": [4, 4, 8, 8, 8]}


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    save_weights(
        tmp_path / "w.pt", new_network(Settings.model_validate({"network": {"arguments": NETWORK}})), {"version": "v1"}
    )
    return tmp_path / "w.pt"


def parsed(*arguments):
    parser = argparse.ArgumentParser()
    engines.add_arguments(parser)
    conf = ("--conf", "network.arguments", json.dumps(NETWORK), "--conf", "inference.precision", "float32")
    return parser.parse_args([*map(str, arguments), *conf, "--device", "cpu"])


def test_all_engines_are_measured_and_compared(weights):
    result = engines.measure(parsed("--weights", weights, "--sizes", 32, 48, "--repeat", 3))
    assert json.loads(json.dumps(result)) == result
    assert {"PyTorch float32 on cpu", "OpenVINO float32, 1 stream on cpu"} <= set(result["engines"])
    for engine in result["engines"].values():
        assert list(engine["sizes"]) == ["32", "48"]
        for found in engine["sizes"].values():
            assert 0 < found["fastest"] <= found["seconds"]
            assert found["processor"] > 0
            assert found["pixels"] > 0.99
    table = engines.as_text(result).splitlines()
    assert table[3].split() == ["engine", "preparing", "32", "x", "32", "CPU", "Dice", "48", "x", "48", "CPU", "Dice"]
    assert len(table) == 4 + len(result["engines"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sizes", 50), "--sizes must be multiples of 16, not 50"),
        (("--repeat", 0), "--repeat must be at least 1, not 0"),
    ],
)
def test_wrong_options(weights, arguments, message):
    with pytest.raises(BadInputError, match=message):
        engines.measure(parsed("--weights", weights, *arguments))
