"""Painting: areas, partial volume, marks, boxes."""

import numpy as np
import pytest

from lib.anatomy.canvas import Canvas, Frame
from lib.anatomy.shapes import ellipse

SIZE = 61


def canvas(stride: int, softness: float = 1.0, slices: int = 2) -> Canvas:
    frame = Frame(np.eye(3), np.array([-30.0, -30.0, 0.0]), SIZE, SIZE, stride)
    return Canvas(frame, np.arange(float(slices)), softness)


def disk(target: Canvas, radius: float) -> np.ndarray:
    columns, rows = target.frame.node_axes()
    x, y = np.meshgrid((columns - 30).astype(np.float32), (rows - 30).astype(np.float32))
    return np.broadcast_to(ellipse(x, y, (0.0, 0.0), (radius, radius)), target.node_shape)


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_disk_has_its_area_at_any_stride(stride: int) -> None:
    target = canvas(stride)
    target.paint(whole(target), disk(target, 20.0), 0.0, covers="liver")
    assert target.liver[0].sum() == pytest.approx(np.pi * 400, rel=0.02)
    np.testing.assert_array_equal(target.hu[0], target.hu[1])
    assert target.hu[0, 30, 30] == 0
    assert target.hu[0, 0, 0] == -1000


def whole(target: Canvas) -> tuple[slice, slice, slice]:
    z, y, x = (slice(0, n) for n in target.node_shape)
    return z, y, x


def test_border_is_a_partial_volume_ramp() -> None:
    target = canvas(1, softness=4.0)
    target.paint(whole(target), disk(target, 20.0), 1000.0)
    ramp = target.hu[0, 30, 46:56]
    assert (np.diff(ramp) <= 0).all()
    assert target.hu[0, 30, 50] == pytest.approx(0, abs=1)  # half of -1000 and 1000 on the border itself


def test_value_may_differ_from_node_to_node() -> None:
    target = canvas(2)
    columns, _ = target.frame.node_axes()
    target.paint(whole(target), disk(target, 25.0), columns.astype(np.float32))
    np.testing.assert_allclose(target.hu[0, 30, 20:40], np.arange(20, 40), atol=1e-3)


def test_marks_are_set_and_taken_away() -> None:
    target = canvas(1)
    target.paint(whole(target), disk(target, 20.0), 0.0, covers="liver")
    target.paint(whole(target), disk(target, 8.0), 0.0, opacity=0.0, covers="tumor")
    assert (target.tumor[0, 30, 30], target.liver[0, 30, 30]) == (1, 1)
    assert target.hu[0, 30, 30] == 0
    target.paint(whole(target), disk(target, 4.0), 30.0, covers="other")
    assert (target.tumor[0, 30, 30], target.liver[0, 30, 30]) == (0, 0)
    assert target.tumor[0, 30, 36] == 1


def test_box_holds_what_was_asked_for_and_is_none_beside_the_picture() -> None:
    target = canvas(3, slices=5)
    box = target.box((-5.0, -8.0, 1.0), (5.0, 8.0, 2.0), 0.0)
    assert box is not None
    z, y, x = box
    assert (z.start, z.stop) in {(1, 2), (1, 3)}
    assert 3 * y.start <= 22
    assert 3 * (y.stop - 1) >= 38
    assert 3 * x.start <= 25
    assert 3 * (x.stop - 1) >= 35
    assert target.box((100.0, 0.0, 0.0), (120.0, 5.0, 3.0), 2.0) is None
    assert target.box((0.0, 0.0, 50.0), (2.0, 5.0, 60.0), 2.0) is None


def test_shape_outside_paints_nothing() -> None:
    target = canvas(2)
    target.paint(whole(target), np.full(target.node_shape, 5.0, np.float32), 77.0)
    assert (target.hu == -1000).all()
