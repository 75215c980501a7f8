import numpy as np
import pytest

from lib.inference.predict import padded, predict_axial
from lib.inference.stopwatch import Stopwatch
from lib.volume import AIR_HU


def random_hu(shape, seed=0):
    return np.random.default_rng(seed).integers(-1000, 400, shape).astype(np.int16)


@pytest.mark.parametrize("shape", [(5, 33, 47), (1, 40, 24), (2, 7, 9)])
def test_every_voxel_gets_a_class(model, settings, shape):
    predicted = predict_axial(model.engine(settings), random_hu(shape))
    assert predicted.dtype == np.uint8
    assert predicted.shape == shape
    assert set(np.unique(predicted)) <= {0, 1, 2}


@pytest.mark.parametrize("batch_slices", [1, 2, 3, 100])
def test_batch_size_does_not_matter(model, settings, batch_slices):
    hu = random_hu((7, 30, 34))
    engine = model.engine(settings)
    expected = predict_axial(engine, hu, batch_slices=4)
    assert (predict_axial(engine, hu, batch_slices=batch_slices) == expected).mean() > 0.999


def test_memory_layout_does_not_matter(model, settings):
    hu = random_hu((4, 20, 18))
    view = np.asfortranarray(hu[::-1])[::-1]
    engine = model.engine(settings)
    np.testing.assert_array_equal(predict_axial(engine, view), predict_axial(engine, hu))


def test_progress_and_stopwatch(model, settings):
    done, watch = [], Stopwatch()
    predict_axial(model.engine(settings), random_hu((7, 16, 16)), batch_slices=3, progress=done.append, watch=watch)
    assert done == [3, 3, 1]
    assert list(watch.seconds) == ["windows", "network"]


def test_padding_is_air_at_the_end():
    hu = random_hu((2, 17, 16))
    found = padded(hu[:, :, ::-1])
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found[:, :17], hu[:, :, ::-1])
    assert (found[:, 17:] == AIR_HU).all()
    assert found.shape == (2, 32, 16)
