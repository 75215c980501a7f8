import io

import numpy as np
import pytest
from PIL import Image

from lib.metrics.panels import GRAYS, as_png, draw_ct, enlarge, panel_size, view_around


def test_a_view_has_a_margin_in_mm_and_stays_inside_the_slice():
    assert view_around((slice(50, 60), slice(5, 90)), (0.5, 2.0), (512, 92)) == (slice(10, 100), slice(0, 92))
    assert view_around((slice(50, 60), slice(50, 60)), (3.0, 3.0), (99, 99), 4.0) == (slice(48, 62), slice(48, 62))


@pytest.mark.parametrize(
    ("shape", "pixel", "size"),
    [((100, 100), (1.0, 1.0), (360, 360)), ((100, 50), (1.0, 1.0), (180, 360)), ((50, 50), (1.0, 2.0), (360, 180)),
     ((1, 400), (0.001, 1.0), (360, 1))],
)  # fmt: skip
def test_pixels_become_square(shape, pixel, size):
    assert panel_size(shape, pixel, 360) == size


def test_the_liver_window_in_few_grays():
    # 150 HU wide around 30 HU.
    hu = np.repeat(np.array([[-1000, -45, 30, 105, 3000]], np.int16), 5, axis=0)
    assert draw_ct(hu, (5, 5))[0].tolist() == [0, 0, GRAYS // 2 - 1, GRAYS - 1, GRAYS - 1]


def test_labels_keep_their_values_when_enlarged():
    large = enlarge(np.array([[0, 200], [1, 2]], np.uint8), (4, 6))
    assert large.tolist() == [[0, 0, 200, 200]] * 3 + [[1, 1, 2, 2]] * 3


def test_colors_follow_the_grays():
    panel = np.array([[0, GRAYS - 1, GRAYS, GRAYS + 1]], np.uint8)
    png = as_png(panel, [(1, 2, 3), (250, 0, 9)])
    shown = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    assert shown[0].tolist() == [[0, 0, 0], [255, 255, 255], [1, 2, 3], [250, 0, 9]]
