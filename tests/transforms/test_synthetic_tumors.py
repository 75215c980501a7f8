import dataclasses
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from lib.errors import BadInputError
from lib.transforms.components import FACES_EDGES_CORNERS, label_components
from lib.transforms.synthetic_lesion import SmoothNoise, SyntheticLesion, lesion_box, render_lesion
from lib.transforms.synthetic_tumors import (
    COUNTS,
    RADII_MM,
    SyntheticTumorSettings,
    TumorPainter,
    draw_lesions,
)

Spacing = tuple[float, float, float]
LIVER, TUMOR = 1, 2
SPACINGS: tuple[Spacing, ...] = ((1.5, 1.5, 1.5), (2.0, 0.9, 1.2), (5.0, 1.0, 1.0))
PLAIN = SyntheticTumorSettings(
    isodense_probability=0, hyperdense_probability=0, rim_probability=0, calcification_probability=0
)
NOISE = SmoothNoise()


def painter(settings: SyntheticTumorSettings = PLAIN, **changes: Any) -> TumorPainter:
    return TumorPainter(settings.model_copy(update=changes))


def patient(spacing: Spacing, size_mm: float = 150, parenchyma: int = 110) -> tuple[np.ndarray, np.ndarray]:
    """A box of liver of constant HU with 12 mm of fat around it; read-only, so that nobody writes into it."""
    inner = [max(1, round(size_mm / step)) for step in spacing]
    margin = [(round(12 / step),) * 2 for step in spacing]
    label = np.pad(np.full(inner, LIVER, np.uint8), margin)
    hu = np.where(label == LIVER, parenchyma, -100).astype(np.int16)
    for array in (hu, label):
        array.setflags(write=False)
    return hu, label


def paint(
    hu: np.ndarray, label: np.ndarray, spacing: Spacing, seed: int = 0, by: TumorPainter | None = None
) -> tuple[np.ndarray, np.ndarray]:
    return (by or painter()).paint(hu, label, spacing, LIVER, TUMOR, np.random.default_rng(seed))


def drawn(settings: SyntheticTumorSettings, seed: int, parenchyma_hu: float = 110) -> tuple[SyntheticLesion, ...]:
    """Lesions of a liver of 150 mm."""
    liver = np.ones((75, 100, 100), bool)
    return draw_lesions(np.random.default_rng(seed), settings, liver, (2.0, 1.5, 1.5), parenchyma_hu)


def rendered(lesion: SyntheticLesion, spacing: Spacing) -> tuple[np.ndarray, np.ndarray]:
    """A lesion with room enough around it."""
    lesion = dataclasses.replace(lesion, center=(100, 200, 200))
    return render_lesion(lesion, lesion_box(lesion, (200, 400, 400), spacing), spacing, NOISE)


# --- painting ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("kind", [*RADII_MM, "mix"])
def test_only_liver_changes_and_tumor_is_where_lesions_are(kind: str, spacing: Spacing) -> None:
    hu, label = patient(spacing)
    new_hu, new_label = paint(hu, label, spacing, by=painter(kinds=(kind,)))

    assert new_hu.dtype == np.int16
    assert new_label.dtype == np.uint8
    outside = label != LIVER
    np.testing.assert_array_equal(new_hu[outside], hu[outside])
    np.testing.assert_array_equal(new_label[outside], label[outside])
    tumor = new_label == TUMOR
    assert 0 < tumor.sum() <= 0.5 * (label == LIVER).sum()
    assert set(np.unique(new_label)) == {0, LIVER, TUMOR}
    change = new_hu.astype(int) - hu
    # Beyond the border there is less than half of a lesion in a voxel.
    assert change[tumor].mean() < 3 * change[~outside & ~tumor & (change != 0)].mean()
    assert (change[tumor] < 0).mean() > 0.95


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("kind", RADII_MM)
def test_lesions_have_the_size_of_their_kind(kind: str, spacing: Spacing) -> None:
    settings = PLAIN.model_copy(update={"kinds": (kind,)})
    lesions = [lesion for seed in range(30) for lesion in drawn(settings, seed)][:12]
    ratios = []
    for lesion in lesions:
        coverage, _ = rendered(lesion, spacing)
        assert coverage.min() == 0
        assert coverage.max() <= 1
        radius = (np.count_nonzero(coverage >= 0.5) * np.prod(spacing) * 3 / 4 / np.pi) ** (1 / 3)
        assert 0.6 * RADII_MM[kind] < radius < 1.4 * RADII_MM[kind]
        ratios.append(radius / lesion.radius)

    assert np.mean(ratios) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("kind", COUNTS)
