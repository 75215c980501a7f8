"""Synthetic CTs: the same from the same seed, of any size and orientation, with the anatomy and HU they claim."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_erosion, label

from lib import phantom
from lib.datasets.phantoms import SAMPLE_PHANTOMS
from lib.errors import BadInputError
from lib.phantom import Phantom, PhantomSpec, draw_spec, make_phantom, render
from lib.volume import same_geometry
from lib.volume_io import read_image, read_label

SMALL = {"shape": (64, 64, 24), "spacing": (5.6, 5.6, 9.0)}
SAMPLE_DATA = Path(__file__).resolve().parents[1] / "sample-data"


def without_noise(spec: PhantomSpec) -> PhantomSpec:
    return dataclasses.replace(
        spec, scan=dataclasses.replace(spec.scan, noise=0.0, shading=0.0, streaks=0.0, circular=False)
    )


def middle_of_liver(made: Phantom) -> np.ndarray:
    index = np.array(np.nonzero(made.label.array)).mean(axis=1)
    return made.label.affine[:3, :3] @ index + made.label.affine[:3, 3]


@pytest.fixture(scope="module")
def portal() -> Phantom:
    return render(
        without_noise(draw_spec(3, phase="portal", tumors=2, tilt=0.0, shape=(96, 96, 48), spacing=(4.2, 4.2, 6.0)))
    )


@pytest.fixture(scope="module")
def specs() -> list[PhantomSpec]:
    return [draw_spec(seed) for seed in range(40)]


# --- the same from the same seed ---


def test_same_seed_gives_same_bytes() -> None:
    first, second = make_phantom(5, **SMALL), make_phantom(5, **SMALL)
    assert first.spec == second.spec
    assert first.image.array.tobytes() == second.image.array.tobytes()
    assert first.label.array.tobytes() == second.label.array.tobytes()
    np.testing.assert_array_equal(first.image.affine, second.image.affine)


def test_other_seed_gives_another_patient() -> None:
    first, second = make_phantom(5, **SMALL), make_phantom(6, **SMALL)
    assert (first.label.axial() != second.label.axial()).mean() > 0.01


def test_voxels_do_not_depend_on_how_many_slices_are_computed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = make_phantom(8, **SMALL)
    monkeypatch.setattr(phantom, "_SLAB_PIXELS", 5 * 64 * 64)
    in_slabs = make_phantom(8, **SMALL)
    np.testing.assert_array_equal(at_once.image.array, in_slabs.image.array)
    np.testing.assert_array_equal(at_once.label.array, in_slabs.label.array)


@pytest.mark.parametrize("name", ["phantom_0003", "phantom_0005"])
def test_committed_samples_are_made_by_this_code(name: str) -> None:
    made = make_phantom(**SAMPLE_PHANTOMS[name])
    image = read_image(SAMPLE_DATA / f"{name}.nii.gz")
    truth = read_label(SAMPLE_DATA / "labels" / "final" / f"{name}.nii.gz")
    # another kind of processor may round a sine, and so an HU or a voxel on the border, otherwise
    difference = np.abs(image.array.astype(int) - made.image.array)
    assert (difference > 0).mean() < 0.002
    assert difference.max() <= 2
    assert (truth.array != made.label.array).mean() < 1e-5
    assert same_geometry(image, made.image)
    assert same_geometry(image, truth)


def test_committed_samples_are_all_there_and_small() -> None:
    images = sorted(SAMPLE_DATA.glob("*.nii.gz"))
    labels = sorted((SAMPLE_DATA / "labels" / "final").glob("*.nii.gz"))
    assert (
        [path.name for path in images]
        == [f"{name}.nii.gz" for name in SAMPLE_PHANTOMS]
        == [path.name for path in labels]
    )
    assert sum(path.stat().st_size for path in images + labels) < 4_000_000
    tumors = [bool((read_label(path).array == 2).any()) for path in labels]
    assert tumors == [options["tumors"] > 0 for options in SAMPLE_PHANTOMS.values()]


# --- geometry ---


@pytest.mark.parametrize("orientation", ["RAS", "LAS", "RPI", "PSL", "SAR"])
def test_axial_view_is_the_same_in_every_orientation(orientation: str) -> None:
    reference = make_phantom(9, orientation="LPS", **SMALL)
    turned = make_phantom(9, orientation=orientation, **SMALL)
    np.testing.assert_array_equal(turned.image.axial(), reference.image.axial())
    np.testing.assert_array_equal(turned.label.axial(), reference.label.axial())
    assert turned.spec.scan.orientation == tuple(orientation)
    np.testing.assert_allclose(turned.image.axial_spacing, reference.image.axial_spacing)
    # and the same place in the scanner, not only in the array
    np.testing.assert_allclose(middle_of_liver(turned), middle_of_liver(reference), atol=1e-6)


def test_label_has_the_geometry_of_the_image() -> None:
    for options in ({"orientation": "PSL", "tilt": 9.0}, {"orientation": "RAS"}):
        made = make_phantom(4, **SMALL, **options)
        assert made.image.shape == made.label.shape
        np.testing.assert_array_equal(made.image.affine, made.label.affine)
        np.testing.assert_allclose(made.image.axial_spacing, (9.0, 5.6, 5.6))


def test_tilt_makes_the_affine_oblique_and_none_does_not() -> None:
    straight = make_phantom(4, tilt=0.0, orientation="LPS", **SMALL).image.affine[:3, :3]
    tilted = make_phantom(4, tilt=10.0, orientation="LPS", **SMALL).image.affine[:3, :3]
    assert np.count_nonzero(straight) == 3
    assert np.count_nonzero(np.abs(tilted) > 1e-9) == 5
    assert np.linalg.det(tilted) == pytest.approx(np.linalg.det(straight))


@pytest.mark.parametrize("shape", [(16, 16, 1), (64, 48, 3), (70, 90, 5)])
def test_any_shape(shape: tuple[int, int, int]) -> None:
    made = make_phantom(2, shape=shape, orientation="LPS")
    assert made.image.shape == shape
    assert made.image.array.dtype == np.int16
    assert made.label.array.dtype == np.uint8


def test_full_matrix_slab_has_liver_and_tumor() -> None:
    made = make_phantom(6, shape=(512, 512, 4), spacing=(0.75, 0.75, 2.0), tumors=4)
    assert made.image.shape in {(512, 512, 4), (512, 4, 512), (4, 512, 512)}
    assert (made.label.array > 0).mean() > 0.02


def test_circular_field_of_view_is_padded_with_air() -> None:
    spec = draw_spec(5, **SMALL)
    made = render(dataclasses.replace(spec, scan=dataclasses.replace(spec.scan, circular=True)))
    assert (made.image.axial()[:, 0, 0] == -1024).all()
    assert (made.image.axial()[:, -1, -1] == -1024).all()


# --- anatomy ---


def test_spine_lies_behind_and_liver_on_the_right(portal: Phantom) -> None:
    image, truth = portal.image.axial(), portal.label.axial()
    body = image > -300
    rows, columns = np.nonzero(body.any(axis=0))
    liver_slice = int((truth > 0).sum(axis=(1, 2)).argmax())
    bone_rows, bone_columns = np.nonzero(image[liver_slice] > 250)
    middle = columns.mean()
    central = np.abs(bone_columns - middle) < 6
    assert bone_rows[central].mean() > rows.mean()
    assert np.nonzero(truth)[2].mean() < middle - 5


def test_lungs_lie_above_the_liver(portal: Phantom) -> None:
    image, truth = portal.image.axial(), portal.label.axial()
    slices = np.flatnonzero((truth > 0).any(axis=(1, 2)))
    lung = ((image > -900) & (image < -750)).sum(axis=(1, 2))  # the table's foam is thinner
    assert lung[slices[-1]] > 4 * lung[slices[0]]


def test_liver_is_one_piece_of_plausible_volume() -> None:
    for seed in range(4):
        made = make_phantom(seed, shape=(64, 64, 40), spacing=(5.6, 5.6, 7.0), tilt=0.0)
        liver = made.label.array > 0
        sizes = np.bincount(label(liver)[0].ravel())[1:]
        assert sizes.max() > 0.98 * sizes.sum()
        assert 500 < liver.sum() * made.label.voxel_ml < 4000


def test_tumors_lie_in_the_liver_or_bulge_from_it(portal: Phantom) -> None:
    for made in (portal, make_phantom(12, tumors=8, **SMALL)):
        tumor, liver = made.label.array == 2, made.label.array == 1
        assert tumor.any()
        assert not (tumor & ~binary_dilation(liver, iterations=6)).any()
        assert (tumor & binary_dilation(liver, iterations=1)).any()


def test_number_of_tumors_is_what_was_asked_for() -> None:
    assert draw_spec(1, tumors=0).lesions == ()
    assert len(draw_spec(1, tumors=4).lesions) == 4
    assert not (make_phantom(1, tumors=0, **SMALL).label.array == 2).any()


# --- HU ---


@pytest.mark.parametrize("phase", ["native", "arterial", "portal"])
def test_parenchyma_has_the_hu_of_its_phase(phase: str) -> None:
    made = render(without_noise(draw_spec(21, phase=phase, tumors=0, **SMALL)))
    inside = made.image.array[made.label.array == 1]
    assert np.median(inside) == pytest.approx(made.spec.tissue.parenchyma, abs=4)


def test_vessels_are_bright_in_portal_phase_and_dark_in_native_liver() -> None:
    difference = {}
    for phase in ("native", "portal"):
        spec = without_noise(draw_spec(22, phase=phase, tumors=0, shape=(128, 128, 24), spacing=(2.9, 2.9, 8.0)))
        spec = dataclasses.replace(
            spec,
            tissue=dataclasses.replace(spec.tissue, mottling=0.0, parenchyma={"native": 58.0, "portal": 100.0}[phase]),
        )
        made = render(spec)
        deep = binary_erosion(made.label.array == 1, iterations=2)  # without the surface's partial volume
        low, high = np.percentile(made.image.array[deep] - spec.tissue.parenchyma, [2, 98])
        difference[phase] = low + high
    assert difference["portal"] > 5
    assert difference["native"] < -5


def test_the_late_arterial_phase_shows_arteries_and_bright_tumors() -> None:
    drawn = [draw_spec(seed, phase="arterial", tumors=6) for seed in range(30)]
    for spec in drawn:
        tissue = spec.tissue
        assert tissue.aorta > tissue.portal_vein + 50
        assert tissue.portal_vein > tissue.parenchyma > 15
        assert tissue.hepatic_vein < 60  # not yet filled
        assert tissue.cortex > tissue.medulla + 50
        for lesion in spec.lesions:
            assert tissue.parenchyma + lesion.difference > -10
    kinds = [lesion.kind for spec in drawn for lesion in spec.lesions]
    assert 0.4 < kinds.count("hyper") / len(kinds) < 0.75
    assert 0.2 < kinds.count("hypo") / len(kinds) < 0.55


def test_tissues_are_where_they_should_be_in_the_histogram(portal: Phantom) -> None:
    hu = portal.image.array.astype(float)
    assert abs(np.median(hu[hu < -950]) + 1000) < 5  # air
    fat = hu[(hu > -140) & (hu < -60)]
    assert abs(np.median(fat) - portal.spec.tissue.fat) < 12
    assert ((hu > -930) & (hu < -750)).mean() > 0.005  # lung
    assert (hu > 250).mean() > 0.002  # bone


def test_lesions_differ_from_parenchyma_as_their_kind_says() -> None:
    spec = draw_spec(30, phase="portal", tumors=1, shape=(96, 96, 60), spacing=(3.6, 3.6, 4.0))
    base = dataclasses.replace(
        spec.lesions[0], radii=(18.0, 18.0, 18.0), rim=0.0, core=0.0, calcification=0.0, softness=1.0
    )
    for kind, difference in (("hypo", -50.0), ("hyper", 45.0)):
        lesion = dataclasses.replace(base, kind=kind, difference=difference)
        made = render(without_noise(dataclasses.replace(spec, lesions=(lesion,))))
        inside = made.image.array[made.label.array == 2]
        assert np.median(inside) - spec.tissue.parenchyma == pytest.approx(difference, abs=12)


def test_noise_has_the_asked_for_deviation_and_is_correlated() -> None:
    options = {"shape": (256, 256, 3), "spacing": (0.8, 0.8, 1.0), "orientation": "LPS", "tilt": 0.0, "tumors": 0}
    spec = draw_spec(14, noise=15.0, **options)
    spec = dataclasses.replace(spec, scan=dataclasses.replace(spec.scan, shading=0.0, streaks=0.0, circular=False))
    noisy, clean = render(spec), render(without_noise(spec))
    noise = (noisy.image.array.astype(float) - clean.image.array)[96:160, 96:160, 1]
    assert noise.std() == pytest.approx(15, rel=0.15)
    assert abs(noise.mean()) < 3
    assert np.corrcoef(noise[1:].ravel(), noise[:-1].ravel())[0, 1] > 0.1


# --- what is drawn ---


def test_drawn_values_lie_in_their_stated_ranges(specs: list[PhantomSpec]) -> None:
    for spec in specs:
        scan, tissue = spec.scan, spec.tissue
        assert scan.shape[:2] == (512, 512)
        assert 0.62 < scan.spacing[0] < 0.98
        assert 0.7 <= scan.spacing[2] <= 5
        assert 5 <= scan.noise <= 25
        low, high = (50, 64) if tissue.phase == "native" else (72, 125)
        assert low <= tissue.parenchyma + tissue.steatosis <= high
        for lesion in spec.lesions:
            assert 5 <= 2 * np.mean(lesion.radii) <= 60.001
            assert tissue.parenchyma + lesion.difference > -10


def test_all_kinds_occur(specs: list[PhantomSpec]) -> None:
    assert 0.1 < np.mean([not spec.lesions for spec in specs]) < 0.5
    assert {spec.tissue.phase for spec in specs} == {"native", "portal"}
    assert {lesion.kind for spec in specs for lesion in spec.lesions} == {"hypo", "iso", "hyper"}
    assert len({spec.scan.orientation for spec in specs}) > 3
    assert any(spec.tissue.steatosis > 15 for spec in specs)
    assert any(lesion.core for spec in specs for lesion in spec.lesions)
    assert any(lesion.bulges for spec in specs for lesion in spec.lesions)


def test_choices_are_kept() -> None:
    spec = draw_spec(
        7, shape=(80, 70, 12), spacing=(4.0, 4.5, 8.0), phase="native", orientation="ras".upper(), noise=7.0
    )
    assert (spec.scan.shape, spec.scan.spacing) == ((80, 70, 12), (4.0, 4.5, 8.0))
    assert (spec.tissue.phase, spec.scan.orientation, spec.scan.noise) == ("native", ("R", "A", "S"), 7.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (8, 64, 3)}, r"at least 16 x 16 x 1 voxels, not \(8, 64, 3\)"),
        ({"spacing": (1.0, 0.0, 1.0)}, r"three lengths of 0.1 to 20 mm, not \(1.0, 0.0, 1.0\)"),
        ({"phase": "late"}, "'native', 'arterial' or 'portal', not 'late'"),
        ({"tumors": -1}, "0 to 100, not -1"),
        ({"orientation": "LRS"}, "like 'LPS' or 'RAS', not 'LRS'"),
        ({"orientation": "LPSX"}, "not 'LPSX'"),
    ],
)
def test_impossible_wishes_are_refused_with_the_value(options: dict, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        draw_spec(1, **options)


def test_negative_seed_is_refused() -> None:
    with pytest.raises(BadInputError, match="0 or more, not -3"):
        draw_spec(-3)


def test_progress_is_told_and_ends_at_one() -> None:
    told: list[float] = []
    render(draw_spec(1, **SMALL), progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_nothing_is_labelled_outside_the_circle_of_reconstruction():
    spec = draw_spec(700, shape=(64, 64, 8), spacing=(2.6, 2.6, 6.0))
    phantom = render(dataclasses.replace(spec, scan=dataclasses.replace(spec.scan, circular=True)))
    corner = phantom.image.axial()[:, 0, 0]
    assert (corner == -1024).all()
    assert not phantom.label.array[phantom.image.array == -1024].any()
