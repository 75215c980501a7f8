import pytest
import torch

from lib.errors import SettingsError
from lib.networks.factory import build_network
from lib.networks.unet import MulticlassUNet


def test_ours_by_name():
    network = build_network("MulticlassUNet", 2, 4, {"filters": [2, 4], "dropout": [0, 0.1], "up_dropout": [0.1]})
    assert isinstance(network, MulticlassUNet)
    assert network.eval()(torch.rand(1, 2, 8, 8)).shape == (1, 4, 8, 8)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("UNet", {"channels": [4, 8], "strides": [2]}),
        ("AttentionUnet", {"channels": [4, 8], "strides": [2]}),
        ("BasicUNet", {"features": [4, 4, 4, 4, 4, 4]}),
        ("SegResNet", {"init_filters": 8}),
    ],
)
def test_networks_of_monai_are_two_dimensional(name, arguments):
    network = build_network(name, 3, 3, arguments).eval()
    with torch.no_grad():
        assert network(torch.rand(1, 3, 32, 32)).shape == (1, 3, 32, 32)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("MulticlasUNet", {}, "^there is no network 'MulticlasUNet'; did you mean MulticlassUNet"),
        ("qqqqq", {}, "^there is no network 'qqqqq'; use MulticlassUNet or a class of monai.networks.nets$"),
        ("unet", {}, "^there is no network 'unet'"),  # the module of that name, not the class
        ("MulticlassUNet", {"filter": [1]}, "has no argument 'filter'; it has filters, dropout, up_dropout$"),
        ("MulticlassUNet", {"filters": [1]}, "can't be built from .*: 1 filters need as many dropout values"),
        ("MulticlassUNet", {"dropout": "high"}, "the network MulticlassUNet can't be built from"),
        ("UNet", {}, "^the network UNet can't be built from .*channels"),
        ("UNet", {"channels": [4, 8], "strides": []}, "^the network UNet can't be built from"),
        ("UNet", {"out_channels": 7}, "^remove out_channels from the arguments of the network UNet"),
        ("UNet", {"spatial_dims": 3}, "^remove spatial_dims from the arguments"),
    ],
)
def test_wrong_settings_give_one_clear_line(name, arguments, message):
    with pytest.raises(SettingsError, match=message) as caught:
        build_network(name, 3, 3, arguments)
    assert "\n" not in str(caught.value)


def test_arguments_are_left_alone():
    arguments = {"channels": [4, 8], "strides": [2]}
    build_network("UNet", 3, 3, arguments)
    assert arguments == {"channels": [4, 8], "strides": [2]}
