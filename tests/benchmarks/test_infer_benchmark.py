import argparse
import json
from importlib.metadata import version

import numpy as np
import pytest
import torch

from lib.benchmarks import engine_limit, infer
from lib.benchmarks.monai_segment import segment_with_monai
from lib.benchmarks.sample_app import STAGES
from lib.errors import BadInputError, ModelError, NotFoundError
from lib.inference.model import load_model, new_network
from lib.networks.checkpoint import save_weights
from lib.settings import Settings
from lib.volume import Volume
from lib.volume_io import read_image, read_label, write_image

NETWORK = {"filters": [4, 4, 8, 8, 8]}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "w.pt"
    save_weights(path, new_network(Settings.model_validate({"network": {"arguments": NETWORK}})), {"version": "v1"})
    return path


@pytest.fixture
def image(tmp_path):
    hu = np.random.default_rng(0).integers(-1000, 300, (24, 20, 5)).astype(np.int16)
    affine = np.array([[0, 0, 1.0, 0], [0.9, 0, 0, 5], [0, -0.9, 0, 3], [0, 0, 0, 1]])  # sagittal, 20 axial slices
    write_image(tmp_path / "ct.nii.gz", Volume(hu, affine))
    return tmp_path / "ct.nii.gz"


@pytest.fixture(autouse=True)
def quick_peaks(monkeypatch):
    monkeypatch.setattr(engine_limit, "_SIDE", {"cpu": 64})
    monkeypatch.setattr(engine_limit, "_SECONDS", 0)


def parsed(*arguments):
    parser = argparse.ArgumentParser()
    infer.add_arguments(parser)
    small = ("--conf", "network.arguments", json.dumps(NETWORK), "--conf", "inference.engine", "pytorch")
    return parser.parse_args([*map(str, arguments), *small, "--device", "cpu"])


def is_whole(side, runs):
    """Stages and the rest make up the total, which is that of the run in the middle."""
    seconds = side["seconds"]
    assert sum(seconds.values()) == pytest.approx(2 * seconds["total"], abs=0.03)  # the sample app rounds to 0.01 s
    assert seconds["total"] == sorted(side["totals"])[len(side["totals"]) // 2]
    assert len(side["totals"]) == runs
    assert side["slices_per_second"] == pytest.approx(20 / seconds["total"])  # axial, whatever the file's order
    assert side["peak_memory_mb"] >= side["loaded_memory_mb"] > 0


def test_stages_of_both_ways(image, weights):
    result = infer.measure(parsed("--volume", image, "--weights", weights, "--repeat", 3))
    assert json.loads(json.dumps(result)) == result
    for side in (*result["ours"].values(), result["baseline"]):
        is_whole(side, 3)
    cold, warm, prefetched = (result["ours"][way] for way in infer.WAYS)
    assert cold["seconds"].keys() == warm["seconds"].keys() >= {"read", "windows", "network", "postprocessing", "write"}
    assert not prefetched["seconds"].keys() & {"read", "windows", "network", "postprocessing"}
    assert set(result["baseline"]["seconds"]) == {
        "read", "windows", "network", "postprocessing", "write", "other", "total"
    }  # fmt: skip
    assert result["ratio"] == result["baseline"]["seconds"]["total"] / cold["seconds"]["total"]
    assert result["model_version"] == "v1"
    assert result["engine"].startswith("PyTorch ")
    table = infer.as_text(result)
    assert "24 x 20 x 5 voxels of 0.90 x 0.90 x 1.00 mm" in table
    assert f"ratio: the baseline takes {result['ratio']:.1f} times as long as LiverLoop, cold." in table


def test_agreement_and_limit(image, weights):
    arguments = ("--volume", image, "--weights", weights, "--no-baseline")
    plain = ("--conf", "inference.precision", "float32", "--conf", "inference.cascade", "false")
    result = infer.measure(parsed(*arguments, *plain))
    assert result["agreement"]["dice"] == {"liver": 1.0, "tumor": 1.0}
    assert result["agreement"]["different_voxels"] == 0
    flop = result["limit"]["gflop"]
    assert 0 < flop["must"] <= flop["whole"]
    assert flop["seen"] == pytest.approx(flop["whole"])
    assert "Dice with PyTorch float32 on the whole volume" in infer.as_text(result)


def test_what_is_left_out(weights, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    arguments = ("--volume", 2, "--size", 32, "--weights", weights, "--no-baseline", "--no-agreement")
    result = infer.measure(parsed(*arguments, "--conf", "inference.cache_mb", 0))
    assert result["volume"]["shape"] == [32, 32, 2]
    assert set(result["ours"]) == {"cold", "warm"}  # nothing is kept
    assert not result.keys() & {"baseline", "ratio", "agreement"}
    table = infer.as_text(result)
    assert "baseline" not in table
    assert "Dice" not in table


def test_beside_the_sample_app(image, weights):
    """Its own code, in its own process; the spleen's network is the smaller one."""
    arguments = ("--volume", image, "--weights", weights, "--against", "monailabel-radiology-spleen", "--no-agreement")
    result = infer.measure(parsed(*arguments))
    assert json.loads(json.dumps(result)) == result
    baseline = result["baseline"]
    is_whole(baseline, 1)
    assert list(baseline["seconds"]) == [*STAGES, "other", "total"]
    assert baseline["network"] == "UNet"
    assert baseline["roi"] == [96, 96, 96]
    assert f"MONAI Label {version('monailabel')}, radiology sample app, segmentation_spleen" in infer.as_text(result)


def test_the_baseline_segments_the_same_image(image, weights, tmp_path):
    """Its label has the image's geometry, and without post-processing and the histogram it would be ours."""
    settings = Settings.model_validate({"network": {"arguments": NETWORK}, "inference": {"precision": "float32"}})
    model = load_model(settings, weights, torch.device("cpu"))
    segment_with_monai(image, tmp_path / "out", model, settings)
    (written,) = (tmp_path / "out").iterdir()
    label, source = read_label(written), read_image(image)
    assert label.shape == source.shape
    np.testing.assert_allclose(label.affine, source.affine, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("--repeat", 0), BadInputError, "--repeat must be at least 1, not 0"),
        (("--threads", -1), BadInputError, "--threads must be at least 1, not -1"),
        (
            ("--volume", "nowhere.nii"),
            NotFoundError,
            "--volume nowhere.nii: neither a number of slices nor an existing",
        ),
        (("--weights", "nowhere.pt"), ModelError, "there is no weights file nowhere.pt"),
        (("--volume", 2, "--size", 3), BadInputError, "at least 16 x 16 x 1 voxels, not"),
    ],
)
def test_wrong_arguments(weights, arguments, error, message):
    with pytest.raises(error, match=message):
        infer.measure(parsed("--weights", weights, *arguments))
