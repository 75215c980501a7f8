import argparse
import json
import statistics

import pytest
import torch

from lib.benchmarks import clients
from lib.errors import BadInputError
from lib.inference.model import new_network
from lib.networks.checkpoint import save_weights
from lib.settings import Settings

NETWORK = {"filters": [4, 4, 8, 8, 8]}


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    settings = Settings.model_validate({"network": {"arguments": NETWORK}})
    save_weights(tmp_path / "w.pt", new_network(settings), {"version": "v1"})
    return tmp_path / "w.pt"


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def parsed(*arguments):
    parser = argparse.ArgumentParser()
    clients.add_arguments(parser)
    conf = ("--conf", "network.arguments", json.dumps(NETWORK), "--conf", "inference.engine", "pytorch")
    return parser.parse_args([*map(str, arguments), *conf, "--device", "cpu"])


def test_all_get_an_answer_and_wait_for_one_another(weights):
    result = clients.measure(parsed("--weights", weights, "--clients", 4, "--slices", 4, "--size", 64, "--repeat", 2))
    assert json.loads(json.dumps(result)) == result
    assert (result["model_version"], result["clients"], len(result["alone"])) == ("v1", 4, 2)
    assert [len(seconds) for seconds in result["together"]] == [4, 4]
    assert all(seconds == sorted(seconds) for seconds in result["together"])
    ratios = [seconds[-1] / one for one, seconds in zip(result["alone"], result["together"], strict=True)]
    assert result["times_alone"] == statistics.median(ratios) > 1
    assert min(result["memory_mb"]) > 0
    table = clients.as_text(result).splitlines()
    assert [line.split()[0] for line in table[4:6]] == ["1", "2"]
    assert table[-1].startswith("The last of 4 waits ")


def test_wrong_options(weights):
    with pytest.raises(BadInputError, match="--clients must be at least 1, not 0"):
        clients.measure(parsed("--weights", weights, "--clients", 0))
