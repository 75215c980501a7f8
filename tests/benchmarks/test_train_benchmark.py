import argparse
import json

import pytest
import torch

from lib.benchmarks import train
from lib.benchmarks.phantoms import phantom_copies
from lib.errors import BadInputError
from lib.volume_io import read_label


@pytest.fixture(autouse=True)
def private(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "kept"))
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def measured(*arguments):
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    small = json.dumps({"filters": [4, 4, 8, 8, 8]})
    conf = ["--conf", "network.arguments", small, "--conf", "training.patch_size", "64", "--device", "cpu"]
    return train.measure(parser.parse_args([*map(str, arguments), *conf]))


def test_loading_steps_and_epochs_beside_monai_labels_way():
    result = measured("--cases", 2, "--size", 80, "--slices", 10, "--steps", 4, "--repeat", 2)
    assert json.loads(json.dumps(result)) == result
    speeds = result["slices_per_second"]
    assert set(speeds) == {"loading", "step", "epoch", "stock_loading", "stock_epoch"}
    assert all(speed > 0 for speed in speeds.values())
    assert result["recipe"] == {"batch": 4, "patch": 64, "steps": 4}
    ratios = [e / s for e, s in zip(result["rounds"]["epoch"], result["rounds"]["step"], strict=True)]
    assert result["ratio"] == pytest.approx(sum(ratios) / 2)
    text = train.as_text(result)
    assert "2 cases of 80 x 80 x 10 voxels; epochs of 4 steps of 4 patches of 64 x 64" in text
    assert f"A whole epoch reaches {result['ratio']:.1%} of the steps' own speed (goal: 90%)." in text
    assert "MONAI Label's loading alone" in text


def test_without_the_baseline():
    result = measured("--cases", 1, "--size", 80, "--slices", 10, "--steps", 2, "--repeat", 1, "--no-baseline")
    assert set(result["slices_per_second"]) == {"loading", "step", "epoch"}
    assert "MONAI" not in train.as_text(result)


def test_copies_of_a_phantom_are_cases_of_their_own(tmp_path):
    first, second = phantom_copies(2, 32, 4, tmp_path / "studies")
    assert first.image.resolve() == second.image.resolve()
    assert (read_label(first.label).array != read_label(second.label).array).sum() == 2
    assert [case.name for case in phantom_copies(2, 32, 4, tmp_path / "others")] == ["case_0", "case_1"]


@pytest.mark.parametrize("option", ["--cases", "--size", "--slices", "--steps", "--repeat", "--threads"])
def test_numbers_below_one_are_refused(option):
    with pytest.raises(BadInputError, match=f"^{option} must be at least 1, not 0$"):
        measured(option, 0)
