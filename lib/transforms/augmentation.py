"""Vary training slices: deform image and label together, and change HU as scanners and patients do.

Randomness is apart from work: `draw_parameters` draws, `apply` is deterministic. All deformations become one sampling
grid, so that the image is interpolated once (bilinear) and the label never mixes (nearest).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from lib.errors import BadInputError
from lib.transforms.augmentation_settings import AugmentationSettings
from lib.transforms.sampling_grid import Deformation, Elastic, sampling_grid
from lib.volume import AIR_HU

Array = TypeVar("Array", NDArray[Any], torch.Tensor)

_MATRIX = 512  # the matrix that lengths in the settings are meant for
_SEEDS = 2**63 - 1
_INT16 = torch.iinfo(torch.int16)


@dataclass(frozen=True)
class AugmentationParameters:
    """What is done to one slice; the default does nothing.

    Args:
        deformation: how the slice is deformed; None: not at all.
        hu_gain: factor for HU, so that water keeps its value.
        hu_shift: HU added after that.
        noise_hu: standard deviation of the added noise in HU.
        noise_seed: what the noise is made from.
    """

    deformation: Deformation | None = None
    hu_gain: float = 1.0
    hu_shift: float = 0.0
    noise_hu: float = 0.0
    noise_seed: int = 0


def draw_parameters(generator: np.random.Generator, settings: AugmentationSettings) -> AugmentationParameters:
    """Draw what to do to one slice.

    Args:
        generator: the only source of randomness; noise fields are drawn as seeds.
        settings: probabilities and ranges.

    Returns:
        Parameters for `apply`, small enough to be logged.
    """
    # Everything is drawn every time, so that switching one effect off leaves the others as they were.
    happens = {
        name: generator.random() < getattr(settings, f"{name}_probability")
        for name in ("elastic", "grid", "affine", "flip", "hu", "noise")
    }
    anchors = _symmetric(generator, settings.elastic_affine / _MATRIX, 6)
    elastic = Elastic(
        # Smoothing uniform noise of [-1, 1] (SD 1/sqrt(3)) with a Gaussian divides its SD by 2 sqrt(pi) sigma.
        sd=settings.elastic_alpha / math.sqrt(3) / (2 * math.sqrt(math.pi) * settings.elastic_sigma) / _MATRIX,
        sigma=settings.elastic_sigma / _MATRIX,
        anchors=tuple(anchors),
        seed=int(generator.integers(_SEEDS)),
    )
    grid_y, grid_x = (
        tuple(1 + change for change in _symmetric(generator, settings.grid_limit, settings.grid_cells)) for _ in "yx"
    )
    angle = float(generator.uniform(-1, 1)) * settings.rotation_degrees
    scale = float(generator.uniform(*settings.scale))
    shift_y, shift_x = _symmetric(generator, settings.translation, 2)
    hu_gain, hu_shift = float(generator.uniform(*settings.hu_gain)), _symmetric(generator, settings.hu_shift, 1)[0]
    noise_hu, noise_seed = float(generator.uniform(0, 1)) * settings.noise_hu, int(generator.integers(_SEEDS))

    deformation = Deformation(
        flip=happens["flip"],
        elastic=elastic if happens["elastic"] else None,
        grid_y=grid_y if happens["grid"] else (),
        grid_x=grid_x if happens["grid"] else (),
        angle_degrees=angle if happens["affine"] else 0.0,
        scale=scale if happens["affine"] else 1.0,
        shift_y=shift_y if happens["affine"] else 0.0,
        shift_x=shift_x if happens["affine"] else 0.0,
    )
    return AugmentationParameters(
        deformation=None if deformation == Deformation() else deformation,
        hu_gain=hu_gain if happens["hu"] else 1.0,
        hu_shift=hu_shift if happens["hu"] else 0.0,
        noise_hu=noise_hu if happens["noise"] else 0.0,
        noise_seed=noise_seed if happens["noise"] else 0,
    )


def apply(
    parameters: AugmentationParameters | Sequence[AugmentationParameters], image: Array, label: Array
) -> tuple[Array, Array]:
    """Apply drawn parameters to a slice or a batch of slices.

    Args:
        parameters: one for a slice; for a batch one for each slice.
        image: `(Y, X)` or `(B, Y, X)` int16 HU before any windowing; ndarray or tensor on any device.
        label: uint8 class indices of the same shape, kind and device.

    Returns:
        New image and label of the same shape, kind, dtype and device. What comes from beyond the slice is air
        (-1024 HU) and background. A slice with nothing to do comes back exactly as it was. Random numbers are drawn on
        the CPU, so that all devices give the same up to rounding.

    Raises:
        BadInputError: shapes, dtypes or the number of parameters do not fit.
    """
    if isinstance(image, np.ndarray) and isinstance(label, np.ndarray):
        # from_numpy wants writable memory and positive strides; only inputs without them are copied.
        tensors = [torch.from_numpy(np.require(array, requirements=["C", "W"])) for array in (image, label)]
        new_image, new_label = apply(parameters, *tensors)
        return new_image.numpy(), new_label.numpy()
    batch = [parameters] if isinstance(parameters, AugmentationParameters) else list(parameters)
    _check(batch, image, label)
    shape = image.shape
    images, labels = image.reshape(-1, *shape[-2:]).clone(), label.reshape(-1, *shape[-2:]).clone()
    deformed = [position for position, each in enumerate(batch) if each.deformation is not None]
    if deformed:
        grid = torch.stack(
            [
                sampling_grid(each.deformation, shape[-2], shape[-1], images.device)
                for each in batch
                if each.deformation is not None
            ]
        )
        # Zero is what grid_sample finds beyond the border: count HU from air.
        raised = (images[deformed].float() - AIR_HU)[:, None]
        sampled = functional.grid_sample(raised, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        images[deformed] = _to_int16(sampled[:, 0] + AIR_HU)
        sampled = functional.grid_sample(
            labels[deformed].float()[:, None], grid, mode="nearest", padding_mode="zeros", align_corners=False
        )
        labels[deformed] = sampled[:, 0].to(torch.uint8)
    for position, each in enumerate(batch):
        if (each.hu_gain, each.hu_shift, each.noise_hu) != (1, 0, 0):
            images[position] = _change_hu(images[position], each)
    return images.reshape(shape), labels.reshape(shape)


def change_levels(levels: NDArray[np.int16], parameters: AugmentationParameters) -> NDArray[np.int16]:
    """Gray values of any shape with the gain and shift of a slice, without its noise and deformation.

    Order is kept, so that the `gray_levels` of a slice become those of the changed slice.
    """
    if (parameters.hu_gain, parameters.hu_shift) == (1, 0):
        return levels
    changed = np.rint(levels * np.float32(parameters.hu_gain) + np.float32(parameters.hu_shift))
    return np.clip(changed, AIR_HU, _INT16.max).astype(np.int16)


def _check(batch: Sequence[AugmentationParameters], image: torch.Tensor, label: torch.Tensor) -> None:
    if image.ndim not in (2, 3) or image.shape != label.shape or 0 in image.shape:
        msg = (
            "augmentation needs an image (Y, X) or (B, Y, X) and a label of the same shape, not "
            f"{tuple(image.shape)} and {tuple(label.shape)}"
        )
        raise BadInputError(msg)
    if image.dtype != torch.int16 or label.dtype != torch.uint8:
        msg = f"augmentation needs int16 HU and a uint8 label, not {image.dtype} and {label.dtype}"
        raise BadInputError(msg)
    slices = 1 if image.ndim == 2 else len(image)
    if len(batch) != slices:
        msg = f"{len(batch)} sets of augmentation parameters do not fit {slices} slice(s); draw one for each"
        raise BadInputError(msg)


def _change_hu(image: torch.Tensor, parameters: AugmentationParameters) -> torch.Tensor:
    """Gain, shift and noise on one `(Y, X)` slice; nothing gets thinner than air, as nothing does in a scanner."""
    changed = image.float() * parameters.hu_gain + parameters.hu_shift
    if parameters.noise_hu > 0:
        noise = correlated_noise(image.shape[0], image.shape[1], parameters.noise_seed)
        changed += parameters.noise_hu * noise.to(image.device)
    return _to_int16(changed.clamp(min=AIR_HU))


def correlated_noise(rows: int, columns: int, seed: int) -> torch.Tensor:
    """CT-like noise: mean 0, standard deviation 1, correlated over one to two pixels.

    White noise smoothed with (1/2, 1, 1/2) along both axes: neighbors correlate by 2/3, the next by 1/6, as
    reconstruction kernels for soft tissue leave it.

    Returns:
        `(rows, columns)` float32 on the CPU.
    """
    white = torch.randn(rows + 2, columns + 2, generator=torch.Generator().manual_seed(seed))
    smooth = white[1:-1] + 0.5 * (white[:-2] + white[2:])
    smooth = smooth[:, 1:-1] + 0.5 * (smooth[:, :-2] + smooth[:, 2:])
    return smooth / 1.5


def _to_int16(hu: torch.Tensor) -> torch.Tensor:
    return hu.round().clamp(_INT16.min, _INT16.max).to(torch.int16)


def _symmetric(generator: np.random.Generator, limit: float, count: int) -> list[float]:
    return [float(value) for value in generator.uniform(-1, 1, count) * limit]
