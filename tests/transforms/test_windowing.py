from fractions import Fraction

import numpy as np
import pytest

from lib.errors import BadInputError
from lib.transforms.windowing import DEFAULT_CHANNELS, PRESETS, Window, blend, histogram_scale, window_level


def random_hu(shape, low=-1024, high=3072, seed=0):
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.int16)


def abdomen(shape, seed=0):
    """Air around soft tissue with noise and a little bone: many equal values, as in a CT."""
    random = np.random.default_rng(seed)
    hu = random.normal(50, 40, shape)
    hu[random.random(shape) < 0.4] = -1024
    hu[random.random(shape) < 0.01] = 1200
    return hu.astype(np.int16)


def naive_window(hu, width, level):
    low, high = level - width // 2, level + width // 2
    return (np.clip(hu.astype(float), low, high) - low) / (high - low)


def naive_histogram(slice_hu):
    ordered = np.sort(slice_hu.ravel())
    fractions = [Fraction(1, 1000), *((i + Fraction(1, 2)) / 100 for i in range(100)), Fraction(999, 1000)]
    breaks = np.unique([ordered[int(len(ordered) * fraction)] for fraction in fractions])
    return np.clip(np.interp(slice_hu, breaks, np.linspace(0, 1, len(breaks))), 0, 1)


def naive_blend(slices):
    return np.stack(
        [np.stack([naive_window(s, 150, 30), naive_window(s, 200, 60), naive_histogram(s)]) for s in slices]
    )


def test_presets_are_those_of_the_definition():
    assert {name: (window.width, window.level) for name, window in PRESETS.items()} == {
        "brain": (80, 40),
        "subdural": (254, 100),
        "stroke": (8, 32),
        "brain_bone": (2800, 600),
        "brain_soft": (375, 40),
        "lungs": (1500, -600),
        "mediastinum": (350, 50),
        "abdomen_soft": (400, 50),
        "liver": (150, 30),
        "spine_soft": (250, 50),
        "spine_bone": (1800, 400),
        "custom": (200, 60),
    }
    assert DEFAULT_CHANNELS == ("liver", "custom", "histogram")


def test_odd_width_is_halved_downwards():
    window = Window(375, 40)
    assert (window.low, window.high) == (-147, 227)


@pytest.mark.parametrize("name", PRESETS)
def test_window_level_equals_the_formula(name):
    hu = random_hu((40, 50))
    scaled = window_level(hu, name)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, naive_window(hu, PRESETS[name].width, PRESETS[name].level), atol=1e-6)


def test_window_level_does_not_overflow_int16_and_takes_floats():
    assert window_level(np.array([-32768, 32767], np.int16), Window(60000, 0)).tolist() == [0.0, 1.0]
    assert window_level([29.5, 67.5], Window(150, 30)).tolist() == pytest.approx([74.5 / 150, 0.75])


@pytest.mark.parametrize("shape", [(64, 64), (31, 77), (5, 3), (1, 1), (10, 20), (512, 512)])
@pytest.mark.parametrize("make", [random_hu, abdomen])
def test_histogram_scale_equals_sorting(shape, make):
    slice_hu = make(shape)
    scaled = histogram_scale(slice_hu)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, naive_histogram(slice_hu), atol=1e-6)


def test_histogram_scale_of_few_values():
    two = np.full((10, 10), -1000, np.int16)
    two[0, :3] = 40
    assert np.unique(histogram_scale(two)).tolist() == [0.0, 1.0]
    assert (histogram_scale(np.full((8, 8), 55, np.int16)) == 0).all()
    assert histogram_scale(np.array([[700]], np.int16)).tolist() == [[0.0]]


def test_histogram_scale_is_monotonic_and_uses_grays_evenly():
    slice_hu = random_hu((200, 200))
    scaled = histogram_scale(slice_hu)
    assert (np.diff(scaled.ravel()[np.argsort(slice_hu, axis=None)]) >= 0).all()
    counts = np.histogram(scaled, bins=10, range=(0, 1))[0]
    assert counts.min() > 0.08 * scaled.size


def test_histogram_scale_does_not_depend_on_pixel_order():
    slice_hu = abdomen((20, 30))
    np.testing.assert_array_equal(histogram_scale(slice_hu.T).T, histogram_scale(slice_hu))
    np.testing.assert_array_equal(histogram_scale(slice_hu[::-1])[::-1], histogram_scale(slice_hu))


@pytest.mark.parametrize("depth", [1, 2, 33, 70])
@pytest.mark.parametrize("threads", [None, 1, 3])
def test_blend_equals_the_definition_slice_by_slice(depth, threads):
    slices = abdomen((depth, 24, 17))
    result = blend(slices, threads=threads)
    assert result.dtype == np.float32
    assert result.shape == (depth, 3, 24, 17)
    np.testing.assert_allclose(result, naive_blend(slices), atol=1e-6)


def test_blend_of_any_memory_layout():
    slices = abdomen((40, 12, 10))
    expected = blend(slices)
    np.testing.assert_array_equal(blend(np.ascontiguousarray(slices.transpose(2, 1, 0)).transpose(2, 1, 0)), expected)
    np.testing.assert_array_equal(blend(slices[::-1, :, ::-1]), expected[::-1, :, :, ::-1])


def test_blend_covers_all_of_int16():
    slices = np.array([[[-32768, -2000, -1025, -1024], [0, 3071, 5000, 32767]]], np.int16)
    np.testing.assert_allclose(blend(slices), naive_blend(slices), atol=1e-6)


