import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from lib.errors import NotFoundError
from lib.inference import shared as module
from lib.inference.model import ModelSource, load_model
from lib.inference.segment import segment
from lib.inference.shared import SharedSegmenter
from lib.networks.checkpoint import save_weights
from lib.settings import Settings
from lib.transforms.postprocessing import PostprocessingSettings
from lib.volume import Volume
from lib.volume_io import write_image

CPU = torch.device("cpu")
PLAIN = PostprocessingSettings(largest_liver=False, fill_holes=False, tumor_in_hull=False, drop_specks=False)
LONG_S = 20


@pytest.fixture
def source(settings, weights, tmp_path):
    shutil.copy(weights, tmp_path / "starter.pt")
    return ModelSource.of_app(settings, tmp_path)


@pytest.fixture
def make(settings, source):
    made = []

    def build(**changes):
        inference = settings.inference.model_copy(update=changes)
        made.append(SharedSegmenter(settings.model_copy(update={"inference": inference}), source))
        return made[-1]

    yield build
    for each in made:
        each.close()


@pytest.fixture
def shared(make):
    return make()


@pytest.fixture
def image(ct, tmp_path):
    write_image(tmp_path / "ct.nii.gz", ct)
    return tmp_path / "ct.nii.gz"


@pytest.fixture
def runs(monkeypatch):
    """The volumes that went through the network."""
    seen = []
    predict = module.predict

    def counted(image, *arguments):
        seen.append(image)
        return predict(image, *arguments)

    monkeypatch.setattr(module, "predict", counted)
    return seen


def publish(source, settings, seed, version):
    """Another model in force."""
    network = load_model(settings, source.path, CPU).network
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    source.published.parent.mkdir(exist_ok=True)
    save_weights(source.published, network, {"version": version})


def same(served, expected):
    np.testing.assert_array_equal(served.segmentation.label.array, expected.label.array)
    np.testing.assert_array_equal(served.segmentation.label.affine, expected.label.affine)
    assert served.segmentation.label.array.flags.f_contiguous == expected.label.array.flags.f_contiguous
    assert (served.segmentation.version, served.segmentation.summary) == (expected.version, expected.summary)


@pytest.mark.parametrize("codes", ["LPS", "PSR", "AIL"])
@pytest.mark.parametrize("postprocessing", [PLAIN, PostprocessingSettings()], ids=["plain", "cleaned"])
def test_a_result_is_given_out_again_as_it_was(
    shared, ct, turned, model, settings, tmp_path, runs, codes, postprocessing
):
    image = turned(ct, codes)
    write_image(tmp_path / "turned.nii.gz", image)
    expected = segment(image, model, settings, postprocessing=postprocessing)
    assert len(np.unique(expected.label.array)) > 1
    for cached in (False, True, True):
        served = shared.segment(tmp_path / "turned.nii.gz", postprocessing, CPU)
        assert served.cached is cached
        np.testing.assert_allclose(served.segmentation.label.affine, image.affine, atol=1e-5)
        np.testing.assert_array_equal(served.segmentation.label.array, expected.label.array)
        assert served.segmentation.summary["volumes_ml"] == pytest.approx(expected.summary["volumes_ml"])
    assert set(served.segmentation.seconds) == {"unpack"}
    assert len(runs) == 1
    assert shared.info() == {"waiting": 0, "kept_results": 2, "kept_mb": pytest.approx(0.004, abs=0.1)}


def test_other_post_processing_needs_no_network(shared, ct, model, settings, image, runs):
    assert not shared.segment(image, PLAIN, CPU).cached
    steps = PLAIN.changed({"largest_liver": True})
    served = shared.segment(image, steps, CPU)
    assert served.cached
    expected = segment(runs[0], model, settings, postprocessing=steps)
    assert not np.array_equal(expected.label.array, segment(ct, model, settings, postprocessing=PLAIN).label.array)
    same(served, expected)
    assert set(served.segmentation.seconds) == {"wait", "unpack", "postprocessing"}
    assert len(runs) == 1


def test_a_file_that_changed_is_segmented_anew(shared, ct, image, runs):
    shared.segment(image, PLAIN, CPU)
    write_image(image, Volume(ct.array[:, :, ::-1].copy(), ct.affine))
    served = shared.segment(image, PLAIN, CPU)
    assert not served.cached
    np.testing.assert_array_equal(runs[1].array, ct.array[:, :, ::-1])


def test_a_file_that_changes_while_it_is_read_is_not_kept(shared, ct, image, runs, monkeypatch):
    read = module.read_image

    def read_and_replace(path):
        volume = read(path)
        write_image(image, Volume(ct.array[:, :, ::-1].copy(), ct.affine))
        return volume

    monkeypatch.setattr(module, "read_image", read_and_replace)
    shared.segment(image, PLAIN, CPU)
    monkeypatch.setattr(module, "read_image", read)
    assert not shared.segment(image, PLAIN, CPU).cached
    np.testing.assert_array_equal(runs[1].array, ct.array[:, :, ::-1])


def test_a_new_model_answers_for_itself(shared, source, settings, image, runs):
    old = shared.segment(image, PLAIN, CPU)
    publish(source, settings, 1, "v-new")
    new = shared.segment(image, PLAIN, CPU)
    assert (old.segmentation.version, new.segmentation.version, new.cached) == ("v-test", "v-new", False)
    same(new, segment(runs[0], source.get(CPU), settings, postprocessing=PLAIN))
    assert not np.array_equal(new.segmentation.label.array, old.segmentation.label.array)
    assert shared.info()["kept_results"] == 2  # those of the old one are gone
    source.published.unlink()
    back = shared.segment(image, PLAIN, CPU)
    assert not back.cached
    same(back, old.segmentation)


