"""What nobody waits for is observed, and that costs nobody a result."""

import logging
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from lib.errors import BadInputError, NotFoundError, UnavailableError
from lib.inference import shared as module
from lib.inference.engine import TorchEngine
from lib.inference.model import ModelSource
from lib.inference.segment import segment
from lib.inference.shared import SharedSegmenter
from lib.volume import Volume
from lib.volume_io import write_image

CPU = torch.device("cpu")
LONG_S = 20


class Watching:
    """Makes observers, and lets a test hold the last part of each."""

    def __init__(self, told):
        self.told, self.made, self.by_path = told, threading.Event(), {}
        self.finishing, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()
        self.saw = self.finish = None
        self.count = 0

    def __call__(self, path, image, model):
        if self.told is None:
            return None
        observer = self.by_path[path] = self.told(image.axial().shape)
        observer.version, observer.done = model.version, threading.Event()
        self.count += 1
        if self.saw:
            observer.saw = self.saw
        whole = observer.finished

        def finished(cleaned, lesions, give_way):
            self.finishing.set()
            while not self.go_on.wait(0.002):
                give_way()
            if self.finish:
                self.finish()
            whole(cleaned, lesions, give_way)
            observer.done.set()

        observer.finished = finished
        self.made.set()
        return observer


@pytest.fixture
def watch(told):
    return Watching(told)


@pytest.fixture
def shared(settings, weights, tmp_path, watch):
    shutil.copy(weights, tmp_path / "starter.pt")
    made = SharedSegmenter(settings, ModelSource.of_app(settings, tmp_path), watch)
    yield made
    watch.go_on.set()
    made.close()


@pytest.fixture
def image(ct, tmp_path):
    write_image(tmp_path / "ct.nii.gz", ct)
    return tmp_path / "ct.nii.gz"


@pytest.fixture
def other(ct, tmp_path):
    write_image(tmp_path / "other.nii.gz", Volume(ct.array[:, :, ::-1].copy(), ct.affine))
    return tmp_path / "other.nii.gz"


@pytest.fixture
def expected(ct, model, settings):
    return segment(ct, model, settings)


def ask(shared, settings, path, **options):
    return shared.segment(path, settings.postprocessing, CPU, **options)


def same(served, expected):
    np.testing.assert_array_equal(served.segmentation.label.array, expected.label.array)


def is_told_all(observer, expected):
    assert observer.done.wait(LONG_S)
    np.testing.assert_array_equal(observer.cleaned, expected.label.axial())
    assert (observer.lesions, observer.version) == (expected.summary["lesion_count"], "v-test")
    kept = observer.cleaned > 0
    assert kept.any()
    assert (observer.classes[kept] > 0).mean() > 0.5  # the raw classes of the very same axes


def test_what_is_segmented_ahead_is_observed_once(shared, settings, watch, image, expected):
    shared.prefetch(image, "ann")
    same(ask(shared, settings, image), expected)
    is_told_all(watch.by_path[str(image)], expected)
    while shared.info()["kept_results"] < 2:
        pass
    shared.prefetch(image, "ben")
    ask(shared, settings, image, background=True)
    assert watch.count == 1


def test_a_batch_is_observed_and_a_person_never(shared, settings, watch, image, other, expected):
    ask(shared, settings, other)
    assert watch.count == 0
    served = ask(shared, settings, image, background=True)
    same(served, expected)
    assert "observe" in served.segmentation.seconds
    is_told_all(watch.by_path[str(image)], expected)


def test_scoring_keeps_nothing(shared, settings, watch, image, expected):
    shared.score(image)
    is_told_all(watch.by_path[str(image)], expected)
    assert shared.info()["kept_results"] == 0
    assert not ask(shared, settings, image).cached


def test_what_need_not_be_watched_is_not_segmented_for_its_scores(shared, watch, image, monkeypatch):
    monkeypatch.setattr(module, "predict", lambda *_: pytest.fail("segmented"))
    watch.told = None
    shared.score(image)
    SharedSegmenter(shared._settings, shared._source).score("never read")


