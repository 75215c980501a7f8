import io

import numpy as np
import pytest
from PIL import Image

from lib.errors import BadInputError
from lib.metrics.pictures import LIVER_COLOR, PANEL_PIXELS, TUMOR_COLOR, draw_worst_slices, worst_slices
from lib.volume import Volume


def affine(*spacing):
    return np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])


def labels(shape=(40, 30, 12)):
    array = np.zeros(shape, np.uint8)
    array[5:30, 5:25, 1:11] = 1
    array[10:16, 10:16, 4:8] = 2
    return array


def opened(picture):
    return {title: np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for title, png in picture.panels}


def has(picture, color):
    return bool((picture == np.array(color)).all(-1).any())


def test_worst_slice_comes_first_and_neighbors_are_left_out():
    reference = labels().transpose(2, 1, 0)
    prediction = reference.copy()
    prediction[5][prediction[5] == 2] = 1  # tumor missed in this slice
    prediction[6, 10:13, 10:16] = 1  # half of it in the next
    prediction[9, 5:10] = 0
    assert worst_slices(reference, prediction, 5.0, 2) == [5, 9]
    assert worst_slices(reference, prediction, 20.0, 2) == [5, 6]


def test_only_slices_with_a_label():
    reference = labels().transpose(2, 1, 0)
    assert set(worst_slices(reference, reference, 10.0, 99)) == set(range(1, 11))


def test_panels_with_and_without_an_image():
    reference = Volume(labels(), affine(1, 1, 5))
    prediction = Volume(np.where(reference.array == 2, 1, reference.array).astype(np.uint8), reference.affine)
    image = Volume(np.full(reference.shape, 30, np.int16), reference.affine)
    picture = draw_worst_slices(image, reference, prediction, 1)[0]
    panels = opened(picture)
    assert list(panels) == ["Image", "Reference", "Prediction"]
    assert picture.tumor_dice == 0
    assert picture.liver_dice == 1
    assert not has(panels["Image"], LIVER_COLOR)
    assert has(panels["Reference"], LIVER_COLOR)
    assert has(panels["Reference"], TUMOR_COLOR)
    assert not has(panels["Prediction"], TUMOR_COLOR)
    alone = opened(draw_worst_slices(None, reference, prediction, 1)[0])
    assert list(alone) == ["Reference", "Prediction"]
    filled = (alone["Reference"] == np.array(LIVER_COLOR)).all(-1).mean()
    outlined = (panels["Reference"] == np.array(LIVER_COLOR)).all(-1).mean()
    assert filled > 3 * outlined > 0


def test_pixels_are_square_whatever_the_spacing():
    # 25 x 20 voxels of 2 x 1 mm plus 20 mm on each side, limited by the grid of 40 x 30 voxels: 80 x 30 mm.
    reference = Volume(labels(), affine(2, 1, 5))
    panel = opened(draw_worst_slices(None, reference, reference, 1)[0])["Reference"]
    assert panel.shape[1] == PANEL_PIXELS
    # x: voxels 0..39 (80 mm); y: 0..29 (30 mm)
    assert panel.shape[0] == round(PANEL_PIXELS * 30 / 80)


def test_file_orientation_does_not_change_the_picture():
    reference = Volume(labels(), affine(1, 1, 5))
    flipped = Volume(
        reference.array[::-1], reference.affine @ np.array([[-1, 0, 0, 39], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    )
    assert draw_worst_slices(None, reference, reference, 2) == draw_worst_slices(None, flipped, flipped, 2)


def test_nothing_to_draw():
    empty = Volume(np.zeros((4, 4, 4), np.uint8), np.eye(4))
    assert draw_worst_slices(None, empty, empty) == []


def test_shapes_must_agree():
    with pytest.raises(BadInputError, match="must be of one shape"):
        draw_worst_slices(None, Volume(labels(), np.eye(4)), Volume(labels((40, 30, 11)), np.eye(4)))