def test_a_request_keeps_to_the_model_that_it_began_with(shared, source, settings, image, runs, monkeypatch):
    """Published while one is read: the answer is all of the old model, and nobody gets it for one of the new."""
    read, reading, published = module.read_image, threading.Event(), threading.Event()

    def slow(path):
        reading.set()
        assert published.wait(LONG_S)
        return read(path)

    monkeypatch.setattr(module, "read_image", slow)
    expected = {"v-test": source.get(CPU)}
    with ThreadPoolExecutor(2) as clients:
        first = clients.submit(shared.segment, image, PLAIN, CPU, client="a")
        assert reading.wait(LONG_S)
        publish(source, settings, 1, "v-new")
        expected["v-new"] = source.get(CPU)
        second = clients.submit(shared.segment, image, PLAIN, CPU, client="b")
        published.set()
        served = [first.result(LONG_S), second.result(LONG_S)]
    assert [each.segmentation.version for each in served] == ["v-test", "v-new"]
    assert [each.cached for each in served] == [False, False]
    for each in (*served, shared.segment(image, PLAIN, CPU)):
        model = expected[each.segmentation.version]
        same(each, segment(runs[0], model, settings, postprocessing=PLAIN))
    assert each.cached


def test_an_image_is_segmented_ahead(shared, settings, image, runs):
    shared.prefetch(image, "ann")
    served = shared.segment(image, settings.postprocessing, CPU)
    assert len(runs) == 1  # waited for, or there already
    again = shared.segment(image, settings.postprocessing, CPU)
    same(again, served.segmentation)
    shared.prefetch(image, "ann")
    assert shared.info()["waiting"] == 0
    assert len(runs) == 1


def test_what_can_not_be_segmented_ahead_is_told_in_the_log(shared, source, image, tmp_path, caplog):
    shared.prefetch(tmp_path / "nothing.nii.gz", "ann")  # gone meanwhile: whoever asks for it will be told
    source.starter.unlink()
    shared.prefetch(image, "ann")
    assert [message.partition(": ")[0] for message in caplog.messages] == ["not segmented ahead"]


def test_many_who_ask_for_one_image_at_once_share_the_work(shared, image, settings, runs):
    with ThreadPoolExecutor(8) as clients:
        asked = [clients.submit(shared.segment, image, PLAIN, CPU, client=str(number)) for number in range(8)]
        served = [each.result(LONG_S) for each in asked]
    assert len(runs) == 1
    for each in served:
        same(each, served[0].segmentation)


def test_who_asks_while_the_first_is_being_cleaned_waits_for_that(shared, image, runs, monkeypatch):
    """Between the network and the kept result there is a moment in which neither queue nor results know of it."""
    finish, cleaning, go_on = module.finish, threading.Event(), threading.Event()

    def slow(*arguments):
        cleaning.set()
        assert go_on.wait(LONG_S)
        return finish(*arguments)

    def pack_later(_shared, *_):
        assert go_on.wait(LONG_S)

    monkeypatch.setattr(module, "finish", slow)
    monkeypatch.setattr(SharedSegmenter, "_keep_raw", pack_later)
    with ThreadPoolExecutor(2) as clients:
        first = clients.submit(shared.segment, image, PLAIN, CPU, client="first")
        assert cleaning.wait(LONG_S)
        second = clients.submit(shared.segment, image, PLAIN, CPU, client="second")
        while not second.running():
            pass
        threading.Timer(0.3, go_on.set).start()
        same(second.result(LONG_S), first.result(LONG_S).segmentation)
    assert len(runs) == 1


def test_who_may_not_keep_still_gets_answers(make, image, runs):
    shared = make(cache_mb=0)
    for _ in range(2):
        assert not shared.segment(image, PLAIN, CPU).cached
    shared = make()
    for _ in range(2):
        assert not shared.segment(image, PLAIN, CPU, once=True).cached
    assert shared.info()["kept_results"] == 0
    assert len(runs) == 4


def test_background_work_reads_beside_the_network(shared, model, settings, image, ct, tmp_path, monkeypatch):
    """Two at once: both are in memory, and only one has the network."""
    second = tmp_path / "second.nii.gz"
    write_image(second, Volume(ct.array[:, :, ::-1].copy(), ct.affine))
    predict, read, read_both = module.predict, module.read_image, threading.Barrier(2, timeout=LONG_S)
    network = threading.Lock()

    def both_read(path):
        volume = read(path)
        read_both.wait()
        return volume

    def alone(*arguments):
        assert network.acquire(blocking=False)
        try:
            return predict(*arguments)
        finally:
            network.release()

    monkeypatch.setattr(module, "read_image", both_read)
    monkeypatch.setattr(module, "predict", alone)
    with ThreadPoolExecutor(2) as workers:
        asked = [workers.submit(shared.segment, path, PLAIN, CPU, background=True) for path in (image, second)]
        served = [each.result(LONG_S) for each in asked]
    for each, path in zip(served, (image, second), strict=True):
        same(each, segment(read(path), model, settings, postprocessing=PLAIN))
        assert not each.cached
    assert shared.info()["kept_results"] == 0  # a batch must not take the place of what annotators wait for


def test_an_error_is_not_kept(shared, tmp_path, ct):
    path = tmp_path / "late.nii.gz"
    with pytest.raises(NotFoundError, match=r"late\.nii\.gz: there is no such file"):
        shared.segment(path, PLAIN, CPU)
    write_image(path, ct)
    assert shared.segment(path, PLAIN, CPU).segmentation.label.shape == ct.shape


def test_the_settings_are_those_of_the_app():
    inference = Settings().inference
    assert (inference.prefetch, inference.cache_mb, inference.most_waiting) == (True, 256, 16)
