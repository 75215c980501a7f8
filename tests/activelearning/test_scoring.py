import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.activelearning.quality import SENTENCES
from lib.activelearning.score_keeper import ScoreKeeper
from lib.activelearning.strategies import STRATEGIES
from lib.activelearning.tasks import DiceScoring, ScoresScoring, StrategyTask
from lib.activelearning.told import told
from lib.case_scores import CaseScores
from lib.errors import BadInputError, NotFoundError, StorageError, UnavailableError
from lib.inference.model import ModelSource, new_network
from lib.labels import NOT_LOOKED_AT
from lib.networks.checkpoint import save_weights
from lib.settings import Settings
from lib.store import images, leases, scores
from lib.store.images import FileState
from lib.volume import Volume
from lib.volume_io import write_image, write_label

AFFINE = np.diag([-1.0, -1.0, 3.0, 1.0])
CPU = torch.device("cpu")


class Studies:
    """As much of MONAI Label's datastore as scoring and strategies use."""

    def __init__(self, folder, unlabelled=(), labels=None):
        self.folder, self.unlabelled, self.labels = folder, list(unlabelled), labels or {}
        self.info = {}

    def list_images(self):
        return [*self.unlabelled, *self.labels]

    def get_unlabeled_images(self, label_tag=None, labels=None):
        return self.unlabelled

    def get_image_uri(self, image_id):
        return str(self.folder / f"{image_id}.nii.gz")

    def get_label_uri(self, image_id, tag):
        return self.labels.get(image_id, {}).get(tag, "")

    def get_image_info(self, image_id):
        return self.info.get(image_id, {})

    def update_image_info(self, image_id, info):
        self.info.setdefault(image_id, {}).update(info)


@pytest.fixture
def settings():
    return Settings.model_validate(
        {
            "network": {"arguments": {"filters": [4, 4, 8, 8, 8]}},
            "inference": {"precision": "float32", "engine": "pytorch"},
            "active_learning": {"dropout_passes": 2, "slices_per_score": 2},
        }
    )


@pytest.fixture
def source(settings, tmp_path):
    torch.manual_seed(0)
    save_weights(tmp_path / "starter.pt", new_network(settings), {"version": "v1"})
    return ModelSource.of_app(settings, tmp_path)


@pytest.fixture
def pool(tmp_path):
    """Two images and one that is no CT."""
    for seed, name in enumerate(("a", "b")):
        hu = np.random.default_rng(seed).integers(-1000, 300, (20, 24, 4)).astype(np.int16)
        write_image(tmp_path / f"{name}.nii.gz", Volume(hu, AFFINE))
    (tmp_path / "broken.nii.gz").write_bytes(b"no")
    return Studies(tmp_path, ["b", "broken", "a"])


def test_an_image_just_handed_out_does_not_come_back_at_once(source, pool):
    pool.info = {name: {"strategy": {"x": {"ts": 100}, "y": {"ts": ts}}} for name, ts in (("a", 5), ("broken", 200))}
    assert StrategyTask("random", source)({}, pool)["id"] == "b"
    pool.info["b"] = {"strategy": {"x": {"ts": 150}}}
    assert StrategyTask("random", source)({}, pool)["id"] == "a"


def test_no_image_left(source, tmp_path):
    assert StrategyTask("first", source)({}, Studies(tmp_path)) is None


def test_without_a_ledger_there_are_no_labels_to_review(source, pool):
    with pytest.raises(BadInputError) as caught:
        StrategyTask("review", source)({}, pool)
    assert str(caught.value) == (
        "the strategy review needs a ledger, which keeps versions of labels; this datastore has none"
    )


def test_without_a_ledger_there_are_no_scores(settings, source, pool):
    for name in set(STRATEGIES) - {"random", "first", "review"}:
        with pytest.raises(BadInputError) as caught:
            StrategyTask(name, source)({}, pool)
        assert str(caught.value) == (f"the strategy {name} needs a ledger, which keeps scores; this datastore has none")
    with pytest.raises(BadInputError, match="scores are kept in a ledger; this datastore has none"):
        ScoresScoring(settings, source)({}, pool)


