import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from lib.errors import BadInputError
from lib.transforms.label_dictionary import OneHotDecoded, OneHotEncoded, Postprocessd
from lib.transforms.postprocessing import PostprocessingSettings, postprocess


def test_planes_and_back_in_a_composition() -> None:
    label = torch.randint(0, 3, (1, 5, 6), dtype=torch.uint8)

    encoded = OneHotEncoded("label")({"label": label})["label"]
    back = Compose([OneHotEncoded("label"), OneHotDecoded("label")])({"label": label})["label"]

    assert encoded.shape == (3, 5, 6)
    assert torch.equal(back, label)


def test_metadata_is_kept() -> None:
    affine = torch.diag(torch.tensor([0.7, 0.7, 2.5, 1.0], dtype=torch.float64))
    label = MetaTensor(torch.ones(1, 3, 4, 5, dtype=torch.uint8), affine=affine)
    data = {"label": label, "spacing": (3, 1, 1)}

    for shell in (OneHotEncoded("label"), Postprocessd("label")):
        result = shell(data)["label"]
        assert isinstance(result, MetaTensor)
        assert torch.equal(result.affine, affine)
        assert result.dtype == torch.uint8
    decoded = OneHotDecoded("label")(OneHotEncoded("label")(data))["label"]
    assert isinstance(decoded, MetaTensor)
    assert torch.equal(decoded.affine, affine)


def test_a_missing_channel_is_named() -> None:
    with pytest.raises(BadInputError, match=r"label 'label' must have one channel .* not the shape \(4, 5\)"):
        OneHotEncoded("label")({"label": np.zeros((4, 5), np.uint8)})


@pytest.mark.parametrize("shape", [(4, 9, 9), (1, 4, 9, 9)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_postprocessing_takes_settings_per_request(shape: tuple[int, ...], dtype: type) -> None:
    label = np.zeros((4, 9, 9), np.uint8)
    label[:, 2:6, 2:6] = 1
    label[0, 8, 8] = 1  # a second piece
    label[1, 3, 3] = 0  # a hole
    shell = Postprocessd("pred", PostprocessingSettings(fill_holes=False))
    data = {"pred": label.reshape(shape).astype(dtype), "spacing": np.array([2.0, 1.0, 1.0])}

    default = shell(data)["pred"]
    changed = shell({**data, "postprocessing": {"largest_liver": False, "fill_holes": True}})["pred"]

    assert default.shape == changed.shape == shape
    assert default.dtype == changed.dtype == np.uint8
    expected = postprocess(label, (2, 1, 1), PostprocessingSettings(fill_holes=False))
    np.testing.assert_array_equal(default.reshape(label.shape), expected)
    assert changed.reshape(label.shape)[0, 8, 8] == 1
    assert changed.reshape(label.shape)[1, 3, 3] == 1


def test_postprocessing_says_what_is_wrong() -> None:
    label = np.zeros((2, 3, 3), np.uint8)
    with pytest.raises(BadInputError, match=r"along \(Z, Y, X\) under the key 'spacing'"):
        Postprocessd("pred")({"pred": label})
    with pytest.raises(BadInputError, match="holds float64 values that are no class indices"):
        Postprocessd("pred")({"pred": label + 0.5, "spacing": (1, 1, 1)})
    with pytest.raises(BadInputError, match="post-processing can't take holes = True"):
        Postprocessd("pred")({"pred": label, "spacing": (1, 1, 1), "postprocessing": {"holes": True}})
