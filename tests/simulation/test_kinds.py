"""Phantoms of each kind of patient have what the kind's name says, in each series of the patient."""

from dataclasses import replace

import numpy as np
import pytest

from lib.anatomy.body import anatomy_of
from lib.anatomy.liver import Liver
from lib.phantom import render
from lib.simulation.kinds import KINDS, OPERATIONS, Grid, phantom_of

KIND = {kind.name: kind for kind in KINDS}
SEEDS = (3, 14)
GRID = Grid()


def phantoms(name, lesions=3, **options):
    kind = KIND[name]
    return [phantom_of(kind, seed, lesions, options.get("phase", kind.phase), GRID) for seed in SEEDS]


@pytest.fixture(scope="module")
def ordinary():
    return phantoms("ordinary")


def test_ordinary_patients_are_alike(ordinary):
    for spec in ordinary:
        assert spec.tissue.phase == "portal"
        assert spec.tissue.steatosis == 0
        assert spec.liver.resection is None
        assert len(spec.lesions) == 3
        assert all(lesion.difference < -20 for lesion in spec.lesions)
        assert spec.tissue.aorta > spec.tissue.parenchyma  # enhanced


def test_series_of_a_patient_share_body_and_lesions_but_not_the_scan(ordinary):
    kind = KIND["ordinary"]
    for first in ordinary:
        native = phantom_of(kind, first.seed, 3, "native", GRID, series=1)
        thin = phantom_of(kind, first.seed, 3, "portal", GRID, thin=True, series=2)
        for other in (native, thin):
            assert (other.body, other.liver, other.seed) == (first.body, first.liver, first.seed)
            for ours, theirs in zip(first.lesions, other.lesions, strict=True):
                assert (ours.center, ours.radii, ours.irregularity) == (
                    theirs.center,
                    theirs.radii,
                    theirs.irregularity,
                )
        assert thin.lesions == first.lesions
        assert thin.tissue == first.tissue
        assert thin.scan.spacing[2] * thin.scan.shape[2] == pytest.approx(GRID.slice_mm * GRID.slices)
        assert thin.scan.spacing[2] < first.scan.spacing[2]
        assert len({spec.scan.series for spec in (first, native, thin)}) == 3
        for ours, theirs in zip(first.lesions, native.lesions, strict=True):
            assert 0 < abs(theirs.difference) < abs(ours.difference)


def test_small_lesions_are_small(ordinary):
    for spec in phantoms("small", 6):
        assert all(2 * np.mean(lesion.radii) <= 16.01 for lesion in spec.lesions)
    assert np.mean([max(lesion.radii) for spec in ordinary for lesion in spec.lesions]) > 10


def test_hyperdense_lesions_shine_in_arterial_phase():
    for spec in phantoms("hyperdense"):
        assert spec.tissue.phase == "arterial"
        assert all(lesion.difference > 20 for lesion in spec.lesions)


def test_native_images_have_no_contrast_medium():
    for spec in phantoms("native"):
        assert spec.tissue.aorta < 60
        assert all(-40 < lesion.difference < 0 for lesion in spec.lesions)


def test_a_steatotic_liver_is_far_darker_than_the_spleen_and_its_lesions_are_not_dark(ordinary):
    for spec, usual in zip(phantoms("steatotic"), ordinary, strict=True):
        assert spec.tissue.parenchyma < spec.tissue.spleen - 40
        assert spec.tissue.parenchyma <= usual.tissue.parenchyma - 40
        assert all(lesion.difference > -10 for lesion in spec.lesions)


def inside(spec, **changes):
    """Which points of a fixed grid lie in the liver."""
    anatomy = anatomy_of(spec.seed, spec.body, replace(spec.liver, **changes))
    axes = [np.linspace(low, high, 18) for low, high in zip(Liver.LOW, Liver.HIGH, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    return points, anatomy.liver_at(points * anatomy.scale) < 0


def test_a_resected_liver_lacks_a_part():
    for spec in phantoms("postsurgical", 2):
        _, left = inside(spec)
        _, whole = inside(spec, resection=None)
        assert not (left & ~whole).any()
        assert 0.15 < left.sum() / whole.sum() < 0.97
        assert spec.body.gallbladder == 0


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_takes_out_what_lies_beyond_its_cut(name, ordinary):
    middle, normal = OPERATIONS[name]
    assert np.linalg.norm(normal) == pytest.approx(1, abs=0.03)
    spec = replace(ordinary[0], liver=replace(ordinary[0].liver, left_end=80.0))
    points, whole = inside(spec)
    resection = replace(RESECTED.resection, middle=middle, normal=normal)
    _, left = inside(spec, resection=resection)
    beyond = (points - np.array([0, 0, spec.body.inspiration]) - middle) @ normal
    assert not left[beyond > 8].any()
    assert left[beyond < -15].sum() > 0.9 * whole[beyond < -15].sum()
    assert left.sum() < 0.97 * whole.sum()


RESECTED = phantom_of(KIND["postsurgical"], SEEDS[0], 0, "portal", GRID).liver


def test_the_scan_holds_the_liver_and_the_smallest_lesions_have_voxels():
    made = render(phantom_of(KIND["small"], 7, 4, "portal", GRID))
    label = made.label.axial()
    assert label.shape == (24, 128, 128)
    liver = label > 0
    assert liver[0].sum() < 0.25 * liver.sum(axis=(1, 2)).max()
    assert not liver[:, :, 0].any()
    assert not liver[:, :, -1].any()
    assert (label == 2).sum() >= 10