def test_notes_of_any_kind_do_no_harm(source, pool):
    pool.info = {"a": {"strategy": [1]}, "b": {"strategy": {"x": 1}}}
    for name in ("first", "random"):
        assert StrategyTask(name, source)({}, pool)["id"] in {"a", "b", "broken"}


class Folder(Studies):
    """A studies folder with a ledger, behind MONAI Label's interface."""

    def __init__(self, store, folder):
        super().__init__(folder)
        self.store = store

    def get_unlabeled_images(self, label_tag=None, labels=None):
        raise AssertionError("a list of a million images is asked for")


@pytest.fixture
def folder(studies, pool, tmp_path):
    studies.register("a", "b", "broken", "excluded")
    with studies.ledger.writing() as connection:
        images.exclude(connection, "excluded", "test set", "me")
    return Folder(studies, tmp_path)


def test_an_image_of_a_folder_is_leased(folder, source):
    strategy = StrategyTask("first", source)
    answer = strategy({"client_id": "anna"}, folder)
    lease = answer.pop("lease")
    assert answer == {
        "id": "a", "reason": "first unlabelled image by name", "score": None, "strategy": "first", "slices": [],
        "flags": [], "campaign": {"labelled": 0, "planned": 100, "left": 100, "model_version": "v1"},
    }  # fmt: skip
    assert (lease["client_id"], lease["image_id"]) == ("anna", "a")
    assert strategy({"client_id": "anna"}, folder)["id"] == "a"
    assert strategy({"client_id": "anna", "skip": True}, folder)["id"] == "b"
    assert strategy({}, folder)["lease"]["client_id"] == "anonymous"
    assert strategy({"client_id": "anna", "skip": True}, folder)["id"] == "a"


def test_an_app_without_weights_hands_out_images(folder, settings, tmp_path):
    source = ModelSource.of_app(settings, tmp_path / "no app")
    assert StrategyTask("hybrid", source)({}, folder)["id"] in {"a", "b", "broken"}


def test_scores_of_a_folder_go_where_strategies_look(folder, settings, source, caplog):
    scoring = ScoresScoring(settings, source)
    with caplog.at_level(logging.INFO):
        outcome = scoring({}, folder)
    assert set(outcome) == {"a", "b", "broken"}
    assert outcome["broken"]["error"].startswith("broken.nii.gz: ")
    assert "scored 3 of 3: broken" in caplog.text
    with folder.store.ledger.reading() as connection:
        noted = scores.of_images(connection, ["a", "b", "excluded"])
        assert scores.counts(connection, "v1") == scores.Counts(current=2, earlier=0, none=0)
    assert set(noted) == {"a", "b"}
    for name, one in noted.items():
        assert (one.model_version, one.scores.entropy) == ("v1", outcome[name]["entropy"])
        assert one.scores.bald == outcome[name]["bald"] >= 0
        assert one.scores.embedding.any()
    answer = StrategyTask("entropy", source)({"client_id": "anna"}, folder)
    best = max("ab", key=lambda name: outcome[name]["entropy"])
    assert (answer["id"], answer["score"]) == (best, outcome[best]["entropy"])
    assert answer["slices"] == [
        {"label": span.label, "first": span.first, "last": span.last} for span in noted[best].scores.spans
    ]
    assert answer["flags"] == [SENTENCES[flag] for flag in noted[best].scores.flags]
    assert StrategyTask("entropy", source)({"client_id": "anna"}, folder) | {"lease": 0} == answer | {"lease": 0}
    with folder.store.ledger.reading() as connection:
        lease = leases.of_image(connection, best)
    assert answer["flags"]
    assert told(folder.store, replace(lease, strategy="review"), "v1")["flags"] == []  # its label is not the model's
    assert "scored 2 images, 1 could not be; no other waits" in caplog.text
    assert scoring({}, folder) == {}
    save_weights(source.published, new_network(settings), {"version": "v2"})
    assert set(scoring({}, folder)) == {"a", "b"}


