import pytest
import torch
from torch import nn

from lib.errors import ModelError
from lib.networks.from_hu import FromHounsfield, script_from_hu
from lib.networks.unet import MulticlassUNet
from lib.transforms.windowing import Window, blend

CHANNELS = ("liver", "histogram", Window(301, -7))


class Same(nn.Module):
    """Gives its input, to see the channels."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """The image."""
        return image


class OfOneSize(nn.Module):
    """A network whose trace holds the size of the image it saw."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Rows and columns are mixed by numbers of this image."""
        return image.reshape(-1, 3, *(int(size) for size in image.shape[2:])) * float(image.shape[2])


def hu(*shape, low=-1024, high=1500):
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(1, 1, 16, 32), (3, 1, 33, 50), (2, 1, 1, 1), (1, 1, 200, 300)])
def test_the_channels_are_those_of_blending(shape):
    image = hu(*shape)
    expected = blend(image[:, 0].to(torch.int16).numpy(), CHANNELS)
    for module in (FromHounsfield(Same(), CHANNELS, 16), script_from_hu(Same(), CHANNELS, 16)):
        torch.testing.assert_close(module(image), torch.from_numpy(expected), rtol=0, atol=1e-6)


def test_a_constant_slice_and_few_gray_values():
    for image in (torch.full((1, 1, 20, 20), 40), hu(1, 1, 20, 20, low=0, high=2)):
        expected = blend(image[:, 0].to(torch.int16).numpy(), CHANNELS)
        result = FromHounsfield(Same(), CHANNELS, 16)(image)
        torch.testing.assert_close(result, torch.from_numpy(expected), rtol=0, atol=1e-6)


def test_hu_are_rounded_and_padding_of_scanners_is_air():
    module = FromHounsfield(Same(), CHANNELS, 16)
    image = hu(1, 1, 20, 20).float()
    image[..., :3, :] = -1024
    padded = image.clone()
    padded[..., :3, :] = -3024
    assert torch.equal(module(padded), module(image))
    assert torch.equal(module(image + 0.4), module(image))


def test_a_scripted_network_does_the_same_for_every_size():
    torch.manual_seed(0)
    network = MulticlassUNet(filters=[4] * 5).eval()
    scripted = script_from_hu(network, CHANNELS, 16)
    own = FromHounsfield(network, CHANNELS, 16)
    for shape in ((1, 1, 64, 64), (5, 1, 70, 33)):
        with torch.no_grad():
            result = scripted(hu(*shape))
            assert result.shape == (shape[0], 3, *shape[2:])
            torch.testing.assert_close(result, own(hu(*shape)), rtol=0, atol=1e-5)


def test_a_network_that_can_not_be_written_so():
    with pytest.raises(ModelError, match=r"^the network OfOneSize can't be exported: its TorchScript does not do the"):
        script_from_hu(OfOneSize(), CHANNELS, 16)
