import numpy as np
import pytest
import torch
from torch import nn

from lib.benchmarks import engine_limit
from lib.benchmarks.engine_limit import Counted, flop_per_pixel, limits, matrix_peaks
from lib.inference.stopwatch import Stopwatch

SAME = nn.Conv2d(3, 5, 3, padding=1)  # 3 x 3 x 3 products for each of 5 outputs, each with its addition


def test_flop_of_a_known_layer():
    assert flop_per_pixel(SAME, 3, side=32) == 2 * 27 * 5
    assert next(SAME.parameters()).device.type == "cpu"


@pytest.mark.parametrize(
    ("box", "pixels"),
    [
        ((slice(1, 3), slice(5, 6), slice(0, 17)), 2 * 16 * 32),
        ((slice(0, 4), slice(0, 40), slice(0, 40)), 4 * 48 * 48),
        ((slice(0, 0), slice(0, 0), slice(0, 0)), 4 * 48 * 48),  # nothing found: nothing can be left out
    ],
)
def test_limits_follow_the_pixels_and_the_peak(box, pixels):
    label = np.zeros((4, 40, 40), np.uint8)
    label[box] = 2
    found = limits(SAME, 3, {"float32": 1e9, "bfloat16": 4e9}, label=label, seen=2000)
    expected = {"must": 270e-9 * pixels, "seen": 540e-6, "whole": 270e-9 * 4 * 48 * 48}
    assert found["gflop"] == pytest.approx(expected)
    assert found["seconds"]["float32"] == pytest.approx(expected)
    assert found["seconds"]["bfloat16"]["seen"] == pytest.approx(135e-6)
    assert found["peak_gflops"] == {"float32": 1, "bfloat16": 4}
    assert found["gflop_per_slice"] == 270 * 512**2 / 1e9


def test_peaks_are_positive(monkeypatch):
    monkeypatch.setattr(engine_limit, "_SIDE", {"cpu": 64})
    monkeypatch.setattr(engine_limit, "_SECONDS", 0)
    peaks = matrix_peaks(torch.device("cpu"))
    assert "float32" in peaks
    assert all(peak > 1e6 for peak in peaks.values())


def test_counted_pixels():
    class Nothing:
        name = "nothing"
        device = torch.device("cpu")

        def __call__(self, hu, levels, watch):
            return hu.astype(np.uint8)

    seen = []
    engine = Counted(Nothing(), seen.append)
    hu = np.ones((2, 16, 32), np.int16)
    np.testing.assert_array_equal(engine(hu, np.zeros((2, 102), np.int16), Stopwatch()), hu)
    assert seen == [2 * 16 * 32]
    assert engine.name == "nothing"
