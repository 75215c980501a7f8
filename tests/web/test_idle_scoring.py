"""A real small network over a real folder; only the clock of the thread is not waited for."""

import logging
import threading
import time

import numpy as np
import pytest
import torch

from lib.activelearning.next_image import next_sample
from lib.activelearning.score_keeper import ScoreKeeper
from lib.case_scores import NO_MODEL
from lib.inference.model import ModelSource, new_network
from lib.inference.shared import SharedSegmenter
from lib.networks.checkpoint import save_weights
from lib.settings import Settings
from lib.store import scores, trainings
from lib.store.store import Store
from lib.volume import Volume
from lib.volume_io import write_image, write_label
from lib.web.idle_scoring import IdleScoring

NAMES = ("a", "b", "c")


class Site:
    """A folder of small CTs, and what a server would score them with."""

    def __init__(self, folder, labelled=()):
        self.settings = Settings.model_validate(
            {
                "network": {"arguments": {"filters": [4, 4, 8, 8, 8]}},
                "inference": {"precision": "float32", "engine": "pytorch"},
                "active_learning": {"strategies": ["entropy"]},
            }
        )
        (folder / "studies").mkdir()
        for seed, name in enumerate(NAMES):
            hu = np.random.default_rng(seed).integers(-1000, 300, (20, 24, 3)).astype(np.int16)
            write_image(folder / "studies" / f"{name}.nii.gz", Volume(hu, np.diag([-1.0, -1.0, 3.0, 1.0])))
        for name in labelled:
            label = Volume(np.ones((20, 24, 3), np.uint8), np.diag([-1.0, -1.0, 3.0, 1.0]))
            write_label(folder / "studies" / "labels" / "final" / f"{name}.nii.gz", label)
        self.source = ModelSource.of_app(self.settings, folder)
        self.publish("v1", folder / "starter.pt")
        self.store = Store(folder / "studies", self.settings)
        self.keeper = ScoreKeeper(self.store, self.settings)
        self.segmenter = SharedSegmenter(self.settings, self.source, self.keeper.watch)
        self.idle = True

    def publish(self, version, path=None):
        torch.manual_seed(0)
        save_weights(path or self.source.published, new_network(self.settings), {"version": version})

    def scoring(self, **options):
        options = {"segment": self.segmenter.score, "is_idle": lambda: self.idle, "enabled": True} | options
        return IdleScoring(self.keeper, self.store.ledger, self.source, counted_s=0, **options)

    def scored(self):
        with self.store.ledger.reading() as connection:
            return {name: one.model_version for name, one in scores.of_images(connection, NAMES).items() if one.scores}

    def close(self):
        self.segmenter.close()
        self.store.close()


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path)
    yield made
    made.close()


def test_one_image_after_the_other_and_again_after_a_publish(site):
    scoring = site.scoring()
    assert scoring.info() == {
        "when_idle": True, "state": "has not begun", "current": 0, "earlier": 0, "waiting": 3,
    }  # fmt: skip
    assert scoring.step() == 0
    assert list(site.scored().values()) == ["v1"]
    assert scoring.info()["state"] == "scoring"
    assert [scoring.step() for _ in range(3)] == [0, 0, 5]
    assert site.scored() == dict.fromkeys(NAMES, "v1")
    assert scoring.info() == {
        "when_idle": True, "state": "every image that is at hand is scored", "current": 3, "earlier": 0, "waiting": 0,
    }  # fmt: skip
    site.publish("v2")
    assert scoring.step() == 0
    assert sorted(site.scored().values()) == ["v1", "v1", "v2"]
    assert {key: scoring.info()[key] for key in ("current", "earlier", "waiting")} == {
        "current": 1, "earlier": 2, "waiting": 2,
    }  # fmt: skip


def test_what_was_labelled_before_is_looked_at_once_in_the_end_so_that_others_can_be_compared_with_it(tmp_path):
    site = Site(tmp_path, labelled=("a",))
    try:
        site.store.take_in()
        scoring = site.scoring()
        assert scoring.info()["waiting"] == 2
        assert [scoring.step() for _ in range(2)] == [0, 0]
        assert site.scored() == {"b": "v1", "c": "v1"}
        assert [scoring.step() for _ in range(2)] == [0, 5]
        assert site.scored() == dict.fromkeys(NAMES, "v1")
        assert scoring.info()["current"] == 2
        with site.store.ledger.reading() as connection:
            assert len(scores.embeddings_of_known(connection, 8 + 25)) == 1
        site.publish("v2")
        assert [scoring.step() for _ in range(3)] == [0, 0, 5]
        assert site.scored() == {"a": "v1", "b": "v2", "c": "v2"}
    finally:
        site.close()


