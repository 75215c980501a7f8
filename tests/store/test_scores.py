"""What is kept of scores, and what is scored next."""

import math
from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import func, insert, select, update

from lib.case_scores import NO_MODEL, CaseScores, Span
from lib.errors import BadInputError
from lib.store import images, leases, scores
from lib.store.images import FileState
from lib.store.schema import images as images_table
from lib.store.schema import rankings as rankings_table
from lib.store.schema import versions as versions_table
from lib.store.scores import Counts

STATE = FileState(".nii.gz", 1, 1)
FOUND = CaseScores(
    entropy=0.25,
    classes={"liver": 0.5, "tumor": 0.125},
    bald=0.0625,
    ml={"liver": 1500.0, "tumor": 2.5},
    lesions=2,
    first_slice=7,
    slices={"liver": (1.0, 2.5), "tumor": (0.0, 0.5)},
    spans=(Span("tumor", 8, 8, 1.0),),
    flags=("dark",),
    embedding=np.array([0.6, 0.0, 0.8], np.float32),
)


@pytest.fixture
def connection(undone):
    images.register(undone, [(name, STATE) for name in "abcde"])
    return undone


def note(connection, image_id, version="v1", **changed):
    scores.note(connection, image_id, version, replace(FOUND, **changed))


def ranked(connection, image_id):
    query = select(rankings_table.c.kind, rankings_table.c.value).where(rankings_table.c.image_id == image_id)
    return dict(connection.execute(query).tuples().all())


def save_final(connection, image_id, number=1):
    row = {
        "image_id": image_id, "tag": "final", "number": number, "file": f"{image_id}{number}", "size": 1, "sha256": "",
        "author": "x", "source": "client", "saved_at": 1.0, "info": {},
    }  # fmt: skip
    connection.execute(insert(versions_table).values(row))


def test_what_is_kept_comes_back(connection):
    scores.note(connection, "a", "v1", FOUND, seconds=1.5)
    kept = scores.of_images(connection, ["a", "b", "unheard of"])
    assert kept.keys() == {"a"}
    assert kept["a"].scores == FOUND
    np.testing.assert_allclose(kept["a"].scores.embedding, FOUND.embedding, atol=5e-4)
    assert (kept["a"].model_version, kept["a"].seconds, kept["a"].problem) == ("v1", 1.5, None)
    brief = scores.of_images(connection, ["a"], profile=False)["a"].scores
    assert brief == replace(FOUND, slices={}, first_slice=0)


def test_by_what_an_image_is_found(connection):
    note(connection, "a")
    place = connection.scalar(select(images_table.c.shuffle).where(images_table.c.image_id == "a"))
    every = {"entropy": 0.25, "bald": 0.0625, "class:liver": 0.5, "class:tumor": 0.125, "foreground": place}
    assert ranked(connection, "a") == every
    note(connection, "a", bald=None, classes={"spleen": 1.0}, ml={"spleen": 0.0})
    assert ranked(connection, "a") == {"entropy": 0.25, "class:spleen": 1.0}
    assert scores.of_images(connection, ["a"])["a"].scores.classes == {"spleen": 1.0}


def test_what_cannot_be_scored_is_not_tried_again_by_the_same_model(connection):
    note(connection, "a", "v0")
    scores.note_problem(connection, "a", "v1", "one of its slices is missing", 0.5)
    kept = scores.of_images(connection, ["a"])["a"]
    assert (kept.scores, kept.problem, kept.model_version) == (None, "one of its slices is missing", "v1")
    assert ranked(connection, "a") == {}
    assert "a" not in scores.waiting(connection, "v1")
    assert scores.waiting(connection, "v2")[-1] == "a"


def test_other_content_is_to_be_scored_anew(connection):
    note(connection, "a")
    images.note_touched(connection, "a", FileState(".nii.gz", 1, 2))
    assert "a" in scores.of_images(connection, ["a"])
    images.note_changed(connection, "a", FileState(".nii.gz", 2, 3))
    assert scores.of_images(connection, ["a"]) == {}
    assert ranked(connection, "a") == {}
    assert "a" in scores.waiting(connection, "v1")


def test_scores_of_an_image_that_is_not_known_are_not_kept(connection):
    note(connection, "unheard of")
    assert scores.of_images(connection, ["unheard of"]) == {}
    assert ranked(connection, "unheard of") == {}


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_scores_are_finite(connection, wrong):
    with pytest.raises(BadInputError, match="a value can't be stored"):
        note(connection, "a", entropy=wrong)


