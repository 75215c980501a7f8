import argparse
import json

import numpy as np
import pytest
import torch

from lib.benchmarks import batch
from lib.benchmarks.batch import Recorder
from lib.errors import BadInputError
from lib.inference.model import new_network
from lib.inference.stopwatch import Stopwatch
from lib.networks.checkpoint import save_weights
from lib.settings import Settings

NETWORK = {"filters": [4, 4, 8, 8, 8]}


@pytest.fixture
def parsed(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torch.manual_seed(0)
    save_weights(tmp_path / "w.pt", new_network(Settings.model_validate({"network": {"arguments": NETWORK}})))

    def parse(*arguments):
        parser = argparse.ArgumentParser()
        batch.add_arguments(parser)
        small = ("--conf", "network.arguments", json.dumps(NETWORK), "--conf", "inference.engine", "pytorch")
        given = (*arguments, "--weights", tmp_path / "w.pt", *small, "--device", "cpu")
        return parser.parse_args([*map(str, given)])

    return parse


def test_each_way_has_its_speed(parsed):
    result = batch.measure(parsed("--cases", 3, "--slices", 3, "--size", 40, "--workers", 2))
    speed = result["slices_per_second"]
    assert list(speed) == ["engine alone", "one by one", "overlapped"]
    assert all(value > 0 for value in speed.values())
    assert result["share"] == pytest.approx(speed["overlapped"] / speed["engine alone"])
    assert (result["cases"], result["workers"], result["volume"]["shape"]) == (3, 2, [40, 40, 3])
    assert json.loads(json.dumps(result)) == result
    text = batch.as_text(result)
    assert "3 cases of 40 x 40 x 3 voxels, 2 at once" in text
    assert text.endswith(f"Overlapped reaches {result['share']:.0%} of what the engine alone does.")


@pytest.mark.parametrize("name", ["cases", "slices", "size", "workers", "threads"])
def test_numbers_that_make_no_sense(parsed, name):
    with pytest.raises(BadInputError, match=f"--{name} must be at least 1, not 0"):
        batch.measure(parsed(f"--{name}", 0))


def test_the_engine_is_given_the_same_again():
    given = []

    class Engine:
        name = "engine"
        device = torch.device("cpu")

        def __call__(self, hu, levels, watch):
            given.append(int(hu.sum()))
            return np.zeros(hu.shape, np.uint8)

    recorder = Recorder(Engine())
    for value in (1, 2):
        recorder(np.full((1, 2, 2), value, np.int16), np.zeros((1, 102), np.int16), Stopwatch())
    assert recorder.replay() > 0
    assert given == [4, 8, 4, 8]
    assert recorder.name == "engine"
