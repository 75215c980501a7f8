import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from lib.errors import BadInputError
from lib.transforms.dictionary import WindowBlendd, WindowLeveld
from lib.transforms.windowing import Window, blend, window_level


def volume(shape=(1, 6, 5, 4), seed=0):
    return np.random.default_rng(seed).integers(-1024, 1500, shape).astype(np.int16)


def test_window_level_of_one_entry():
    image = volume()
    data = {"image": image, "label": "untouched"}
    result = WindowLeveld("image", "liver")(data)
    np.testing.assert_array_equal(result["image"], window_level(image, "liver"))
    assert result["label"] == "untouched"
    assert data["image"] is image  # a new dictionary, the given one is as before


def test_window_level_keeps_metadata():
    affine = torch.diag(torch.tensor([0.7, 0.7, 2.5, 1.0], dtype=torch.float64))
    image = MetaTensor(torch.from_numpy(volume().astype(np.float32)), affine=affine, meta={"name": "a"})
    result = WindowLeveld(["image"], Window(400, 40))({"image": image})["image"]
    assert isinstance(result, MetaTensor)
    assert result.dtype == torch.float32
    assert torch.equal(result.affine, affine)
    assert result.meta["name"] == "a"


def test_blend_of_a_slice():
    image = volume((1, 7, 9))
    result = WindowBlendd("image")({"image": image})["image"]
    assert result.shape == (3, 7, 9)
    np.testing.assert_array_equal(result, blend(image)[0])


def test_blend_of_a_volume_with_slices_last():
    image = volume((1, 6, 5, 4))
    result = WindowBlendd("image")({"image": image})["image"]
    assert result.shape == (3, 6, 5, 4)
    for z in range(4):
        np.testing.assert_array_equal(result[..., z], blend(image[:, :, :, z])[0])


def test_blend_of_an_axial_volume():
    image = volume((1, 4, 5, 6))
    result = WindowBlendd("image", slice_axis=1)({"image": image})["image"]
    assert result.shape == (3, 4, 5, 6)
    np.testing.assert_array_equal(result.swapaxes(0, 1), blend(image[0]))


def test_blend_of_a_metatensor():
    affine = torch.diag(torch.tensor([0.7, 0.8, 2.5, 1.0], dtype=torch.float64))
    image = MetaTensor(torch.from_numpy(volume()), affine=affine)
    result = Compose([WindowBlendd("image", ("histogram", "liver"))])({"image": image})["image"]
    assert isinstance(result, MetaTensor)
    assert result.dtype == torch.float32
    assert result.shape == (2, 6, 5, 4)
    assert torch.equal(result.affine, affine)


def test_absent_entries():
    with pytest.raises(KeyError):
        WindowLeveld("image", "liver")({})
    assert WindowLeveld("image", "liver", allow_missing_keys=True)({}) == {}
    assert WindowBlendd("image", allow_missing_keys=True)({}) == {}


@pytest.mark.parametrize("shape", [(2, 6, 5), (6, 5), (3, 6, 5, 4), (1, 1, 6, 5, 4)])
def test_blend_refuses_other_shapes(shape):
    with pytest.raises(BadInputError, match=r"needs an image of shape \(1, Y, X\) or \(1, X, Y, Z\), not"):
        WindowBlendd("image")({"image": volume(shape)})


def test_blend_refuses_floats_and_unknown_axes():
    with pytest.raises(BadInputError, match="HU must be int16, not float32"):
        WindowBlendd("image")({"image": volume().astype(np.float32)})
    with pytest.raises(BadInputError, match=r"slice_axis must be a spatial axis .* not 0"):
        WindowBlendd("image", slice_axis=0)


def test_unknown_window_is_refused_at_once():
    with pytest.raises(BadInputError, match="there is no window 'livr'"):
        WindowLeveld("image", "livr")
