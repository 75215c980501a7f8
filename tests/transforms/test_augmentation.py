import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lib.errors import BadInputError
from lib.transforms.augmentation import AugmentationParameters, apply, correlated_noise, draw_parameters
from lib.transforms.augmentation_settings import AugmentationSettings
from lib.transforms.sampling_grid import Deformation

ALWAYS = AugmentationSettings(
    elastic_probability=1,
    grid_probability=1,
    affine_probability=1,
    flip_probability=0.5,
    hu_probability=1,
    noise_probability=1,
)
SPATIAL = ALWAYS.model_copy(update={"hu_probability": 0.0, "noise_probability": 0.0})


def draw(seed: int, chosen: AugmentationSettings = ALWAYS) -> AugmentationParameters:
    return draw_parameters(np.random.default_rng(seed), chosen)


def liver_slice(size: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """A body of 40 HU in air with a liver of 110 HU and a tumor of 50 HU in it, all of them boxes."""
    image = np.full((size, size), -1024, np.int16)
    label = np.zeros((size, size), np.uint8)
    part = size // 8
    image[part:-part, part:-part] = 40
    label[2 * part : 6 * part, 2 * part : 5 * part] = 1
    label[3 * part : 5 * part, 3 * part : 4 * part] = 2
    image[label == 1] = 110
    image[label == 2] = 50
    return image, label


# --- drawing -------------------------------------------------------------------------------------------------------


def test_nothing_is_drawn_when_everything_is_off() -> None:
    off = {name: 0 for name in AugmentationSettings.model_fields if name.endswith("_probability")}
    assert draw(0, AugmentationSettings(**off)) == AugmentationParameters()


@given(seed=st.integers(0, 2**32))
def test_drawn_values_lie_in_their_ranges(seed: int) -> None:
    drawn = draw(seed)
    deformation = drawn.deformation

    assert deformation is not None
    assert deformation.elastic is not None
    assert len(deformation.elastic.anchors) == 6
    assert max(map(abs, deformation.elastic.anchors)) <= 3.6 / 512
    assert len(deformation.grid_y) == len(deformation.grid_x) == 5
    assert all(0.7 <= width <= 1.3 for width in deformation.grid_y + deformation.grid_x)
    assert abs(deformation.angle_degrees) <= 10
    assert 0.85 <= deformation.scale <= 1.2
    assert max(abs(deformation.shift_y), abs(deformation.shift_x)) <= 0.03
    assert 0.9 <= drawn.hu_gain <= 1.1
    assert abs(drawn.hu_shift) <= 15
    assert 0 <= drawn.noise_hu <= 15


def test_elastic_strength_is_that_of_the_original_recipe() -> None:
    elastic = draw(0).deformation.elastic  # type: ignore[union-attr]

    assert elastic is not None
    assert elastic.sigma * 512 == pytest.approx(6)
    assert elastic.sd * 512 == pytest.approx(3.26, abs=0.01)  # px: uniform noise, Gaussian of 6 px, times 120


def test_effects_happen_as_often_as_asked() -> None:
    generator = np.random.default_rng(0)
    drawn = [draw_parameters(generator, AugmentationSettings()) for _ in range(1000)]
    deformations = [each.deformation or Deformation() for each in drawn]

    for count in (
        sum(each.elastic is not None for each in deformations),
        sum(each.grid_x != () for each in deformations),
        sum(each.scale != 1 for each in deformations),
        sum(each.hu_gain != 1 for each in drawn),
        sum(each.noise_hu > 0 for each in drawn),
    ):
        assert 430 < count < 570
    assert not any(each.flip for each in deformations)


def test_switching_one_effect_off_leaves_the_others_as_drawn() -> None:
    without_grid = draw(7, ALWAYS.model_copy(update={"grid_probability": 0.0}))
    everything = draw(7)

    assert everything.deformation is not None
    expected = dataclasses.replace(everything.deformation, grid_y=(), grid_x=())
    assert without_grid == dataclasses.replace(everything, deformation=expected)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scale": (1.2, 0.8)}, r"the lower limit 1.2 is above the upper limit 0.8"),
        ({"elastic_probability": 1.1}, "less than or equal to 1"),
        ({"elastic_p": 0.5}, "Extra inputs are not permitted"),
    ],
)
def test_settings_refuse_what_makes_no_sense(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AugmentationSettings(**values)


# --- applying ------------------------------------------------------------------------------------------------------


def test_nothing_to_do_changes_nothing() -> None:
    generator = np.random.default_rng(0)
    image = generator.integers(-32768, 32767, (20, 30), dtype=np.int16, endpoint=True)
    label = generator.integers(0, 256, (20, 30), dtype=np.uint8)

    new_image, new_label = apply(AugmentationParameters(), image, label)

    np.testing.assert_array_equal(new_image, image)
    np.testing.assert_array_equal(new_label, label)
    assert not np.shares_memory(new_image, image)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_image_and_label_move_together(seed: int) -> None:
    image, label = liver_slice()
    new_image, new_label = apply(draw(seed, SPATIAL), image, label)

    for low, high, mask in ((80, 140, new_label == 1), (-100, 2000, _body(seed))):
        seen = (new_image > low) & (new_image < high)
        dice = 2 * (seen & mask).sum() / (seen.sum() + mask.sum())
        assert dice > 0.95


def _body(seed: int) -> np.ndarray:
    """The body's outline, moved as a label."""
    image, _ = liver_slice()
    return apply(draw(seed, SPATIAL), image, (image > -500).astype(np.uint8))[1] == 1


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_no_new_label_values_dtypes_or_inputs(seed: int) -> None:
    image, label = liver_slice(64)
    before = image.copy(), label.copy()
    new_image, new_label = apply(draw(seed), image, label)

    assert new_image.dtype == np.int16
    assert new_label.dtype == np.uint8
    assert new_image.shape == new_label.shape == image.shape
    assert set(np.unique(new_label)) == {0, 1, 2}
    assert new_image.min() >= -1024
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(label, before[1])


def test_deformation_really_deforms_and_stays_moderate() -> None:
    _, label = liver_slice(256)
    image = np.zeros_like(label, dtype=np.int16)
    overlaps = []
    for seed in range(20):
        moved = apply(draw(seed, SPATIAL.model_copy(update={"flip_probability": 0.0})), image, label)[1]
        overlaps.append(2 * ((moved > 0) & (label > 0)).sum() / ((moved > 0).sum() + (label > 0).sum()))

    assert min(overlaps) > 0.6
    assert 0.75 < np.mean(overlaps) < 0.97


def test_air_and_background_come_in_from_outside() -> None:
    shift = AugmentationParameters(deformation=Deformation(shift_y=0.25))
    image, label = apply(shift, np.full((20, 20), 60, np.int16), np.ones((20, 20), np.uint8))

    assert (image[:5] == -1024).all()
    assert (label[:5] == 0).all()
    assert (image[5:] == 60).all()
    assert (label[5:] == 1).all()


def test_gain_and_shift_are_about_water_and_rounded() -> None:
    image = np.array([[-1024, -100, 0, 101]], np.int16)
    changed, _ = apply(AugmentationParameters(hu_gain=1.1, hu_shift=4.6), image, np.zeros((1, 4), np.uint8))

    assert changed.tolist() == [[-1024, -105, 5, 116]]


def test_hu_do_not_wrap_around() -> None:
    image = np.full((1, 2), 32767, np.int16)

    assert (apply(AugmentationParameters(hu_gain=1.1), image, np.zeros((1, 2), np.uint8))[0] == 32767).all()


def test_noise_has_its_strength_and_correlation() -> None:
    noise = correlated_noise(400, 500, seed=1).numpy()

    assert noise.shape == (400, 500)
    assert noise.mean() == pytest.approx(0, abs=0.02)
    assert noise.std() == pytest.approx(1, abs=0.02)
    for distance, expected in ((1, 2 / 3), (2, 1 / 6), (3, 0)):
        assert (noise[distance:] * noise[:-distance]).mean() == pytest.approx(expected, abs=0.03)
        assert (noise[:, distance:] * noise[:, :-distance]).mean() == pytest.approx(expected, abs=0.03)
    image = np.zeros((400, 500), np.int16)
    noisy, _ = apply(AugmentationParameters(noise_hu=12, noise_seed=1), image, np.zeros((400, 500), np.uint8))
    assert noisy.std() == pytest.approx(12, rel=0.03)


def test_the_same_generator_gives_the_same_slices() -> None:
    image, label = liver_slice()

    first, again, other = (apply(draw(seed), image, label) for seed in (5, 5, 6))

    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[0] != other[0]).any()


