from pathlib import Path

import numpy as np
import pytest
import torch

from lib.inference.cascade import Box, locate, predict_liver
from lib.inference.model import Model, load_model
from lib.inference.observer import Seen
from lib.inference.predict import predict_axial
from lib.inference.segment import segment
from lib.inference.stopwatch import Stopwatch
from lib.phantom import make_phantom
from lib.settings import load_settings
from lib.transforms.components import FACES_EDGES_CORNERS, label_components

APP = Path(__file__).resolve().parents[2] / "apps" / "liver_tumor"
SPACING = (2.5, 0.75, 0.75)


class Bright:
    """Liver above 80 HU, tumor above 200: sees nothing but each pixel, so that cuts change nothing."""

    name = "bright"
    device = torch.device("cpu")

    def __init__(self):
        self.pixels, self.calls = 0, []

    def __call__(self, hu, levels, watch):
        with watch("network"):
            self.pixels += hu.size
            self.calls.append(hu.shape)
            return (hu > 80).astype(np.uint8) + (hu > 200)

    def seen(self, hu, levels, watch):
        classes = self(hu, levels, watch)
        return Seen(classes, np.moveaxis(np.eye(3, dtype=np.float32)[classes], -1, 1), None)


class Shortsighted(Bright):
    """As at low resolution it misses all that lies beyond some rows and slices."""

    def __init__(self, rows, slices):
        super().__init__()
        self.rows, self.slices, self.passed = rows, slices, 0

    def __call__(self, hu, levels, watch):
        classes = super().__call__(hu, levels, watch)
        if hu.shape[2] < 130:  # the coarse pass
            classes[:, self.rows :] = 0
            classes[self.slices - self.passed if self.slices > self.passed else 0 :] = 0
            self.passed += len(hu)
        return classes


def trunk(depth=48, size=400, top=120, left=60, first=12, last=34):
    hu = np.full((depth, size, size), -1000, np.int16)
    hu[:, 30:-30, 20:-20] = 30
    hu[first:last, top : top + 140, left : left + 130] = 110
    hu[first + 6 : first + 9, top + 20 : top + 30, left + 40 : left + 50] = 250
    return hu


def test_the_same_as_all_of_it_for_less():
    engine, whole, hu = Bright(), Bright(), trunk()
    found = predict_liver(engine, hu, SPACING, margin=27)
    np.testing.assert_array_equal(found, predict_axial(whole, hu))
    assert engine.pixels < 0.35 * whole.pixels


def test_any_memory_layout():
    hu = trunk(depth=20, first=3, last=15)
    view = np.asfortranarray(hu[::-1])[::-1]
    np.testing.assert_array_equal(
        predict_liver(Bright(), view, SPACING, margin=27), predict_liver(Bright(), hu, SPACING, margin=27)
    )


@pytest.mark.parametrize(("top", "left", "first", "last"), [(0, 0, 0, 48), (250, 260, 0, 10), (30, 20, 40, 48)])
def test_a_liver_at_the_border_of_the_image(top, left, first, last):
    hu = trunk(top=top, left=left, first=first, last=last)
    np.testing.assert_array_equal(predict_liver(Bright(), hu, SPACING, margin=13), predict_axial(Bright(), hu))


def test_what_the_coarse_pass_did_not_see_is_found_by_growing():
    hu = trunk(first=4, last=44)
    hu[4:44, 120:370, 60:190] = 110
    engine = Shortsighted(rows=50, slices=8)  # of 93 rows and 24 slices; the liver goes on to row 92 and slice 22
    np.testing.assert_array_equal(predict_liver(engine, hu, SPACING, margin=13), predict_axial(Bright(), hu))


def test_where_cuts_keep_growing_everything_is_looked_at_once():
    hu = trunk(size=400, top=30, left=30, first=2, last=46)
    hu[2:46, 30:390, 30:390] = 110
    engine, done = Shortsighted(rows=12, slices=24), []  # the coarse pass sees a fifth of the liver's rows
    found = predict_liver(engine, hu, SPACING, margin=13, progress=done.append)
    np.testing.assert_array_equal(found, predict_axial(Bright(), hu))
    assert (4, 400, 400) in engine.calls
    assert engine.pixels < 2 * hu.size
    assert sum(done) == len(hu)
    assert min(done) > 0


def test_what_is_told_makes_up_the_result(told):
    """Whether groups were done once, again with more room, or all of it from its beginning."""
    kinds = set()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        depth, height = int(rng.integers(6, 13)), int(rng.integers(130, 310))
        hu = trunk(depth=depth, size=int(rng.integers(440, 480)), first=0, last=0)
        hu[rng.integers(0, 3) : depth - rng.integers(0, 2), 110 : 110 + height, 60:200] = rng.integers(90, 250)
        rows, slices = int(rng.integers(34, 70)), int(rng.integers(3, 8))
        observer = told(hu.shape)
        found = predict_liver(Shortsighted(rows, slices), hu, SPACING, margin=13, observer=observer)
        np.testing.assert_array_equal(observer.classes, found)
        np.testing.assert_array_equal(found, predict_liver(Shortsighted(rows, slices), hu, SPACING, margin=13))
        firsts = [first for first, *_ in observer.parts]
        again = len(firsts) > len(set(firsts))
        kinds.add("all" if observer.began_again else "again" if again else "once" if set(firsts) else "nothing")
    assert kinds >= {"all", "again", "once"}


