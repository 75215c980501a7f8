import itertools

import numpy as np
import pytest
from scipy import ndimage

from lib.transforms.components import FACES, FACES_EDGES_CORNERS, label_components


@pytest.mark.parametrize("shape", [*itertools.product((1, 2, 3, 5), repeat=3), (9, 1, 1), (20, 30, 10)])
def test_components_equal_those_of_scipy(shape: tuple[int, int, int]) -> None:
    generator = np.random.default_rng(0)
    for density in (0.0, 0.2, 0.5, 0.8, 1.0):
        mask = generator.random(shape) < density
        for connectivity, structure in ((FACES, None), (FACES_EDGES_CORNERS, np.ones((3, 3, 3)))):
            components, count = label_components(mask, connectivity)
            expected, expected_count = ndimage.label(mask, structure)

            assert count == expected_count
            pairs = set(zip(components.ravel().tolist(), expected.ravel().tolist(), strict=True))
            assert len(pairs) == len(np.unique(components))  # the same parts, whatever their numbers


def test_any_memory_order() -> None:
    mask = np.random.default_rng(0).random((5, 6, 7)) < 0.3

    assert label_components(mask.T, FACES)[1] == label_components(mask, FACES)[1]