def test_batch_is_each_slice_by_itself() -> None:
    image, label = liver_slice()
    parameters = [draw(0), AugmentationParameters(), draw(1, SPATIAL), AugmentationParameters(hu_shift=3)]
    images, labels = np.stack([image] * 4), np.stack([label] * 4)

    new_images, new_labels = apply(parameters, images, labels)

    for position, each in enumerate(parameters):
        alone = apply(each, image, label)
        np.testing.assert_array_equal(new_images[position], alone[0])
        np.testing.assert_array_equal(new_labels[position], alone[1])


def test_tensors_and_arrays_give_the_same() -> None:
    image, label = liver_slice()

    arrays = apply(draw(0), image, label)
    tensors = apply(draw(0), torch.from_numpy(image), torch.from_numpy(label))

    assert isinstance(tensors[0], torch.Tensor)
    np.testing.assert_array_equal(tensors[0].numpy(), arrays[0])
    np.testing.assert_array_equal(tensors[1].numpy(), arrays[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_what_the_cpu_gives() -> None:
    image, label = map(torch.from_numpy, liver_slice())

    expected = apply(draw(0), image, label)
    result = apply(draw(0), image.cuda(), label.cuda())

    assert result[0].is_cuda
    assert (result[0].cpu() - expected[0]).abs().float().mean() < 1
    assert (result[1].cpu() != expected[1]).float().mean() < 0.001


def test_any_view_can_be_given() -> None:
    image, label = liver_slice()
    image.flags.writeable = False

    flipped = apply(draw(0), image[::-1, ::-1], label[::-1, ::-1])
    copied = apply(draw(0), image[::-1, ::-1].copy(), label[::-1, ::-1].copy())

    np.testing.assert_array_equal(flipped[0], copied[0])


@pytest.mark.parametrize(
    ("image", "label", "count", "message"),
    [
        (np.zeros((4, 4), np.float32), np.zeros((4, 4), np.uint8), 1, "int16 HU and a uint8 label, not torch.float32"),
        (np.zeros((4, 4), np.int16), np.zeros((4, 5), np.uint8), 1, r"not \(4, 4\) and \(4, 5\)"),
        (np.zeros((3, 4, 4), np.int16), np.zeros((3, 4, 4), np.uint8), 2, r"2 sets .* do not fit 3 slice"),
    ],
)
def test_wrong_input_is_named(image: np.ndarray, label: np.ndarray, count: int, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        apply([AugmentationParameters()] * count, image, label)
