import argparse
import json

import numpy as np
import pytest
import torch

from lib.benchmarks import score
from lib.errors import BadInputError, NotFoundError
from lib.inference.model import new_network
from lib.networks.checkpoint import save_weights
from lib.settings import Settings
from lib.volume import Volume
from lib.volume_io import write_image

NETWORK = {"filters": [4, 4, 8, 8, 8]}


@pytest.fixture
def parsed(tmp_path):
    torch.manual_seed(0)
    save_weights(tmp_path / "w.pt", new_network(Settings.model_validate({"network": {"arguments": NETWORK}})))
    hu = np.random.default_rng(0).integers(-100, 300, (24, 20, 5)).astype(np.int16)
    for name in ("a.nii.gz", "b.nrrd"):
        write_image(tmp_path / name, Volume(hu, np.diag([-1, -1, 2.0, 1])))

    def parse(*arguments):
        parser = argparse.ArgumentParser()
        score.add_arguments(parser)
        small = ("--conf", "network.arguments", json.dumps(NETWORK), "--conf", "inference.engine", "pytorch")
        return parser.parse_args([*map(str, arguments), *small, "--weights", str(tmp_path / "w.pt"), "--device", "cpu"])

    return parse


def test_all_ways_and_monai_labels_own(parsed, tmp_path):
    result = score.measure(parsed("--volume", tmp_path / "a.nii.gz", tmp_path / "b.nrrd", "--repeat", 1))
    assert json.loads(json.dumps(result)) == result
    for case in result["cases"]:
        assert case["shape"] == [24, 20, 5]
        assert case["scores"]["with scores"]["bald"] is None
        assert case["scores"]["with scores and BALD"]["bald"] > 0
        assert "observe" in case["steps"]["with scores"]
        assert "observe" not in case["steps"]["alone"]
    baseline = result["baseline"]
    assert sorted(baseline["scores"]) == ["case_0", "case_1"]
    first, second = baseline["scores"].values()
    assert 0 < first < np.log(3)  # entropy of three classes, of the same image with other dropout
    assert first == pytest.approx(second, rel=0.1)
    for way, ratio in result["per_hour_ratio"].items():
        total = sum(case["seconds"][way] for case in result["cases"])
        assert ratio == pytest.approx(baseline["seconds"] / total)
    text = score.as_text(result)
    assert f"Segmenting with scores takes {result['ratio']['with scores']:.2f} times as long as alone" in text
    assert f"With scores there are {result['per_hour_ratio']['with scores']:.0f} times as many (goal: 20)." in text


def test_what_can_not_be_measured(parsed):
    with pytest.raises(BadInputError, match="--repeat must be at least 1, not 0"):
        score.measure(parsed("--repeat", 0))
    with pytest.raises(NotFoundError, match="--volume nowhere: neither a number of slices nor an existing image"):
        score.measure(parsed("--volume", "nowhere", "--no-baseline"))