@pytest.fixture
def keeper(folder, settings):
    return ScoreKeeper(folder.store, settings)


def test_only_images_that_wait_for_this_model_are_watched(keeper, folder, source, tmp_path):
    image, model = Volume(np.zeros((20, 24, 4), np.int16), AFFINE), source.get(torch.device("cpu"))

    def watches(path):
        return keeper.watch(str(path), image, model) is not None

    assert watches(tmp_path / "a.nii.gz")
    assert not watches(tmp_path / "excluded.nii.gz")
    assert not watches(tmp_path / "unknown.nii.gz")
    assert not watches(tmp_path / "sent" / "a.nii.gz")
    with folder.store.ledger.writing() as connection:
        scores.note(connection, "a", "v1", CaseScores(0.1, {"tumor": 0.1}))
        scores.note(connection, "b", "v0", CaseScores(0.1, {"tumor": 0.1}))
    assert not watches(tmp_path / "a.nii.gz")
    assert watches(tmp_path / "b.nii.gz")


def watched(keeper, source):
    """A segmenter whose observer never gets to its end."""
    return lambda path: keeper.watch(path, Volume(np.zeros((20, 24, 4), np.int16), AFFINE), source.get(CPU))


def test_an_image_that_gives_no_scores_is_not_tried_again(keeper, folder, source, tmp_path):
    def fail(path):
        raise MemoryError("too large")

    path = keeper.path("a")
    assert path == tmp_path / "a.nii.gz"
    assert keeper.waiting("v1", at_hand=True) == ["a", "b", "broken"]
    assert keeper.score("a", path, "v1", fail) == "MemoryError: too large"
    problem = keeper.score("b", keeper.path("b"), "v1", watched(keeper, source))
    assert problem == "no scores came of its segmentation; the log says why"
    assert keeper.waiting("v1") == ["broken"]
    assert keeper.waiting("v2") == ["broken", "a", "b"]
    with folder.store.ledger.reading() as connection:
        assert scores.of_images(connection, ["a"])["a"].problem == "MemoryError: too large"


def test_what_another_model_scored_meanwhile_stays(keeper, folder):
    def publish(path):
        with folder.store.ledger.writing() as connection:
            scores.note(connection, "a", "v2", CaseScores(0.1, {"tumor": 0.1}))

    assert keeper.score("a", keeper.path("a"), "v1", publish) is None
    with folder.store.ledger.reading() as connection:
        assert scores.of_images(connection, ["a"])["a"].model_version == "v2"


def test_what_a_newer_model_scored_before_stays(keeper, folder, source):
    """This server has not noticed yet that another has published it."""
    with folder.store.ledger.writing() as connection:
        scores.note(connection, "a", "v1", CaseScores(0.1, {"tumor": 0.1}))
    assert keeper.score("a", keeper.path("a"), "v0", watched(keeper, source)) is None
    with folder.store.ledger.reading() as connection:
        assert scores.of_images(connection, ["a"])["a"].scores.entropy == 0.1


def observed(keeper, source, meanwhile):
    """A segmenter of an image to which something happens while it is segmented."""

    def segment(path):
        observer = keeper.watch(path, Volume(np.zeros((20, 24, 4), np.int16), AFFINE), source.get(CPU))
        meanwhile(Path(path))
        observer.finished(np.zeros((4, 24, 20), np.uint8), 0, lambda: None)

    return segment


def test_scores_of_what_was_replaced_meanwhile_are_dropped(keeper, folder, source):
    def change(path):
        with folder.store.ledger.writing() as connection:
            images.note_changed(connection, "a", FileState(".nii.gz", 2, 2))

    assert keeper.score("a", keeper.path("a"), "v1", observed(keeper, source, change)) is None
    assert keeper.waiting("v1") == ["a", "b", "broken"]
    assert keeper.score("a", keeper.path("a"), "v1", observed(keeper, source, str)) is None
    assert keeper.waiting("v1") == ["b", "broken"]


