import math

import pytest
import torch
from torch import nn

from lib.errors import BadInputError
from lib.networks.unet import MulticlassUNet


def small(**arguments):
    defaults = {"filters": (4, 8, 16), "dropout": (0.1, 0.1, 0.2), "up_dropout": (0.2, 0.1)}
    torch.manual_seed(0)
    return MulticlassUNet(**defaults | arguments)


def test_it_has_the_parameters_of_the_original():
    assert sum(parameter.numel() for parameter in MulticlassUNet().parameters()) == 1_941_139


@pytest.mark.parametrize("size", [(16, 16), (64, 48), (16, 80)])
def test_logits_have_the_size_of_the_image(size):
    logits = MulticlassUNet().eval()(torch.rand(2, 3, *size))
    assert logits.shape == (2, 3, *size)


def test_logits_are_not_probabilities():
    logits = small().eval()(torch.rand(1, 3, 16, 16))
    assert not torch.allclose(logits.softmax(1), logits)
    assert (logits < 0).any()


def test_other_channels_and_classes():
    assert small(in_channels=1, out_channels=5).eval()(torch.rand(1, 1, 8, 12)).shape == (1, 5, 8, 12)


@pytest.mark.parametrize("size", [(17, 16), (16, 40), (512, 500)])
def test_sizes_that_can_not_be_halved_four_times_are_refused(size):
    with pytest.raises(BadInputError, match=f"must be multiples of 16, not {size[0]} x {size[1]}; pad it first"):
        MulticlassUNet()(torch.rand(1, 3, *size))


def test_dropout_probabilities_are_those_of_the_original():
    network = MulticlassUNet()
    assert [module.p for module in network.modules() if isinstance(module, nn.Dropout)] == [
        *(0.1, 0.1, 0.2, 0.2, 0.3),
        *(0.2, 0.2, 0.1, 0.1),
    ]


def test_dropout_acts_in_training_only():
    network, image = small(), torch.rand(1, 3, 16, 16)
    assert not torch.equal(network(image), network(image))
    network.eval()
    assert torch.equal(network(image), network(image))


def test_kernels_are_he_normal_and_biases_zero():
    torch.manual_seed(0)
    for name, module in MulticlassUNet().named_modules():
        if not isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            continue
        assert not module.bias.any(), name
        fan_in = module.weight[0].numel()
        std = math.sqrt(2 / fan_in)
        tolerance = 5 / math.sqrt(2 * module.weight.numel())  # five standard errors of a standard deviation
        assert module.weight.std().item() == pytest.approx(std, rel=tolerance), name
        assert module.weight.abs().max() <= 2 * std / 0.8796 + 1e-6, name


def test_encoding_then_decoding_is_the_whole():
    network, image = small().eval(), torch.rand(1, 3, 16, 24)
    features = network.encode(image)
    assert [tuple(level.shape[1:]) for level in features] == [(4, 16, 24), (8, 8, 12), (16, 4, 6)]
    assert torch.equal(network.decode(features), network(image))


def test_every_parameter_learns():
    network = small()
    network(torch.rand(1, 3, 16, 16)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"filters": (4, 8)}, "2 filters need as many dropout values and one up_dropout less, not 3 and 2"),
        ({"up_dropout": (0.1,)}, "3 filters need as many dropout values and one up_dropout less, not 3 and 1"),
        ({"dropout": (0.1, 1.0, 0.1)}, "dropout must be at least 0 and less than 1"),
        ({"in_channels": 0}, "must be whole numbers of at least 1, not 0, 3"),
        ({"filters": (4, 8.5, 16)}, "must be whole numbers"),
    ],
)
def test_unfit_arguments_are_refused(arguments, message):
    with pytest.raises(BadInputError, match=message):
        small(**arguments)