def test_first_what_was_never_scored_then_the_oldest_scores_of_other_models(connection, monkeypatch):
    times = iter((50.0, 40.0, 30.0, 20.0))
    monkeypatch.setattr(scores.time, "time", lambda: next(times))
    for name, version in (("e", "v1"), ("d", "v3"), ("c", "v1"), ("b", "v2")):
        note(connection, name, version)
    assert scores.waiting(connection, "v2") == ["a", "c", "d", "e"]
    assert scores.waiting(connection, "v1") == ["a", "b", "d"]
    assert scores.waiting(connection, "v9") == ["a", "b", "c", "d", "e"]
    assert scores.waiting(connection, "v2", 3) == ["a", "c", "d"]
    assert scores.waiting(connection, "v2", 1) == ["a"]
    assert scores.counts(connection, "v1") == Counts(2, 2, 1)
    assert scores.counts(connection, None) == Counts(0, 4, 1)
    monkeypatch.undo()
    images.exclude(connection, "a", "why", "me")
    images.note_vanished(connection, ["c"])
    assert scores.waiting(connection, "v2") == ["d", "e"]
    assert scores.counts(connection, "v2") == Counts(1, 2, 0)
    images.include(connection, "a", "why", "me")
    images.note_changed(connection, "c", STATE)
    assert scores.waiting(connection, "v2") == ["a", "c", "d", "e"]


def test_of_a_pacs_only_what_was_fetched(connection):
    for name in ("a", "c"):
        images.note_touched(connection, name, replace(STATE, size=0))
    for name in ("c", "d"):
        note(connection, name, "v0")
    assert scores.waiting(connection, "v1") == ["a", "b", "e", "c", "d"]
    assert scores.waiting(connection, "v1", fetched=True) == ["b", "e", "d"]


def test_embeddings_of_what_is_labelled_or_in_hands(connection):
    assert scores.embeddings_of_known(connection, 3).shape == (0, 3)
    for place, name in enumerate("abcd"):
        note(connection, name, "v0" if name == "a" else "v1", embedding=np.full(3, place, np.float32))
    note(connection, "e", embedding=None)
    for number in (1, 2):
        save_final(connection, "a", number)
    for name in ("b", "e"):
        save_final(connection, name)
    leases.acquire(connection, "c", "anna", strategy="first", reason="", score=None, seconds=60)
    known = scores.embeddings_of_known(connection, 3)
    assert known.dtype == np.float32
    assert sorted(known.tolist()) == [[0.0] * 3, [1.0] * 3, [2.0] * 3]
    assert sorted(scores.embeddings_of_known(connection, 3, limit=2).tolist()) == [[1.0] * 3, [2.0] * 3]


def test_labelled_images_that_no_model_has_seen(connection):
    images.register(connection, [(name, STATE) for name in ("gone", "unfit")])
    for name in (*"abcd", "gone", "unfit"):
        save_final(connection, name)
    note(connection, "b")
    images.exclude(connection, "c", "why", "anna")
    images.note_vanished(connection, ["gone"])
    images.note_problem(connection, "unfit", "no CT")
    assert scores.never_seen(connection, "v1") == ["a", "d"]
    assert scores.never_seen(connection, "v1", 1) == ["a"]
    connection.execute(update(images_table).where(images_table.c.image_id == "d").values(size=0))  # not fetched yet
    assert scores.never_seen(connection, "v1", fetched=True) == ["a"]


def test_what_was_described_without_a_model_or_scored_in_vain_is_not_seen(connection):
    for name in "ab":
        save_final(connection, name)
    note(connection, "a", NO_MODEL)
    assert scores.never_seen(connection, NO_MODEL) == ["b"]
    assert scores.never_seen(connection, "v1") == ["a", "b"]
    scores.note_problem(connection, "a", "v1", "it can't be read")
    note(connection, "b", "v1")
    assert scores.never_seen(connection, "v1") == []
    assert scores.never_seen(connection, "v2") == ["a"]


def test_only_embeddings_that_can_be_compared(connection):
    for name, version, size in (("a", "v0", 2), ("b", "v0", 2), ("c", "v1", 3), ("d", "v1", 3)):
        note(connection, name, version, embedding=np.ones(size, np.float32))
    for name in "abc":
        save_final(connection, name)
    assert [scores.embeddings_of_known(connection, length).shape for length in (2, 3, 4)] == [(2, 2), (1, 3), (0, 4)]


def test_what_was_handed_out_and_put_back_is_not_fresh(connection):
    """Neither as handing out notes it, nor when it is reckoned anew."""
    note(connection, "a")
    for again in (False, True):
        leases.acquire(connection, "a", "anna", strategy="first", reason="", score=None, seconds=60)
        leases.free(connection, "a", actor="anna", why="skipped")
        if again:
            images.reckon(connection, ["a"])
        assert not any(connection.scalars(select(rankings_table.c.fresh).where(rankings_table.c.image_id == "a")))


def test_nothing_is_left_of_what_is_forgotten(connection):
    note(connection, "a")
    scores.forget(connection, ["a", "b"])
    assert connection.scalar(select(func.count()).select_from(rankings_table)) == 0
    assert scores.counts(connection, "v1") == Counts(0, 0, 5)