def test_what_was_described_before_the_first_model_and_labelled_is_looked_at_by_a_model_once(site):
    site.source.starter.unlink()
    scoring = site.scoring()
    while scoring.step() == 0:
        pass
    assert site.scored() == dict.fromkeys(NAMES, NO_MODEL)
    label = site.store.layout.studies.parent / "label.nii.gz"
    write_label(label, Volume(np.ones((20, 24, 3), np.uint8), np.diag([-1.0, -1.0, 3.0, 1.0])))
    site.store.labels.save("a", label, "final", author="ann")
    assert scoring.step() == 5
    for version, of_labelled in (("v1", "v1"), ("v2", "v1")):
        site.publish(version)
        while scoring.step() == 0:
            pass
        assert site.scored() == {"a": of_labelled, "b": version, "c": version}
    # Nor when somebody opens it.
    site.segmenter.score(str(site.keeper.path("a")))
    assert site.scored()["a"] == "v1"


def test_others_go_first(site):
    scoring = site.scoring()
    site.idle = False
    assert scoring.step() == 0.5
    assert scoring.info()["state"] == "gives way to other work"
    site.idle = True
    with site.store.ledger.writing() as connection:
        training = trainings.begin(connection)
    assert scoring.step() == 5
    assert scoring.info()["state"] == "waits for the end of a training"
    assert site.scored() == {}
    with site.store.ledger.writing() as connection:
        trainings.end(connection, training, "done", succeeded=True)
    assert scoring.step() == 0
    assert list(site.scored().values()) == ["v1"]


def test_two_servers_seldom_score_the_same(site, monkeypatch):
    taken = []
    monkeypatch.setattr(site.keeper, "score", lambda image_id, *others: taken.append(image_id))
    scoring = site.scoring()
    for _ in range(40):
        scoring.step()
    assert set(taken) == set(NAMES)


def test_an_image_that_can_not_be_scored_is_noted_and_left(site, caplog):
    path = site.store.layout.image("a", ".nii.gz")
    path.write_bytes(path.read_bytes()[:200])
    scoring = site.scoring()
    assert sorted(scoring.step() for _ in range(3)) == [0, 0, 0.5]
    assert scoring.step() == 5
    assert set(site.scored()) == {"b", "c"}
    assert caplog.text.count("not scored: a: a.nii.gz: ") == 1


def test_what_is_in_the_way_is_logged_once_and_told(site, caplog):
    site.source.starter.write_bytes(b"damaged")
    scoring = site.scoring()
    with caplog.at_level(logging.WARNING):
        assert [scoring.look() for _ in range(3)] == [5, 5, 5]
    assert caplog.text.count("no image is scored in the background now: ") == 1
    told = scoring.info()["state"]
    assert told.startswith("can't go on: ")
    assert told.removeprefix("can't go on: ") in caplog.text
    site.publish("v1")
    assert scoring.look() == 0
    assert scoring.info()["state"] == "scoring"


def test_it_ends_with_the_server_and_is_taken_up_again(site):
    begun, go_on = threading.Event(), threading.Event()

    def slowly(path):
        begun.set()
        go_on.wait()
        site.segmenter.score(path)

    scoring = site.scoring(segment=slowly)
    scoring.begin()
    assert begun.wait(60)
    scoring.end()
    site.segmenter.close()
    go_on.set()
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "score-when-idle"]
    thread.join(60)
    assert not thread.is_alive()
    assert site.scored() == {}
    site.segmenter = SharedSegmenter(site.settings, site.source, site.keeper.watch)
    again = site.scoring()
    again.begin()
    end = time.monotonic() + 60
    while len(site.scored()) < len(NAMES) and time.monotonic() < end:
        time.sleep(0.02)
    again.end()
    assert set(site.scored()) == set(NAMES)


def test_where_it_is_off(site):
    off = site.scoring(enabled=False)
    off.begin()
    assert [thread.name for thread in threading.enumerate() if thread.name == "score-when-idle"] == []
    assert off.info() == {"when_idle": False, "state": "off", "current": 0, "earlier": 0, "waiting": 3}
    none = IdleScoring(None, None, site.source, segment=str, is_idle=lambda: True, enabled=True)
    assert none.info() == {"when_idle": False, "state": "off"}
    assert none.step() == 5


def test_without_a_model_images_are_told_apart_by_what_they_look_like(site):
    (site.source.published.parents[1] / "starter.pt").unlink()
    scoring = site.scoring()
    assert [scoring.step() for _ in range(4)] == [0, 0, 0, 5]
    assert scoring.info()["current"] == 3
    assert site.scored() == dict.fromkeys(NAMES, NO_MODEL)
    first = next_sample(site.store, "hybrid", "ann", model_version=None, rng=np.random.default_rng(0))
    assert first.reason == "the most typical of the images looked at; there is none labelled yet to compare them with"
    second = next_sample(site.store, "hybrid", "bob", model_version=None, rng=np.random.default_rng(0))
    assert second.image_id != first.image_id
    assert second.reason.startswith("unlike the one image labelled or in work (distance ")
    site.publish("v1")
    assert [scoring.step() for _ in range(4)] == [0, 0, 0, 5]
    assert site.scored() == dict.fromkeys(NAMES, "v1")
