import logging
import threading

import pytest

from lib.errors import BadInputError, NotFoundError, StorageError
from lib.settings import Settings
from lib.store import trainings
from lib.store.store import Store
from lib.training import recording
from lib.training.recording import recorded

OUTCOME = {"version": "m", "published": True, "reason": "better"}


@pytest.fixture
def store(tmp_path, make_files):
    """A studies folder with two labelled cases, which nobody has looked at yet."""
    studies = tmp_path / "studies"
    for seed, name in enumerate("ab"):
        make_files(studies, name, seed)
    opened = Store(studies, Settings())
    yield opened
    opened.close()


def last(store):
    with store.ledger.reading() as connection:
        return trainings.last(connection)


def new_labels(store):
    with store.ledger.reading() as connection:
        return trainings.new_labels(connection)


def test_labels_that_lie_in_the_folder_are_learned_from(store):
    assert new_labels(store) == 0  # not read yet
    with recorded(store, None) as outcome:
        assert new_labels(store) == 2
        assert (last(store).by_itself, last(store).ended_at) == (False, None)
        outcome.update(OUTCOME)
    assert new_labels(store) == 0
    ended = last(store)
    assert (ended.succeeded, ended.result, ended.version, ended.published) == (
        True,
        "model m published: better",
        "m",
        True,
    )


def test_a_label_that_is_saved_meanwhile_is_new(store, make_files, tmp_path):
    with recorded(store, None) as outcome:
        sent = make_files(tmp_path / "sent", "a", 7).label
        store.save("a", sent, "final", author="anna")
        outcome.update(OUTCOME | {"published": False, "reason": "not better"})
    assert new_labels(store) == 1
    assert last(store).result == "model m kept, not published: not better"
    assert last(store).published is False


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (BadInputError("the disk has 3.0 GB free\nand the training needs 12.0 GB"),
         "the disk has 3.0 GB free and the training needs 12.0 GB"),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
        (MemoryError(), "MemoryError"),
        (KeyboardInterrupt(), "it was interrupted"),
    ],
)  # fmt: skip
def test_why_it_failed(store, error, result):
    with pytest.raises(type(error)), recorded(store, None):
        raise error
    ended = last(store)
    assert (ended.succeeded, ended.result, ended.version, ended.published) == (False, result, None, None)
    assert new_labels(store) == 2


def test_the_number_of_the_server_that_starts_it(store):
    with store.ledger.writing() as connection:
        number = trainings.claim(connection)
    with recorded(store, number) as outcome:
        outcome.update(OUTCOME)
    assert (last(store).id, last(store).by_itself, last(store).succeeded) == (number, True, True)
    with pytest.raises(NotFoundError, match=f"the training {number} has ended already"), recorded(store, number):
        raise AssertionError


def test_it_says_that_it_goes_on(store, monkeypatch):
    monkeypatch.setattr(recording, "_EVERY_S", 0.01)
    with recorded(store, None) as outcome:
        begun = last(store).alive_at
        for _ in range(500):
            if last(store).alive_at > begun:
                break
            threading.Event().wait(0.01)
        assert last(store).alive_at > begun
        outcome.update(OUTCOME)
    assert "training-goes-on" not in {thread.name for thread in threading.enumerate()}


def test_a_ledger_that_refuses_the_end_takes_no_model_away(store, monkeypatch, caplog):
    def refuse(*_, **__):
        msg = "the disk is full"
        raise StorageError(msg)

    monkeypatch.setattr(trainings, "end", refuse)
    with caplog.at_level(logging.WARNING), recorded(store, None) as outcome:
        outcome.update(OUTCOME)
    assert "the end of training 1 is not in the ledger: the disk is full" in caplog.text
