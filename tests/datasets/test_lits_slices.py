"""Slice images and masks: the blended channels in 8 bits, masks exact, both seen axially."""

import numpy as np
import pytest
from PIL import Image

from lib.datasets.lits_slices import slices_with_all_classes, write_slices
from lib.errors import BadInputError
from lib.transforms.windowing import blend
from lib.volume import Volume
from lib.volume_io import write_image, write_label

SHAPE = (20, 16, 40)
RAS = np.diag([0.8, 0.8, 2.0, 1.0])
LPS_HEAD_FIRST = np.diag([-0.8, -0.8, -2.0, 1.0])


@pytest.fixture(params=[RAS, LPS_HEAD_FIRST], ids=["RAS", "LPI"])
def case(request, tmp_path):
    """A CT, its label, and both as `Volume`s."""
    generator = np.random.default_rng(3)
    image = Volume(generator.integers(-1000, 900, SHAPE, dtype=np.int16), request.param)
    array = np.zeros(SHAPE, np.uint8)
    array[4:9, 5:12, 10:30] = 1
    array[5:7, 6:8, 12:33] = 2
    label = Volume(array, request.param)
    write_image(tmp_path / "volume-3.nii.gz", image)
    write_label(tmp_path / "segmentation-3.nii.gz", label)
    return tmp_path / "volume-3.nii.gz", tmp_path / "segmentation-3.nii.gz", image, label


def test_only_slices_with_all_three_classes_by_default(case, tmp_path):
    image_path, label_path, _, label = case
    mask = label.axial()
    wanted = [z for z in range(SHAPE[2]) if set(np.unique(mask[z])) == {0, 1, 2}]
    assert write_slices(image_path, label_path, tmp_path / "out") == len(wanted) == 18
    names = [f"volume-3_slice_{z:04d}" for z in wanted]
    assert sorted(path.stem for path in (tmp_path / "out" / "images").iterdir()) == names
    assert sorted(path.stem for path in (tmp_path / "out" / "masks").iterdir()) == names


def test_every_slice_on_demand(case, tmp_path):
    assert write_slices(*case[:2], tmp_path / "out", every=True) == SHAPE[2]
    assert len(list((tmp_path / "out" / "images").iterdir())) == SHAPE[2]


def test_images_hold_the_blended_channels_and_masks_the_classes(case, tmp_path):
    image_path, label_path, image, label = case
    write_slices(image_path, label_path, tmp_path / "out", every=True)
    expected = blend(np.ascontiguousarray(image.axial()))
    for z in (0, 15, 16, 39):
        with Image.open(tmp_path / "out" / "images" / f"volume-3_slice_{z:04d}.png") as picture:
            assert (picture.mode, picture.size) == ("RGB", (SHAPE[0], SHAPE[1]))
            np.testing.assert_allclose(np.asarray(picture) / 255, expected[z].transpose(1, 2, 0), atol=0.5 / 255 + 1e-6)
        with Image.open(tmp_path / "out" / "masks" / f"volume-3_slice_{z:04d}.tif") as picture:
            assert (picture.mode, picture.size) == ("L", (SHAPE[0], SHAPE[1]))
            np.testing.assert_array_equal(np.asarray(picture), label.axial()[z])


def test_another_shape_is_refused(case, tmp_path):
    write_label(tmp_path / "small.nii", Volume(np.zeros((3, 3, 3), np.uint8), RAS))
    with pytest.raises(BadInputError, match=r"small\.nii: shape \(3, 3, 3\), but volume-3\.nii\.gz has \(20, 16, 40\)"):
        write_slices(case[0], tmp_path / "small.nii", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_slice_has_no_background_and_is_left_out():
    mask = np.array([[[0, 1, 2]], [[1, 1, 2]], [[0, 0, 2]], [[0, 1, 1]], [[2, 1, 0]]], np.uint8)
    assert slices_with_all_classes(mask).tolist() == [0, 4]
