import logging

import numpy as np
import pytest
import torch

from lib.activelearning import tasks
from lib.activelearning.tasks import DiceScoring, StrategyTask, UncertaintyScoring
from lib.errors import BadInputError
from lib.inference.model import ModelSource, new_network
from lib.labels import NOT_LOOKED_AT
from lib.networks.checkpoint import save_weights
from lib.settings import Settings
from lib.store import images
from lib.volume import Volume
from lib.volume_io import write_image, write_label

AFFINE = np.diag([-1.0, -1.0, 3.0, 1.0])


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
            "inference": {"precision": "float32"},
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


def test_uncertainty_is_stored_with_the_version_that_made_it(settings, source, pool, caplog):
    scoring = UncertaintyScoring(settings, source)
    with caplog.at_level(logging.WARNING):
        scores = scoring({"device": ["cpu"]}, pool)
    assert set(scores) == {"a", "b"}
    assert all(value >= 0 for value in scores.values())
    assert "not scored: broken.nii.gz" in caplog.text
    stored = pool.info["a"]["uncertainty"]
    assert (stored["score"], stored["model_version"]) == (scores["a"], "v1")
    assert stored["ts"] > 0


def test_an_image_is_scored_once_per_version(settings, source, pool):
    scoring = UncertaintyScoring(settings, source)
    scoring({"device": "cpu"}, pool)
    assert scoring({"device": "cpu"}, pool) == {}
    save_weights(source.published, new_network(settings), {"version": "v2"})
    assert set(scoring({"device": "cpu"}, pool)) == {"a", "b"}
    assert pool.info["b"]["uncertainty"]["model_version"] == "v2"


def test_strategies_use_scores_of_the_model_in_force_only(source, pool):
    pool.info = {
        "a": {"uncertainty": {"score": 0.9, "model_version": "old"}},
        "b": {"uncertainty": {"score": 0.1, "model_version": "v1"}},
    }
    answer = StrategyTask("uncertainty", source)({}, pool)
    assert answer == {
        "id": "b", "score": 0.1,
        "reason": "of the scored images, the model is least sure of this one (score 0.1000)",
    }  # fmt: skip


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


def test_notes_of_any_kind_do_no_harm(settings, source, pool):
    pool.info = {"a": {"uncertainty": 5, "strategy": [1]}, "b": {"uncertainty": {"score": "x"}, "strategy": {"x": 1}}}
    for name in ("first", "random", "uncertainty"):
        assert StrategyTask(name, source)({}, pool)["id"] in {"a", "b", "broken"}
    assert set(UncertaintyScoring(settings, source)({"device": "cpu"}, pool)) == {"a", "b"}


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
    assert answer == {"id": "a", "reason": "first unlabelled image by name", "score": None, "strategy": "first"}
    assert (lease["client_id"], lease["image_id"]) == ("anna", "a")
    assert strategy({"client_id": "anna"}, folder)["id"] == "a"
    assert strategy({"client_id": "anna", "skip": True}, folder)["id"] == "b"
    assert strategy({}, folder)["lease"]["client_id"] == "anonymous"
    assert strategy({"client_id": "anna", "skip": True}, folder)["id"] == "a"


def test_an_app_without_weights_hands_out_images(folder, settings, tmp_path):
    source = ModelSource.of_app(settings, tmp_path / "no app")
    assert StrategyTask("uncertainty", source)({}, folder)["id"] in {"a", "b", "broken"}


def test_scores_of_a_folder_go_where_strategies_look(folder, settings, source):
    scoring = UncertaintyScoring(settings, source)
    scores = scoring({"device": "cpu"}, folder)
    assert set(scores) == {"a", "b"}
    with folder.store.ledger.reading() as connection:
        noted = images.get(connection, "a").info["uncertainty"]
    assert (noted["score"], noted["model_version"]) == (scores["a"], "v1")
    answer = StrategyTask("uncertainty", source)({"client_id": "anna"}, folder)
    best = max(scores, key=lambda name: scores[name])
    assert (answer["id"], answer["score"]) == (best, scores[best])
    assert scoring({"device": "cpu"}, folder) == {}
    save_weights(source.published, new_network(settings), {"version": "v2"})
    assert set(scoring({"device": "cpu"}, folder)) == {"a", "b"}


def test_what_a_client_notes_is_no_score(folder, settings, source):
    with folder.store.ledger.writing() as connection:
        images.note_info(connection, "a", {"uncertainty": 5})
    assert StrategyTask("uncertainty", source)({"client_id": "anna"}, folder)["score"] is None
    assert set(UncertaintyScoring(settings, source)({"device": "cpu"}, folder)) == {"a", "b"}


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


def test_devices_in_requests():
    assert [tasks._device({"device": value}) for value in ("cpu", ["cuda", "cpu"], [], None, "")] == [
        "cpu", "cuda", None, None, None,
    ]  # fmt: skip
    assert tasks._device({}) is None
