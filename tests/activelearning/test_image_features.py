from functools import cache

import numpy as np
import pytest

from lib.activelearning.image_features import image_embedding
from lib.phantom import make_phantom


@cache
def embedding(seed, **options):
    image = make_phantom(seed, tumors=0, **{"shape": (40, 40, 16), "orientation": "LPS", **options}).image
    return image_embedding(image.axial(), image.axial_spacing)


def test_unit_length():
    assert embedding(1).shape == (171,)
    assert embedding(1).dtype == np.float32
    assert np.linalg.norm(embedding(1)) == pytest.approx(1, abs=1e-6)


def test_similar_phantoms_are_closer_than_different_ones():
    finer = embedding(1, shape=(48, 48, 20))  # the same patient in another grid
    noisier = embedding(1, noise=25.0)
    others = [embedding(seed) for seed in (2, 3)]
    nearest = max(float(embedding(1) @ other) for other in others)
    assert float(embedding(1) @ noisier) > nearest
    assert float(embedding(1) @ finer) > nearest


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 16, 16), (3, 2, 700), (40, 5, 5)], ids=str)
def test_images_of_any_shape(shape):
    for hu in (np.full(shape, -1024, np.int16), np.random.default_rng(0).integers(-1000, 1000, shape).astype(np.int16)):
        values = image_embedding(hu, (2.0, 0.8, 0.8))
        assert np.isfinite(values).all()
        assert np.linalg.norm(values) == pytest.approx(1, abs=1e-6)


def test_the_order_of_memory_makes_no_difference():
    hu = np.random.default_rng(0).integers(-1000, 1000, (9, 40, 50)).astype(np.int16)
    turned = np.asfortranarray(hu)
    np.testing.assert_array_equal(image_embedding(turned, (2.0, 0.8, 0.8)), image_embedding(hu, (2.0, 0.8, 0.8)))