def test_there_are_as_many_lesions_as_the_kind_has(kind: str) -> None:
    settings = SyntheticTumorSettings(kinds=(kind,))
    counts = {len(drawn(settings, seed)) for seed in range(100)}

    assert (min(counts), max(counts)) == COUNTS[kind]


@pytest.mark.parametrize("spacing", SPACINGS)
def test_every_lesion_that_was_drawn_is_painted(spacing: Spacing) -> None:
    hu, label = patient(spacing)
    by = painter(kinds=("tiny",))
    for seed in range(3):
        _, new_label = paint(hu, label, spacing, seed, by)
        tumor = new_label[tuple(slice(round(12 / step), -round(12 / step)) for step in spacing)] == TUMOR
        lesions = draw_lesions(np.random.default_rng(seed), by.settings, np.ones(tumor.shape, bool), spacing, 110)
        assert all(tumor[lesion.center] for lesion in lesions)
        assert label_components(tumor, FACES_EDGES_CORNERS)[1] <= len(lesions)


@pytest.mark.parametrize(
    ("parenchyma", "low", "high"), [(110, -75, -25), (140, -75, -25), (45, -75 * 0.45, -25 * 0.45), (10, 4, 15)]
)
def test_contrast_lies_in_its_range(parenchyma: int, low: float, high: float) -> None:
    hu, label = patient((2.0, 1.5, 1.5), parenchyma=parenchyma)
    by = painter(kinds=("small", "medium", "large"))
    for seed in range(5):
        new_hu, new_label = paint(hu, label, (2.0, 1.5, 1.5), seed, by)
        # What soft borders take from the lesion they give to its surroundings.
        contrast = (new_hu.astype(int) - hu).sum() / (new_label == TUMOR).sum()
        assert low - 0.1 * abs(low) <= contrast <= high + 0.1 * abs(high)


def test_the_mean_of_a_lesion_is_its_difference() -> None:
    for seed, spacing in enumerate(SPACINGS):
        for lesion in drawn(PLAIN, seed):
            coverage, hu = rendered(lesion, spacing)
            assert hu.sum() / coverage.sum() == pytest.approx(lesion.difference, abs=0.05)


def test_rim_and_calcification_lie_inside_the_lesion() -> None:
    lesion = dataclasses.replace(drawn(PLAIN.model_copy(update={"kinds": ("medium",)}), 0)[0], irregularity=0.05)
    _, plain = rendered(lesion, SPACINGS[0])
    coverage, rim = rendered(dataclasses.replace(lesion, rim_hu=40.0, rim_width=3.0), SPACINGS[0])
    _, specks = rendered(dataclasses.replace(lesion, calcification_hu=300.0), SPACINGS[0])

    middle = tuple(size // 2 for size in coverage.shape)
    assert rim[middle] == pytest.approx(plain[middle], abs=0.01)
    assert 15 < (rim - plain).max() <= 40
    added = specks - plain
    assert added.max() > 150
    assert 0.001 < (added > 50).sum() / (coverage > 0.5).sum() < 0.15
    assert not added[coverage < 0.5].any()


def test_the_same_rng_gives_the_same() -> None:
    hu, label = patient(SPACINGS[0])
    first, again, other = (paint(hu, label, SPACINGS[0], seed, painter()) for seed in (3, 3, 4))

    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[1] != other[1]).any()


def test_memory_order_does_not_matter() -> None:
    hu, label = patient(SPACINGS[1])
    expected = paint(hu, label, SPACINGS[1])
    # As `Volume.axial` shows files: another order, one axis backwards.
    views = [np.asfortranarray(array[:, ::-1])[:, ::-1] for array in (hu, label)]
    got = paint(views[0], views[1], SPACINGS[1])

    for one, two in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, two)