def test_the_result_does_not_wait_for_its_scores(shared, settings, watch, image, other, expected):
    watch.go_on.clear()
    shared.prefetch(image, "ann")
    assert watch.finishing.wait(LONG_S)
    same(ask(shared, settings, image), expected)
    ask(shared, settings, other)  # and neither do others: dropout passes give way
    assert not watch.by_path[str(image)].done.is_set()
    watch.go_on.set()
    is_told_all(watch.by_path[str(image)], expected)


def test_who_asks_while_it_is_segmented_ahead_does_not_wait_for_its_scores(
    shared, settings, watch, image, expected, monkeypatch
):
    predict, begun, go_on = module.predict, threading.Event(), threading.Event()

    def slow(*arguments):
        begun.set()
        assert go_on.wait(LONG_S)
        return predict(*arguments)

    monkeypatch.setattr(module, "predict", slow)
    watch.go_on.clear()
    shared.prefetch(image, "ann")
    assert begun.wait(LONG_S)
    with ThreadPoolExecutor(1) as clients:
        asked = clients.submit(ask, shared, settings, image)
        while not any(job.callers for job in list(shared._queue._jobs.values())):
            pass
        go_on.set()
        same(asked.result(LONG_S), expected)
    assert not watch.by_path[str(image)].done.is_set()
    watch.go_on.set()
    is_told_all(watch.by_path[str(image)], expected)


def test_scoring_gives_way_to_what_is_segmented_ahead(shared, settings, watch, image, other, expected):
    watch.go_on.clear()
    with ThreadPoolExecutor(1) as idle:
        scoring = idle.submit(shared.score, image)
        assert watch.finishing.wait(LONG_S)
        scored = watch.by_path[str(image)]
        watch.made.clear()
        shared.prefetch(other, "ann")
        assert watch.made.wait(LONG_S)
        ask(shared, settings, other)
        assert not scored.done.is_set()
        watch.go_on.set()
        scoring.result(LONG_S)
    is_told_all(scored, expected)


def failing(*_):
    msg = "no room on the disk"
    raise BadInputError(msg)


def broken(*_):
    msg = "broken"
    raise RuntimeError(msg)


@pytest.mark.parametrize(
    ("where", "fail", "text"),
    [
        ("watch", broken, "broken"),
        ("saw", broken, "broken"),
        ("finish", failing, "no room on the disk"),
        ("engine", broken, "broken"),
    ],
    ids=["watch", "saw", "finish", "engine"],
)
def test_errors_cost_the_scores_and_no_segmentation(
    shared, settings, watch, image, expected, caplog, monkeypatch, where, fail, text
):
    if where == "watch":
        shared._watch = fail
    elif where == "engine":
        monkeypatch.setattr(TorchEngine, "seen", fail)
    else:
        setattr(watch, where, fail)
    with caplog.at_level(logging.WARNING):
        same(ask(shared, settings, image, background=True), expected)
        shared.score(image)
    (message, again) = caplog.messages
    assert message == again == f"{image}: segmented, but not scored: {text}"
    assert [bool(record.exc_info) for record in caplog.records] == [fail is broken] * 2


def test_scoring_raises_what_the_segmentation_raises(shared, image, tmp_path, monkeypatch):
    with pytest.raises(NotFoundError, match=r"gone\.nii\.gz: there is no such file"):
        shared.score(tmp_path / "gone.nii.gz")
    monkeypatch.setattr(module, "predict", broken)
    with pytest.raises(RuntimeError, match="broken"):
        shared.score(image)


def test_the_end_of_the_server_is_no_failure_of_the_scores(shared, watch, image, caplog):
    watch.go_on.clear()
    with ThreadPoolExecutor(1) as idle:
        scoring = idle.submit(shared.score, image)
        assert watch.finishing.wait(LONG_S)
        shared.close()
        with pytest.raises(UnavailableError, match="the server is being stopped"):
            scoring.result(LONG_S)
    assert not caplog.messages
