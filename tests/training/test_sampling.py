from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lib.errors import BadInputError
from lib.settings import TrainingSettings
from lib.training.decoded import Case
from lib.training.sampling import choose_slices, cut, cut_hu, patch_start


def case_of(*slices):
    """A case whose slices hold these classes."""
    presence = np.array([[c in held for c in range(3)] for held in slices])
    levels, places = np.zeros((len(slices), 102), np.int16), np.arange(len(slices))
    return Case("x", Path("x"), presence, levels, (1.0, 1.0, 1.0), places)


COMMON = case_of({0}, {0}, {0, 1}, {0, 1}, {0, 1, 2}, {0})
HEALTHY = case_of({0}, {0, 1}, {0})
EMPTY = case_of({0}, {0})


def draw(cases, seed=0, **recipe):
    return choose_slices(cases, TrainingSettings(**recipe), np.random.default_rng(seed))


def test_as_many_per_case_in_random_order():
    choices = draw([COMMON, HEALTHY, EMPTY], slices_per_case=20)
    assert Counter(choice.case for choice in choices) == {0: 20, 1: 20, 2: 20}
    assert [choice.case for choice in choices] != sorted(choice.case for choice in choices)
    assert choices == draw([COMMON, HEALTHY, EMPTY], slices_per_case=20)
    assert choices != draw([COMMON, HEALTHY, EMPTY], seed=1, slices_per_case=20)


def test_fractions_are_those_of_the_settings():
    choices = draw([COMMON], slices_per_case=10_000, tumor_fraction=0.4, foreground_fraction=0.7)
    centers = Counter(choice.center_class for choice in choices)
    assert centers[2] / 10_000 == pytest.approx(0.4, abs=0.02)
    assert centers[1] / 10_000 == pytest.approx(0.3, abs=0.02)
    assert {choice.slice for choice in choices if choice.center_class == 2} == {4}
    assert {choice.slice for choice in choices if choice.center_class == 1} == {2, 3, 4}
    assert {choice.slice for choice in choices if choice.center_class is None} == set(range(6))


def test_a_slice_may_hold_every_label_and_no_background_that_was_looked_at():
    choices = draw([case_of({0}, {1, 2})], tumor_fraction=1, foreground_fraction=1)
    assert {(choice.slice, choice.center_class) for choice in choices} == {(1, 2)}


def test_cases_without_a_tumor_or_any_label_give_what_they_have():
    choices = draw([HEALTHY, EMPTY], slices_per_case=1000, tumor_fraction=0.4, foreground_fraction=0.7)
    centers = Counter(choice.center_class for choice in choices if choice.case == 0)
    assert centers[1] / 1000 == pytest.approx(0.7, abs=0.06)
    assert 2 not in centers
    assert {choice.center_class for choice in choices if choice.case == 1} == {None}


def test_the_original_trains_only_on_slices_that_hold_every_class():
    choices = draw([COMMON, HEALTHY, EMPTY], tumor_fraction=1, foreground_fraction=1)
    assert {(choice.case, choice.slice) for choice in choices} == {(0, 4)}
    with pytest.raises(BadInputError, match="none of the 2 training cases has a slice with every class; lower it"):
        draw([HEALTHY, EMPTY], tumor_fraction=1, foreground_fraction=1)


def test_a_patch_holds_what_it_is_centered_on():
    rng = np.random.default_rng(0)
    label = np.zeros((100, 80), np.uint8)
    label[60:64, 5:75], label[2:4, 2:4] = 1, 2
    for center in (1, 2):
        for _ in range(200):
            start = patch_start(label, center, 32, rng)
            patch = cut(label, start, 32)
            assert patch.shape == (32, 32)
            assert (patch == 2).any() if center == 2 else patch.any()
            assert 0 <= start[0] <= 68
            assert 0 <= start[1] <= 48


def test_patches_without_a_center_lie_anywhere():
    rng = np.random.default_rng(0)
    starts = [patch_start(np.zeros((40, 33), np.uint8), None, 32, rng) for _ in range(300)]
    assert {y for y, _ in starts} == set(range(9))
    assert {x for _, x in starts} == {0, 1}


def test_a_slice_smaller_than_the_patch_is_centered_in_air():
    label = np.ones((10, 40), np.uint8)
    start = patch_start(label, 1, 32, np.random.default_rng(0))
    assert start[0] == -11
    patch = cut(label, start, 32)
    assert (patch[11:21] == 1).all()
    assert patch.sum() == 10 * 32
    hu = cut_hu(np.full((10, 40), 50, np.int16), start, 32)
    assert (hu[11:21] == 50).all()
    assert (np.delete(hu, range(11, 21), axis=0) == -1024).all()
    assert patch_start(label, None, 40, np.random.default_rng(0)) == (-15, 0)