def test_tumors_that_are_there_stay() -> None:
    hu, label = (array.copy() for array in patient(SPACINGS[0]))
    old = np.zeros(label.shape, bool)
    old[30:80, 30:80, 30:60] = True
    hu[old], label[old] = 55, TUMOR
    for seed in range(4):
        new_hu, new_label = paint(hu, label, SPACINGS[0], seed, painter(kinds=("large",)))
        assert (new_hu[old] == 55).all()
        assert (new_label[old] == TUMOR).all()
        assert (new_label == TUMOR).sum() > old.sum()


def test_vessels_do_not_shine_through() -> None:
    hu, label = (array.copy() for array in patient((2.0, 1.0, 1.0)))
    vessels = np.zeros(label.shape, bool)
    vessels[:, 15::20, 15::20] = vessels[:, 16::20, 15::20] = True
    vessels[:, 15::20, 16::20] = vessels[:, 16::20, 16::20] = True
    vessels &= label == LIVER
    hu[vessels] = 190
    new_hu, new_label = paint(hu, label, (2.0, 1.0, 1.0), 1, painter(kinds=("large",)))
    tumor = new_label == TUMOR

    assert (tumor & vessels).sum() > 500
    left = new_hu[tumor & vessels].mean() - new_hu[tumor & ~vessels].mean()
    assert left < 0.5 * 80
    assert new_hu[vessels & (new_label == LIVER)].mean() > 180


def test_hu_stay_what_a_scanner_can_say() -> None:
    spacing = (3.0, 2.0, 2.0)
    hu, label = (array.copy() for array in patient(spacing))
    hu[label == 0] = -2000  # beyond the field of view, in some files
    by = painter(SyntheticTumorSettings(calcification_probability=1, hypodense_hu=(200, 200)))
    for parenchyma in (-1000, 3050):
        hu[label == LIVER] = parenchyma
        for seed in range(3):
            new_hu, _ = paint(hu, label, spacing, seed, by)
            assert new_hu[label == LIVER].min() >= -1024
            assert new_hu[label == LIVER].max() <= 3071
            assert (new_hu[label == 0] == -2000).all()


def test_no_liver_and_too_little_liver_come_back_as_they_were() -> None:
    hu, label = patient((2.0, 1.0, 1.0), size_mm=11)
    for given in (np.zeros_like(label), label, np.full_like(label, TUMOR)):
        new_hu, new_label = paint(hu, given, (2.0, 1.0, 1.0))
        assert new_hu is hu
        assert new_label is given


def test_in_a_small_liver_lesions_are_smaller() -> None:
    hu, label = patient((1.0, 1.0, 1.0), size_mm=40)
    for seed in range(3):
        _, new_label = paint(hu, label, (1.0, 1.0, 1.0), seed, painter(kinds=("large",)))
        assert 0 < (new_label == TUMOR).sum() <= 0.5 * 40**3


@pytest.mark.parametrize("slices", [1, 3])
def test_a_few_slices_are_enough(slices: int) -> None:
    hu, label = patient((1.5, 1.0, 1.0))
    part = slice(60, 60 + slices)
    _, new_label = paint(hu[part], label[part], (1.5, 1.0, 1.0), 2)

    assert new_label.shape == label[part].shape
    assert (new_label == TUMOR).any()


