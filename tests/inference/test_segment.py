from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from lib.inference.model import Model
from lib.inference.segment import finish, predict, segment
from lib.inference.stopwatch import Stopwatch
from lib.settings import Settings
from lib.transforms.postprocessing import PostprocessingSettings
from lib.volume import Volume

ORIENTATIONS = ("RAS", "LAS", "RPI", "PSL", "ASR", "SPL", "ILA")
NOTHING = PostprocessingSettings(largest_liver=False, fill_holes=False, tumor_in_hull=False, drop_specks=False)


class Threshold(nn.Module):
    """Liver where the liver window is bright; tumor where a wide one is; needs no training."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, image):
        bright = image[:, :1]
        return torch.cat([torch.full_like(bright, 0.8), bright, torch.zeros_like(bright)], dim=1)


@pytest.fixture
def threshold():
    return Model(Threshold().eval(), "threshold")


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_the_label_lies_in_space_where_it_does_in_any_orientation(ct, turned, model, settings, codes):
    expected = segment(ct, model, settings, postprocessing=NOTHING).label
    assert len(np.unique(expected.array)) > 1
    image = turned(ct, codes)
    label = segment(image, model, settings, postprocessing=NOTHING).label
    assert label.shape == image.shape
    np.testing.assert_array_equal(label.affine, image.affine)
    np.testing.assert_array_equal(label.array, turned(expected, codes).array)


def test_a_gpu_without_the_memory_for_many_slices_takes_fewer(ct, threshold, settings, told, monkeypatch):
    tried = []

    def on_small_gpu(engine, hu, *, batch_slices, observer, **options):
        tried.append(batch_slices)
        if observer:
            observer.parts.append(batch_slices)
        if batch_slices > most:
            raise torch.OutOfMemoryError
        return np.zeros(hu.shape, np.uint8)

    monkeypatch.setattr("lib.inference.segment.predict_axial", on_small_gpu)
    monkeypatch.setattr(Model, "engine", lambda *_: SimpleNamespace(device=torch.device("cuda")))
    slices = most = settings.inference.batch_slices
    segment(ct, threshold, settings)
    assert tried == [8 * slices, slices]
    observer = told(ct.axial().shape)
    predict(ct, threshold, settings, Stopwatch(), None, observer)
    assert (observer.began_again, len(observer.parts)) == (1, 2)
    most = 0
    with pytest.raises(torch.OutOfMemoryError):
        segment(ct, threshold, settings)


def test_post_processing_does_not_depend_on_the_orientation(ct, turned, threshold, settings):
    expected = segment(ct, threshold, settings)
    for codes in ORIENTATIONS:
        result = segment(turned(ct, codes), threshold, settings)
        np.testing.assert_array_equal(result.label.array, turned(expected.label, codes).array)
        assert result.summary["volumes_ml"] == pytest.approx(expected.summary["volumes_ml"])
        assert result.summary["lesion_count"] == expected.summary["lesion_count"]


def test_oblique_and_sheared_affines_are_kept(ct, threshold, settings):
    affine = ct.affine.copy()
    affine[:3, :3] += [[0, 0.1, 0.4], [-0.1, 0, 0.2], [0.05, 0, 0]]
    result = segment(Volume(ct.array, affine), threshold, settings)
    np.testing.assert_array_equal(result.label.affine, affine)
    np.testing.assert_array_equal(result.label.array, segment(ct, threshold, settings).label.array)


def test_a_single_slice(ct, model, settings):
    image = Volume(ct.array[:, :, 2:3], ct.affine)
    label = segment(image, model, settings, postprocessing=NOTHING).label
    whole = segment(ct, model, settings, postprocessing=NOTHING).label
    assert label.shape == (40, 36, 1)
    assert (label.array[..., 0] == whole.array[..., 2]).mean() > 0.999  # no slice sees another


def test_what_is_bright_is_found_and_counted(ct, threshold, settings):
    done = []
    result = segment(ct, threshold, settings, progress=done.append)
    liver = np.zeros(ct.shape, bool)
    liver[8:22, 10:26, 1:] = True
    assert ((result.label.array > 0) == liver).mean() > 0.97
    assert result.label.array.dtype == np.uint8
    assert result.version == "threshold"
    assert sum(done) == 5
    assert list(result.seconds) == ["locate", "windows", "network", "postprocessing"]
    volume = np.count_nonzero(result.label.array == 1) * 0.9 * 0.9 * 3 / 1000
    assert result.summary["volumes_ml"] == pytest.approx({"liver": volume, "tumor": 0})
    assert result.summary["lesion_count"] == 0


def test_steps_can_be_switched_per_request(ct, threshold, settings):
    bright = ct.array.copy()
    bright[33:36, 27:30] = 200  # beside the liver
    image = Volume(bright, ct.affine)
    assert not segment(image, threshold, settings).label.array[33:].any()
    assert segment(image, threshold, settings, postprocessing=NOTHING).label.array[33:36, 27:30].all()


@pytest.mark.parametrize("labels", [{"tumor": 1, "liver": 2}, {"liver": 1, "vessel": 2}, {"spleen": 1}])
def test_other_classes_are_not_cleaned_as_liver_and_tumor(ct, labels):
    settings = Settings.model_validate({"labels": {name: {"index": index} for name, index in labels.items()}})
    raw = np.zeros(ct.axial().shape, np.uint8)
    raw[1, 2, 3], raw[2, 5:9, 5:9] = max(labels.values()), 1
    label, _ = finish(raw, ct, settings, settings.postprocessing)
    np.testing.assert_array_equal(label.axial(), raw)


def test_other_spellings_are_cleaned(ct):
    settings = Settings.model_validate({"labels": {"Leber": {"index": 1}, "lesion": {"index": 2}}})
    raw = np.zeros(ct.axial().shape, np.uint8)
    raw[0, 1, 1], raw[2, 5:9, 5:9] = 2, 1
    label, _ = finish(raw, ct, settings, settings.postprocessing)
    assert label.array.max() == 1


def test_more_classes_than_liver_and_tumor_stay_as_the_network_gives_them(ct):
    labels = {"liver": {"index": 1}, "tumor": {"index": 2}, "vessel": {"index": 3}}
    settings = Settings.model_validate({"labels": labels})
    raw = np.zeros(ct.axial().shape, np.uint8)
    raw[1, 2, 3], raw[2, 5:9, 5:9] = 3, 1
    label, summary = finish(raw, ct, settings, settings.postprocessing)
    np.testing.assert_array_equal(label.axial(), raw)
    assert summary["volumes_ml"]["vessel"] == pytest.approx(0.9 * 0.9 * 3 / 1000)


def test_a_gpu_sees_whole_slices_many_at_once(ct, model, settings, monkeypatch):
    class OnGpu:
        name, device = "on a GPU", torch.device("cuda")

    asked = []

    def whole(engine, hu, **options):
        asked.append(options["batch_slices"])
        return np.zeros(hu.shape, np.uint8)

    monkeypatch.setattr("lib.inference.segment.predict_axial", whole)
    assert settings.inference.cascade
    segment(ct, Model(model.network, "v", OnGpu()), settings)
    assert asked == [8 * settings.inference.batch_slices]
