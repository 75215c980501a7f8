from pathlib import Path

import pytest
import torch
from torch import nn

from lib.errors import ModelError
from lib.networks.from_hu import FromHounsfield
from lib.networks.to_onnx import onnxruntime, write_onnx  # its first import, without reports
from lib.networks.unet import MulticlassUNet
from lib.transforms.windowing import Window

REPOSITORY = Path(__file__).resolve().parents[2]
CHANNELS = ("liver", "histogram", Window(301, -7))
WINDOWS = ("liver", "lungs", "custom")


class Eigenvectors(nn.Module):
    """A network that ONNX has no operator for."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Of as many channels as the image."""
        return torch.linalg.svd(image)[0]


class OfOneSize(nn.Module):
    """A network that holds the size of the image it is exported with."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Rows and columns are mixed by numbers of this image."""
        return image.reshape(-1, 3, *(int(size) for size in image.shape[2:]))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A small network and its ONNX file."""
    torch.manual_seed(0)
    network = MulticlassUNet(filters=[4] * 5).eval()
    path = tmp_path_factory.mktemp("onnx") / "new" / "model.onnx"
    write_onnx(path, network, CHANNELS, 16, {"about": "a test"})
    return network, path


@pytest.mark.parametrize("shape", [(1, 1, 64, 64), (5, 1, 70, 33), (2, 1, 1, 1), (1, 1, 300, 200)])
def test_slices_of_every_number_and_size(exported, shape):
    network, path = exported
    hu = torch.randint(-3024, 1500, shape, generator=torch.Generator().manual_seed(1)).float()
    (logits,) = onnxruntime.InferenceSession(path).run(["logits"], {"hu": hu.numpy()})
    assert logits.shape == (shape[0], 3, *shape[2:])
    with torch.no_grad():
        expected = FromHounsfield(network, CHANNELS, 16)(hu)
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=0, atol=1e-4)


def test_constant_slices_and_fractions_of_hu(exported):
    network, path = exported
    hu = torch.stack([torch.full((1, 20, 20), 40.0), torch.full((1, 20, 20), 3.4), torch.rand(1, 20, 20)])
    (logits,) = onnxruntime.InferenceSession(path).run(["logits"], {"hu": hu.numpy()})
    with torch.no_grad():
        expected = FromHounsfield(network, CHANNELS, 16)(hu)
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=0, atol=1e-4)


def test_what_the_file_tells(exported):
    session = onnxruntime.InferenceSession(exported[1])
    assert session.get_modelmeta().custom_metadata_map == {"about": "a test"}
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.type, taken.shape) == ("hu", "tensor(float)", ["slices", 1, "rows", "columns"])
    assert (given.name, given.type, given.shape) == ("logits", "tensor(float)", ["slices", 3, "rows", "columns"])
    # Neither folders of this machine nor lines of this code.
    assert not any(word in exported[1].read_bytes() for word in (b"site-packages", b"from_hu", b".py"))


def test_a_network_that_can_not_be_written_so(tmp_path):
    with pytest.raises(ModelError, match=r"^the network Eigenvectors can't be exported as ONNX for images of every si"):
        write_onnx(tmp_path / "model.onnx", Eigenvectors(), WINDOWS, 16, {})
    with pytest.raises(ModelError, match=r"^the network OfOneSize can't be exported as ONNX: ONNX Runtime says "):
        write_onnx(tmp_path / "model.onnx", OfOneSize(), WINDOWS, 16, {})
    assert not list(tmp_path.iterdir())