def test_the_margin_is_in_pixels_but_never_less_than_what_the_coarse_pass_is_wrong_by():
    hu = trunk(depth=8, size=640, top=300, left=300, first=0, last=8)
    widths = []
    for mm in (1.0, 0.5):
        engine = Bright()
        predict_liver(engine, hu, (2.5, mm, mm), margin=40)
        widths.append(max(columns for slices, _, columns in engine.calls if slices == 4))
    # 130 columns and 40 pixels on either side; 30 mm are 60 pixels of half a millimeter
    assert widths == [224, 288]


def test_a_false_find_elsewhere_asks_for_no_room():
    hu = trunk()
    hu[14:22, 314:318, 20:380] = 300  # goes along the lower edge of the cut, and is no part of the liver
    engine = Bright()
    found = predict_liver(engine, hu, SPACING, margin=27)
    liver = np.s_[12:34, 120:260, 60:190]
    np.testing.assert_array_equal(found[liver], predict_axial(Bright(), hu)[liver])
    assert max(rows for _, rows, columns in engine.calls if columns > 134) == 256


def test_the_margin_ends_at_the_body():
    hu = trunk(left=21)  # a pixel from the skin, beyond which there are 20 pixels of air
    hu[:, :, 380:] = -1000
    engine = Bright()
    found = predict_liver(engine, np.pad(hu, ((0, 0), (0, 0), (100, 12)), constant_values=-1000), SPACING, margin=100)
    np.testing.assert_array_equal(found[:, :, 100:-12], predict_axial(Bright(), hu))
    # From four coarse pixels beside the skin to the margin on the other side, in steps of 32.
    assert {columns for _, _, columns in engine.calls if columns > 130} == {352 - 96}


def test_nothing_but_air():
    hu = np.full((6, 256, 256), -1000, np.int16)
    np.testing.assert_array_equal(predict_liver(Bright(), hu, SPACING, margin=40), np.zeros_like(hu))


def test_without_a_liver_everything_is_looked_at():
    hu = trunk()
    hu[hu > 50] = 30
    hu[20, 200:210, 200:210] = 110  # some hundredths of a milliliter
    engine = Bright()
    np.testing.assert_array_equal(predict_liver(engine, hu, SPACING, margin=27), predict_axial(Bright(), hu))
    assert engine.pixels > hu.size
    assert locate(Bright(), hu, SPACING) is None


def test_a_coarse_image_is_looked_at_whole_and_once():
    hu, engine = trunk(depth=8, size=96, top=20, left=20, first=2, last=6), Bright()
    predict_liver(engine, hu, (5.0, 3.0, 3.0), margin=27)
    assert engine.pixels == hu.size
    assert locate(Bright(), hu, (5.0, 3.0, 3.0)) is None


def test_a_liver_that_fills_the_image_is_not_cut_out():
    hu = np.full((8, 128, 128), 110, np.int16)
    engine = Bright()
    predict_liver(engine, hu, (2.0, 1.0, 1.0), margin=27)
    assert [shape for shape in engine.calls if shape[1:] == (128, 128)] == [(4, 128, 128)] * 2


@pytest.mark.parametrize("shape", [(1, 300, 300), (3, 301, 257), (50, 400, 400)])
def test_every_slice_is_told_once_and_the_steps_are_timed(shape):
    hu, done, watch = np.full(shape, 110, np.int16), [], Stopwatch()
    hu[:, 200:] = -1000
    predict_liver(Bright(), hu, SPACING, margin=13, progress=done.append, watch=watch)
    assert sum(done) == len(hu)
    assert set(watch.seconds) == {"locate", "windows", "network"}


def test_boxes():
    assert Box(0, 32, 64, 128).pixels == 32 * 64
    assert Box(1, 2, 3, 4).cut == (slice(1, 2), slice(3, 4))


def test_no_lesion_of_the_whole_path_is_lost_on_unseen_phantoms():
    """The starter weights, post-processing included; pixels of 1.4 mm, which the coarse pass halves."""
    settings = load_settings(APP / "app.yaml")
    whole = settings.model_copy(update={"inference": settings.inference.model_copy(update={"cascade": False})})
    model = load_model(settings, APP / "starter.pt", torch.device("cpu"))
    both, each, lesions = np.zeros(2), np.zeros(2), 0
    for seed in range(7000, 7003):
        image = make_phantom(seed, shape=(256, 256, 12), spacing=(1.4, 1.4, 10.0), tumors=5).image
        fast, full = (segment(image, model, chosen).label.array for chosen in (settings, whole))
        both += [((fast >= least) & (full >= least)).sum() for least in (1, 2)]
        each += [(fast >= least).sum() + (full >= least).sum() for least in (1, 2)]
        found, count = label_components(full == 2, FACES_EDGES_CORNERS)  # as post-processing counts them
        assert set(np.unique(found[fast == 2])) - {0} == set(range(1, count + 1)), seed
        lesions += count
    liver, tumor = 2 * both / each
    assert (liver >= 0.995, tumor >= 0.98, lesions > 5) == (True, True, True), (liver, tumor, lesions)


def test_it_can_be_switched_off(settings, ct, weights):
    model = load_model(settings, weights, torch.device("cpu"))
    engine = Bright()
    off = settings.model_copy(update={"inference": settings.inference.model_copy(update={"cascade": False})})
    segment(ct, Model(model.network, "v", engine), off)
    assert engine.pixels == 5 * 48 * 48
