"""Healthy livers get tumors for an epoch; what is on disk and what has tumors stays as it is."""

from dataclasses import replace

import numpy as np
import pytest

from lib.errors import BadInputError
from lib.settings import Settings
from lib.training import painting
from lib.training.batches import training_batches
from lib.training.cases import CaseFiles
from lib.training.decoded import decode_case
from lib.training.painting import PaintedCase, Painting
from lib.volume import Volume
from lib.volume_io import write_image, write_label

AFFINE = np.diag([-1.5, -1.5, 3.0, 1.0])


def settings_with(probability, **training):
    return Settings(
        synthetic_tumors={"probability": probability, "kinds": ["small"]},
        training={"slices_per_case": 12, "patch_size": 64, "batch_size": 4, **training},
    )


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Three livers of 90 x 90 x 60 mm; the second has a tumor, the third image shows none."""
    folder = tmp_path_factory.mktemp("painting")
    made = []
    for number in range(3):
        label = np.zeros((80, 80, 36), np.uint8)
        if number < 2:
            label[10:70, 10:70, 8:28] = 1
        if number == 1:
            label[30:40, 30:40, 15:18] = 2
        hu = np.random.default_rng(number).normal(np.where(label, 110, 20), 8).astype(np.int16)
        files = CaseFiles(folder / f"{number}.nii.gz", folder / "labels" / f"{number}.nii.gz")
        write_image(files.image, Volume(hu, AFFINE))
        write_label(files.label, Volume(label, AFFINE))
        made.append(decode_case(files, 3, folder / "decoded" / str(number)))
    return made


def epoch(cases, probability, seed=0):
    groups = Painting(settings_with(probability)).epoch(cases, np.random.default_rng(seed))
    return {case.name: case for group in groups for case in group}


def test_only_healthy_livers_are_painted(cases):
    before = [(case.image[:], case.label[:]) for case in cases]
    seen = epoch(cases, 1.0)
    assert seen.keys() == {"0", "1", "2"}
    assert (seen["1"], seen["2"]) == (cases[1], cases[2])
    painted = seen["0"]
    assert isinstance(painted, PaintedCase)
    assert painted.presence[:, 2].any()
    np.testing.assert_array_equal(painted.presence, [[(z == c).any() for c in range(3)] for z in painted.label])
    changed = painted.label != cases[0].label[:]
    assert set(np.unique(painted.label[changed])) == {2}
    assert set(np.unique(cases[0].label[:][changed])) == {1}
    outside = cases[0].label[:] == 0
    np.testing.assert_array_equal(painted.image[outside], cases[0].image[:][outside])
    for case, (image, label) in zip(cases, before, strict=True):
        np.testing.assert_array_equal(case.image, image)
        np.testing.assert_array_equal(case.label, label)


def test_a_liver_with_slices_left_out_is_not_painted(cases):
    places = cases[0].places.copy()
    places[len(places) // 2 :] += 1
    gap = replace(cases[0], places=places)
    assert epoch([gap], 1.0) == {"0": gap}


def test_each_epoch_is_painted_anew_and_can_be_repeated(cases):
    first, again, other = (epoch(cases, 1.0, seed)["0"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.label, again.label)
    assert (first.label != other.label).any()


def test_as_often_as_asked_for(cases):
    painted = [isinstance(epoch(cases[:1], 0.5, seed)["0"], PaintedCase) for seed in range(40)]
    assert 8 < sum(painted) < 32


def test_every_case_comes_once_an_epoch_in_groups(cases, monkeypatch):
    monkeypatch.setattr(painting, "CASES_AT_ONCE", 2)
    groups = list(Painting(settings_with(0.0)).epoch(cases, np.random.default_rng(3)))
    assert [len(group) for group in groups] == [2, 1]
    assert sorted(case.name for group in groups for case in group) == ["0", "1", "2"]


def test_batches_show_the_painted_tumors(cases, monkeypatch):
    monkeypatch.setattr(painting, "CASES_AT_ONCE", 1)
    for probability, expected in ((1.0, True), (0.0, False)):
        batches = training_batches(cases[:1], settings_with(probability))
        epoch_of = [next(batches) for _ in range(3)]
        batches.close()
        assert all(len(batch.target) == 4 for batch in epoch_of)
        assert any((batch.target == 2).any() for batch in epoch_of) == expected


def test_the_number_of_batches_of_an_epoch_stays(cases, monkeypatch):
    monkeypatch.setattr(painting, "CASES_AT_ONCE", 2)
    batches = training_batches(cases, settings_with(1.0, slices_per_case=5, batch_size=4))
    sizes = [len(next(batches).target) for _ in range(8)]
    batches.close()
    assert sizes == [4, 4, 4, 3, 4, 4, 4, 3]


def test_groups_without_a_wanted_slice_are_passed_over(cases, monkeypatch):
    monkeypatch.setattr(painting, "CASES_AT_ONCE", 1)
    recipe = {"tumor_fraction": 1.0, "foreground_fraction": 1.0}
    batches = training_batches(cases, settings_with(1e-9, **recipe))
    assert all((next(batches).target == 2).any() for _ in range(3))  # of the one case with a tumor
    batches.close()
    with pytest.raises(BadInputError, match="tumor_fraction is 1, but none of the 1 training cases has a slice"):
        next(training_batches(cases[2:], settings_with(1e-9, **recipe)))
