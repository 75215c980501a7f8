import argparse
import json

import numpy as np
import pytest
import torch

from lib.benchmarks import infer
from lib.benchmarks.monai_segment import segment_with_monai
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


def parsed(*arguments):
    parser = argparse.ArgumentParser()
    infer.add_arguments(parser)
    return parser.parse_args(
        [*map(str, arguments), "--conf", "network.arguments", json.dumps(NETWORK), "--device", "cpu"]
    )


def test_stages_of_both_ways(image, weights):
    result = infer.measure(parsed("--volume", image, "--weights", weights, "--repeat", 3))
    assert json.loads(json.dumps(result)) == result
    for side in (result["ours"], result["baseline"]):
        assert set(side["seconds"]) == {*infer.STAGES, "total"}
        assert side["seconds"]["total"] == pytest.approx(sum(side["seconds"][stage] for stage in infer.STAGES))
        assert side["seconds"]["total"] == sorted(side["totals"])[1]
        assert side["slices_per_second"] == pytest.approx(
            20 / side["seconds"]["total"]
        )  # axial, whatever the file's order
        assert side["peak_memory_mb"] > 0
    assert result["speedup"] == result["baseline"]["seconds"]["total"] / result["ours"]["seconds"]["total"]
    assert result["model_version"] == "v1"
    assert result["precision"] in {"float32", "bfloat16"}
    table = infer.as_text(result)
    assert "24 x 20 x 5 voxels of 0.90 x 0.90 x 1.00 mm" in table
    assert "MONAI's way takes " in table
    assert [line.split()[0] for line in table.splitlines()[5:11]] == [*infer.STAGES, "total"]


def test_without_the_baseline(weights, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    result = infer.measure(parsed("--volume", 2, "--size", 32, "--weights", weights, "--no-baseline"))
    assert result["volume"]["shape"] == [32, 32, 2]
    assert "baseline" not in result
    assert "MONAI" not in infer.as_text(result)


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
