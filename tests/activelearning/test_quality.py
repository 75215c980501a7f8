import numpy as np
import pytest

from lib.activelearning.quality import SENTENCES, image_flags, liver_flags

ADULT_ML = 1500.0


def ct(seed=0, noise=12.0, shape=(6, 96, 96)):
    """Air around a body of fat, with soft tissue in it and a bone."""
    rng = np.random.default_rng(seed)
    hu = np.full(shape, -1000.0)
    hu[:, 16:80, 8:88] = -100
    hu[:, 22:74, 14:82] = 55
    hu[:, 60:70, 40:52] = 500
    return np.clip(hu + rng.normal(0, noise, shape), -1024, 3071).round().astype(np.int16)


def liver(shape=(20, 60, 60), *box):
    label = np.zeros(shape, np.uint8)
    label[box or (slice(5, 15), slice(20, 40), slice(20, 40))] = 1
    return label


def flags(label, ml=ADULT_ML, pixel_mm2=1.0, found=None, found_ml=1.0):
    return liver_flags(label, ml, pixel_mm2, label > 0 if found is None else found, found_ml)


def test_a_ct_raises_no_doubts():
    assert image_flags(ct(), 0.8) == ()
    assert image_flags(ct()[:, 24:58, 8:88], 0.8) == ()  # cut to the body: no air


@pytest.mark.parametrize(
    "changed",
    [
        lambda hu: hu + 1024,  # stored values without their intercept
        lambda hu: hu - 1024,  # the intercept twice
        lambda hu: hu // 4,
        lambda hu: hu * 10,
        lambda hu: (np.clip(hu, -200, 300) + 200) // 2,  # 8 bits, through a window
        lambda hu: np.clip(hu + 150, 0, None) * 2,  # a background of 0, as MR has
        lambda hu: hu * 0,
        lambda hu: np.clip(hu // 1000, -1, 1),
        lambda hu: np.full_like(hu, -1024),
    ],
    ids=["plus 1024", "minus 1024", "quarter", "tenfold", "8 bits", "MR", "zeros", "units", "air"],
)
def test_gray_values_that_are_no_hu(changed):
    assert image_flags(changed(ct()).astype(np.int16), 0.8) == ("not_ct",)


def test_noise_is_seen_where_pixels_are_small():
    assert image_flags(ct(noise=35), 0.8) == ()
    assert image_flags(ct(noise=70), 0.8) == ("noisy",)
    assert image_flags(ct(noise=70), 3.0) == ()


def test_a_whole_liver_raises_no_doubts():
    assert flags(liver()) == ()


def test_no_liver():
    assert flags(liver() * 0, 0.0) == ("no_liver",)


@pytest.mark.parametrize("end", [0, -1])
def test_a_liver_is_cut_where_a_real_area_of_it_touches_the_end(end):
    label = np.roll(liver((20, 60, 60), slice(0, 10), slice(20, 40), slice(20, 45)), 0 if end == 0 else 10, axis=0)
    assert np.count_nonzero(label[end]) == 500
    assert flags(label) == ("liver_cut",)
    assert flags(label, ml=300) == ("liver_cut",)  # which is why it is small
    assert flags(label, pixel_mm2=0.9) == ()


def test_a_liver_smaller_than_adults_have():
    assert flags(liver(), 599) == ("small_liver",)
    assert flags(liver(), 600) == ()


def test_several_large_pieces_before_the_largest_was_kept():
    found = np.zeros((20, 30, 30), bool)
    found[2:12, 5:15, 5:15] = True  # 1000 voxels
    found[14:18, 18:23, 18:23] = True  # 100
    assert flags(liver(), found=found) == ("several_livers",)
    assert flags(liver(), found=found, found_ml=0.4) == ()  # 40 ml are no piece
    found[14] = False  # 75: less than a tenth
    assert flags(liver(), found=found) == ()


def test_each_flag_has_its_sentence():
    assert SENTENCES == {
        "not_ct": "the gray values don't look like a CT's HU; was it rescaled, or is it another kind of image?",
        "noisy": "the image is very noisy",
        "no_liver": "no liver was found",
        "liver_cut": "the liver goes on beyond the first or last slice",
        "small_liver": "the liver found is small for an adult's; a part may be missing",
        "several_livers": "several large pieces of liver were found, of which the largest was kept; look at the others",
    }