def test_other_indices_and_classes() -> None:
    hu, label = patient(SPACINGS[0])
    given = np.where(label == LIVER, 5, 9).astype(np.uint8)
    _, new_label = painter().paint(hu, given, SPACINGS[0], 5, 3, np.random.default_rng(0))

    assert set(np.unique(new_label)) == {3, 5, 9}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hu": np.zeros((3, 4), np.int16)}, r"of the same shape, not \(3, 4\) and \(3, 4, 5\)"),
        ({"hu": np.zeros((3, 4, 5), np.float32)}, "need int16 HU and a uint8 label, not float32 and uint8"),
        ({"spacing": (1.0, 0.0, 1.0)}, r"three positive lengths in mm along \(Z, Y, X\), not \(1.0, 0.0, 1.0\)"),
        ({"tumor_index": 1}, "two indices of 1 to 255, not 1 and 1"),
        ({"liver_index": 0}, "two indices of 1 to 255, not 0 and 2"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    good = {
        "hu": np.zeros((3, 4, 5), np.int16),
        "label": np.zeros((3, 4, 5), np.uint8),
        "spacing": (1.0, 1.0, 1.0),
        "liver_index": 1,
        "tumor_index": 2,
        "rng": np.random.default_rng(0),
    }
    with pytest.raises(BadInputError, match=message):
        painter().paint(**{**good, **changes})


# --- drawing -------------------------------------------------------------------------------------------------------


def test_densities_rims_and_specks_are_as_frequent_as_asked() -> None:
    settings = SyntheticTumorSettings(
        isodense_probability=0.2, hyperdense_probability=0.3, rim_probability=0.25, calcification_probability=0.1
    )
    lesions = [lesion for seed in range(400) for lesion in drawn(settings, seed)]
    isodense = [abs(lesion.difference) <= 5 for lesion in lesions]
    hyperdense = [lesion.difference >= 15 for lesion in lesions]

    assert np.mean(isodense) == pytest.approx(0.2, abs=0.06)
    assert np.mean(hyperdense) == pytest.approx(0.3, abs=0.06)
    assert np.mean([lesion.rim_hu != 0 for lesion in lesions]) == pytest.approx(0.2 + 0.8 * 0.25, abs=0.06)
    assert np.mean([lesion.calcification_hu > 0 for lesion in lesions]) == pytest.approx(0.1, abs=0.03)
    assert all(lesion.rim_hu != 0 for lesion, even in zip(lesions, isodense, strict=True) if even)


def test_one_chance_set_to_nothing_leaves_the_rest_as_drawn() -> None:
    with_rims = drawn(PLAIN.model_copy(update={"rim_probability": 1.0}), 5)

    assert all(lesion.rim_hu > 0 for lesion in with_rims)
    assert drawn(PLAIN, 5) == tuple(dataclasses.replace(lesion, rim_hu=0.0) for lesion in with_rims)


def test_lesions_lie_apart_where_there_is_room() -> None:
    settings = PLAIN.model_copy(update={"kinds": ("tiny",)})
    for seed in range(20):
        lesions = drawn(settings, seed)
        for i, one in enumerate(lesions):
            for other in lesions[:i]:
                gap = np.linalg.norm(np.subtract(one.center, other.center) * (2.0, 1.5, 1.5))
                assert gap > one.radius + other.radius


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hypodense_hu": (75, 25)}, "the lower limit 75.0 is above the upper limit 25.0"),
        ({"kinds": ()}, "at least 1 item"),
        ({"kinds": ("huge",)}, "Input should be"),
        ({"probability": 1.5}, "less than or equal to 1"),
        ({"chance": 0.5}, "Extra inputs are not permitted"),
    ],
)
def test_settings_refuse_what_makes_no_sense(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SyntheticTumorSettings(**values)


# --- noise ---------------------------------------------------------------------------------------------------------


def line(length: float, step: float) -> np.ndarray:
    return np.arange(-length / 2, length / 2, step, dtype=np.float32)


def test_noise_is_the_same_at_any_spacing() -> None:
    axis = line(40, 1.0)
    fine = NOISE.part(np.random.default_rng(1), (axis, axis, axis), 3.0)
    coarse = NOISE.part(np.random.default_rng(1), (axis[::5], axis, axis[::2]), 3.0)

    np.testing.assert_allclose(coarse, fine[::5, :, ::2], atol=1e-4)


@pytest.mark.parametrize("grain", [2.0, 6.0])
def test_noise_has_unit_deviation_and_the_grain_asked_for(grain: float) -> None:
    axis = line(90, 1.0)
    rng = np.random.default_rng(0)
    parts = np.stack([NOISE.part(rng, (axis[:40], axis, axis), grain) for _ in range(12)])

    assert parts.mean() == pytest.approx(0, abs=0.1)
    assert parts.std() == pytest.approx(1, abs=0.1)
    lag = round(2 * grain)  # where noise after a Gaussian of SD `grain` correlates by 1 / e
    correlation = (parts[..., lag:] * parts[..., :-lag]).mean() / parts.var()
    assert correlation == pytest.approx(np.exp(-1), abs=0.08)
