import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from lib.networks.checkpoint import load_weights
from lib.networks.unet import MulticlassUNet

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "import_keras.py"


def run_script(*arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, check=False
    )


@pytest.fixture
def keras_file(tmp_path):
    """Weights in the layout of Keras 2, whose kernels count up from layer to layer."""
    path = tmp_path / "original.h5"
    state = MulticlassUNet().state_dict()
    names = [name.removesuffix(".weight") for name in state if name.endswith(".weight")]
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"input_1", *(f"layer_{number}".encode() for number in range(len(names)))]
        file.create_group("input_1").attrs["weight_names"] = np.array([], "S1")
        for number, name in enumerate(names):
            group = file.create_group(f"layer_{number}")
            group.attrs["weight_names"] = [f"layer_{number}/kernel:0".encode(), f"layer_{number}/bias:0".encode()]
            shape = state[f"{name}.weight"].permute(2, 3, 1, 0).shape
            group[f"layer_{number}/kernel:0"] = np.full(shape, number, np.float32)
            group[f"layer_{number}/bias:0"] = np.full(len(state[f"{name}.bias"]), -number, np.float32)
    return path


def test_it_writes_a_checkpoint(keras_file, tmp_path):
    out = tmp_path / "model.pt"
    finished = run_script(keras_file, out)
    assert finished.returncode == 0, finished.stderr
    assert "1,941,139 parameters" in finished.stdout
    network = MulticlassUNet()
    meta = load_weights(out, network)
    assert meta == {"network": "MulticlassUNet", "in_channels": 3, "out_channels": 3, "imported_from": "original.h5"}
    assert torch.all(network.encoder[0].conv1.weight == 0)
    assert torch.all(network.decoder[0].upsample.weight == 10)
    assert torch.all(network.head.weight == 22)
    assert torch.all(network.head.bias == -22)


def test_an_unfit_file_gives_one_line(keras_file, tmp_path):
    finished = run_script(keras_file, tmp_path / "model.pt", "--out-channels", "4")
    assert finished.returncode == 2
    assert finished.stderr.startswith("error: the layer layer_22 in ")
    assert finished.stderr.count("\n") == 1
    assert not (tmp_path / "model.pt").exists()


def test_help_names_the_kinds_of_file():
    finished = run_script("--help")
    assert finished.returncode == 0
    assert ".weights.h5" in finished.stdout