def test_what_is_only_out_of_reach_blames_no_image(keeper, folder, source, monkeypatch, caplog):
    def full(*arguments):
        raise StorageError("the disk is full")

    def gone(path):
        raise NotFoundError("there is no file a.nii.gz")

    with monkeypatch.context() as patched:
        patched.setattr(scores, "note", full)
        assert keeper.score("a", keeper.path("a"), "v1", observed(keeper, source, str)) == "the disk is full"
    assert "the scores of a are not kept: the disk is full" in caplog.text
    assert keeper.score("a", keeper.path("a"), "v1", gone) == "there is no file a.nii.gz"
    assert keeper.waiting("v1") == ["a", "b", "broken"]


def test_a_server_that_stops_blames_no_image(keeper):
    def stop(path):
        raise UnavailableError("the server is being stopped")

    with pytest.raises(UnavailableError):
        keeper.score("a", keeper.path("a"), "v1", stop)
    assert keeper.waiting("v1") == ["a", "b", "broken"]


def label_file(path, *boxes, shape=(10, 10, 4)):
    label = np.zeros(shape, np.uint8)
    for value, start, stop in boxes:
        label[start:stop, :5] = value
    write_label(path, Volume(label, AFFINE))
    return str(path)


@pytest.fixture
def labelled(tmp_path):
    same = ((1, 0, 8), (2, 2, 4))
    return Studies(
        tmp_path,
        ["waiting"],
        {
            "same": {tag: label_file(tmp_path / f"same-{tag}.nii.gz", *same) for tag in ("final", "original")},
            "other": {
                "final": label_file(tmp_path / "other-final.nii.gz", (1, 0, 8), (2, 0, 4)),  # 4 rows each
                "original": label_file(tmp_path / "other-original.nii.gz", (1, 0, 6), (2, 3, 5)),  # liver 4, tumor 2
            },
            "healthy": {
                tag: label_file(tmp_path / f"healthy-{tag}.nii.gz", (1, 0, 5)) for tag in ("final", "original")
            },
            "only": {"final": label_file(tmp_path / "only.nii.gz", (1, 0, 8))},
            "moved": {
                "final": label_file(tmp_path / "moved-final.nii.gz", (1, 0, 8)),
                "original": label_file(tmp_path / "moved-original.nii.gz", (1, 0, 8), shape=(10, 10, 5)),
            },
        },
    )


def test_dice_per_class_by_name(settings, labelled, caplog):
    with caplog.at_level(logging.WARNING):
        scores = DiceScoring(settings)({}, labelled)
    assert set(scores) == {"same", "other", "healthy"}
    assert scores["same"] == {"liver": 1, "tumor": 1}
    # final: tumor rows 0-3, liver rows 4-7; original: tumor rows 3-4, liver rows 0-2 and 5
    assert scores["other"] == pytest.approx({"liver": 2 * 1 / (4 + 4), "tumor": 2 * 1 / (4 + 2)})
    assert scores["healthy"]["liver"] == 1
    assert labelled.info["other"]["dice"] == scores["other"]
    assert "no Dice for moved: " in caplog.text


def test_dice_of_what_was_looked_at(settings, labelled, tmp_path):
    final = label_file(tmp_path / "partly.nii.gz", (1, 0, 8), (NOT_LOOKED_AT, 0, 4))
    labelled.labels["other"]["final"] = final
    # final: liver rows 4-7; original: of tumor rows 3-4 and liver rows 0-2 and 5 those from 4 on
    assert DiceScoring(settings)({}, labelled)["other"] == pytest.approx({"liver": 2 * 1 / (4 + 1), "tumor": 0})


def test_dice_of_other_tags(settings, labelled):
    scores = DiceScoring(settings)({"y": "original", "y_pred": "final"}, labelled)
    assert scores["other"]["tumor"] == pytest.approx(1 / 3)
    assert DiceScoring(settings)({"y_pred": "user_1"}, labelled) == {}