def test_blend_of_crops_with_the_histogram_of_their_whole_slices():
    whole = abdomen((35, 40, 30))
    crops = whole[:, 10:26, 4:20]
    result = blend(crops, histogram_of=whole)
    np.testing.assert_array_equal(result, blend(whole)[:, :, 10:26, 4:20])
    assert not np.array_equal(result[:, 2], blend(crops)[:, 2])
    np.testing.assert_array_equal(result[:, :2], blend(crops)[:, :2])  # windows do not look at other pixels


def test_histogram_of_the_slices_themselves_changes_nothing():
    slices = abdomen((3, 9, 8))
    np.testing.assert_array_equal(blend(slices, histogram_of=slices), blend(slices))


def test_gray_values_outside_the_histogram_are_its_ends():
    whole = np.arange(100, 200, dtype=np.int16).reshape(1, 10, 10)
    crop = np.array([[[-32768, 0, 99, 100, 199, 200, 32767]]], np.int16)
    scaled = blend(crop, ("histogram",), histogram_of=whole)[0, 0, 0]
    assert scaled[:4].tolist() == [0, 0, 0, 0]
    assert scaled[4:].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("histogram_of", "message"),
    [
        (np.zeros((2, 4, 4), np.int16), r"histogram_of must have as many slices as slices \(3\), not 2"),
        (np.zeros((3, 4, 4), np.int32), "HU must be int16, not int32"),
        (np.zeros((4, 4), np.int16), r"\(Z, Y, X\) with at least one pixel, not with shape \(4, 4\)"),
    ],
)
def test_unfit_histogram_slices_are_refused(histogram_of, message):
    with pytest.raises(BadInputError, match=message):
        blend(abdomen((3, 8, 8)), histogram_of=histogram_of)


def test_blend_with_channels_of_choice():
    slices = abdomen((3, 8, 8))
    result = blend(slices, ("histogram", Window(400, 40), "lungs", "liver"))
    assert result.shape == (3, 4, 8, 8)
    np.testing.assert_allclose(result[:, 1], naive_window(slices, 400, 40), atol=1e-6)
    np.testing.assert_allclose(result[:, 2], naive_window(slices, 1500, -600), atol=1e-6)
    np.testing.assert_allclose(result[1, 0], naive_histogram(slices[1]), atol=1e-6)


def test_blend_into_a_given_buffer():
    slices = abdomen((5, 8, 6))
    out = np.full((5, 3, 8, 6), np.nan, np.float32)
    assert blend(slices, out=out) is out
    np.testing.assert_array_equal(out, blend(slices))


def test_blend_leaves_the_input_alone():
    slices = abdomen((4, 8, 6))
    before = slices.copy()
    blend(slices)
    np.testing.assert_array_equal(slices, before)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (np.empty((5, 3, 6, 8), np.float32), r"shape \(5, 3, 8, 6\), not float32, C-contiguous, \(5, 3, 6, 8\)"),
        (np.empty((5, 3, 8, 6), np.float64), "not float64, C-contiguous"),
        (np.empty((3, 5, 8, 6), np.float32).swapaxes(0, 1), "not float32, not C-contiguous"),
    ],
)
def test_unfit_buffer_is_refused(out, message):
    with pytest.raises(BadInputError, match=message):
        blend(abdomen((5, 8, 6)), out=out)


@pytest.mark.parametrize(
    ("slices", "channels", "message"),
    [
        (np.zeros((2, 4, 4), np.float32), DEFAULT_CHANNELS, "HU must be int16, not float32; round them"),
        (np.zeros((2, 4, 4), np.uint16), DEFAULT_CHANNELS, "HU must be int16, not uint16"),
        (np.zeros((4, 4), np.int16), DEFAULT_CHANNELS, r"\(Z, Y, X\) with at least one pixel, not with shape \(4, 4\)"),
        (np.zeros((0, 4, 4), np.int16), DEFAULT_CHANNELS, r"not with shape \(0, 4, 4\)"),
        (np.zeros((2, 4, 4), np.int16), ("liver", "lung"), "there is no window 'lung'; choose one of brain, subdural"),
        (np.zeros((2, 4, 4), np.int16), (), "at least one window name"),
        (np.zeros((2, 4, 4), np.int16), "liver", "must be a list of at least one window name"),
    ],
)
def test_unfit_input_is_refused(slices, channels, message):
    with pytest.raises(BadInputError, match=message):
        blend(slices, channels)


def test_histogram_scale_refuses_what_is_no_slice():
    with pytest.raises(BadInputError, match=r"\(Y, X\) with at least one pixel, not with shape \(1, 4, 4\)"):
        histogram_scale(np.zeros((1, 4, 4), np.int16))
    with pytest.raises(BadInputError, match="HU must be int16, not int64"):
        histogram_scale(np.zeros((4, 4), np.int64))


@pytest.mark.parametrize(
    ("width", "level", "message"),
    [
        (1, 30, "width must be at least 2 HU, not 1"),
        (-150, 30, "width must be at least 2 HU, not -150"),
        (150.5, 30, "width must be a whole number of HU, not 150.5"),
        (150, "30", "level must be a whole number of HU, not '30'"),
        (True, 30, "width must be a whole number of HU, not True"),
    ],
)
def test_impossible_windows_are_refused(width, level, message):
    with pytest.raises(BadInputError, match=message):
        Window(width, level)
