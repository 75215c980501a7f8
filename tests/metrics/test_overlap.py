import numpy as np
import pytest

from lib.errors import BadInputError
from lib.metrics.overlap import Overlap


def masks(reference, prediction):
    return np.array(reference, np.uint8), np.array(prediction, np.uint8)


def test_counts_every_value_but_zero():
    assert Overlap.of(*masks([0, 1, 2, 2], [0, 0, 1, 9])) == Overlap(3, 2, 2)


def test_figures_by_hand():
    overlap = Overlap(reference=4, prediction=6, intersection=2)
    assert overlap.union == 8
    assert overlap.dice == pytest.approx(0.4)
    assert overlap.jaccard == pytest.approx(0.25)
    assert overlap.voe == pytest.approx(0.75)
    assert overlap.rvd == pytest.approx(0.5)
    assert overlap.rvd_official == pytest.approx(-1 / 3)


def test_both_empty_is_perfect():
    overlap = Overlap(0, 0, 0)
    assert (overlap.dice, overlap.jaccard, overlap.voe, overlap.rvd, overlap.rvd_official) == (1, 1, 0, 0, 0)


@pytest.mark.parametrize(("overlap", "rvd", "official"), [(Overlap(3, 0, 0), -1, None), (Overlap(0, 3, 0), None, -1)])
def test_one_empty_is_worst(overlap, rvd, official):
    assert (overlap.dice, overlap.jaccard, overlap.voe) == (0, 0, 1)
    assert (overlap.rvd, overlap.rvd_official) == (rvd, official)


def test_adding_up_equals_counting_together():
    rng = np.random.default_rng(0)
    one, other = (rng.integers(0, 2, (2, 4, 5, 6)) for _ in range(2))
    assert Overlap.of(*one) + Overlap.of(*other) == Overlap.of(
        np.stack([one[0], other[0]]), np.stack([one[1], other[1]])
    )


def test_shapes_must_agree():
    with pytest.raises(BadInputError, match=r"the reference has \(2,\), the prediction \(3,\)"):
        Overlap.of(np.zeros(2), np.zeros(3))
