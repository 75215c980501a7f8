from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from lib.errors import BadInputError
from lib.transforms.onehot import decode, encode, planes_as_images

LABELS = arrays(np.uint8, array_shapes(min_dims=1, max_dims=4, max_side=5), elements=st.integers(0, 2))
KINDS = pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])


@KINDS
@given(label=LABELS)
def test_decode_undoes_encode(kind: Any, label: np.ndarray) -> None:
    planes = encode(kind(label), 3)
    back = decode(planes)

    assert type(planes) is type(back) is type(kind(label))
    assert planes.shape == (3, *label.shape)
    assert str(planes.dtype).endswith("uint8")
    assert str(back.dtype).endswith("uint8")
    assert (np.asarray(planes).sum(axis=0) == 1).all()
    np.testing.assert_array_equal(np.asarray(back), label)


@KINDS
def test_decode_is_argmax_with_ties_to_the_lowest_index(kind: Any) -> None:
    planes = np.random.default_rng(0).integers(0, 4, (5, 30, 40)).astype(np.float32)  # many ties

    np.testing.assert_array_equal(np.asarray(decode(kind(planes))), planes.argmax(axis=0))


@KINDS
def test_inputs_are_not_changed(kind: Any) -> None:
    planes = kind(np.arange(12, dtype=np.float32).reshape(3, 4) % 5)
    before = np.array(planes)
    decode(planes)

    np.testing.assert_array_equal(np.asarray(planes), before)


@KINDS
@pytest.mark.parametrize("value", [3, 255])
def test_index_without_a_plane_is_refused(kind: Any, value: int) -> None:
    with pytest.raises(BadInputError, match=f"holds the indices 0 to {value}, but 3 classes have only 0 to 2"):
        encode(kind(np.array([0, value], np.uint8)), 3)


@KINDS
@pytest.mark.parametrize("dtype", [np.float32, np.bool_])
def test_label_must_hold_integers(kind: Any, dtype: type) -> None:
    with pytest.raises(BadInputError, match="holds integer class indices, not"):
        encode(kind(np.zeros(3, dtype)), 3)


def test_negative_index_is_refused() -> None:
    with pytest.raises(BadInputError, match="indices -1 to 1"):
        encode(np.array([-1, 1]), 3)


def test_numbers_of_planes_are_checked() -> None:
    with pytest.raises(BadInputError, match="makes 1 to 255 planes, not 0"):
        encode(np.zeros(3, np.uint8), 0)
    with pytest.raises(BadInputError, match=r"not an array of shape \(0, 4\)"):
        decode(np.zeros((0, 4)))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_images_show_each_class_in_black_and_white(tmp_path: Path, suffix: str) -> None:
    label = np.random.default_rng(0).integers(0, 3, (3, 5, 7), dtype=np.uint8)

    paths = planes_as_images(label, {"background": 0, "liver": 1, "tumor": 2}, tmp_path / "planes", suffix)

    assert len(paths) == 9
    assert paths[4] == tmp_path / "planes" / "liver" / f"liver_0001{suffix}"
    assert sorted(paths) == sorted(path for path in tmp_path.rglob("*") if path.is_file())
    images = np.stack([np.asarray(Image.open(path)) for path in paths]).reshape(3, 3, 5, 7)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, 255 * encode(label, 3))


def test_image_names_sort_in_slice_order_beyond_four_digits(tmp_path: Path) -> None:
    paths = planes_as_images(np.zeros((3, 1, 1), np.uint8), {"liver": 1}, tmp_path)

    assert [path.name for path in paths] == ["liver_0000.png", "liver_0001.png", "liver_0002.png"]


@pytest.mark.parametrize("name", ["../liver", "a/b", "", ".hidden", "/liver"])
def test_class_name_must_not_lead_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInputError, match="can't be a file name"):
        planes_as_images(np.zeros((1, 2, 2), np.uint8), {name: 1}, tmp_path)


def test_image_arguments_are_checked(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"written as \.png, \.tif, \.tiff, not as '\.jpg'"):
        planes_as_images(np.zeros((1, 2, 2), np.uint8), {"liver": 1}, tmp_path, ".jpg")
    with pytest.raises(BadInputError, match=r"not from shape \(2, 2\)"):
        planes_as_images(np.zeros((2, 2), np.uint8), {"liver": 1}, tmp_path)
    assert list(tmp_path.iterdir()) == []
