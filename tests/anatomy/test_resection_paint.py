"""What lies at the face of a resected liver: fluid outside of the label, metal on the face."""

from dataclasses import replace

import numpy as np
import pytest

from lib.anatomy.spec import Resection
from lib.phantom import draw_spec, render

PLAIN = draw_spec(
    4, shape=(64, 64, 12), spacing=(5.4, 5.4, 16.0), phase="portal", tumors=0, orientation="LPS", tilt=0.0
)
QUIET = replace(PLAIN.scan, noise=0.0, shading=0.0, streaks=0.0, circular=False, roll=0.0)
RIGHT = Resection((-30.0, -10.0, 0.0), (-1.0, 0.0, 0.0), 0, 0.0)


def rendered(**changes):
    resection = replace(RIGHT, **changes)
    return render(replace(PLAIN, scan=QUIET, liver=replace(PLAIN.liver, resection=resection)))


@pytest.fixture(scope="module")
def bare():
    return rendered()


def changed(bare, other):
    """Where two images differ by more than rounding, and by how much."""
    difference = other.image.axial().astype(int) - bare.image.axial()
    return np.abs(difference) > 5, difference


def test_what_was_taken_out_is_not_in_the_label(bare):
    whole = render(replace(PLAIN, scan=QUIET)).label.axial()
    left = bare.label.axial()
    assert not ((left > 0) & (whole == 0)).any()
    assert 0 < (left > 0).sum() < 0.7 * (whole > 0).sum()


def test_clips_shine_and_change_no_label(bare):
    clipped = rendered(clips=8)
    where, difference = changed(bare, clipped)
    assert difference[where].max() > 150
    assert 3 <= where.sum() < 100
    np.testing.assert_array_equal(clipped.label.array, bare.label.array)


def test_a_seroma_is_water_beside_the_liver(bare):
    wet = rendered(seroma=24.0)
    where, _ = changed(bare, wet)
    assert where.sum() > 30
    assert abs(np.median(wet.image.axial()[where]) - 10) < 15
    assert (bare.label.axial()[where] == 0).mean() > 0.7
    np.testing.assert_array_equal(wet.label.array, bare.label.array)


def test_series_of_one_patient_differ_in_their_noise_alone():
    spec = replace(PLAIN, scan=replace(PLAIN.scan, shape=(24, 24, 3), circular=False, streaks=0.0))
    first, again, second = (render(replace(spec, scan=replace(spec.scan, series=number))) for number in (0, 0, 1))
    np.testing.assert_array_equal(first.image.array, again.image.array)
    np.testing.assert_array_equal(first.label.array, second.label.array)
    difference = (first.image.array.astype(int) - second.image.array)[first.image.array > -200]
    assert 2 < np.std(difference) < 60
