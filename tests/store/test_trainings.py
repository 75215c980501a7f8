import pytest

from lib.errors import NotFoundError
from lib.settings import Settings
from lib.store import events, images, trainings
from lib.store.store import Store
from lib.store.trainings import LOST_S
from tests.store.filled import add_image, label_file


class Clock:
    """The time in seconds since the epoch, to be set by a test."""

    now = 1000.0

    def time(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(trainings, "time", clock)
    return clock


@pytest.fixture
def connection(ledger):
    with ledger.writing() as connection:
        yield connection


def test_of_none(connection):
    assert trainings.last(connection) is None
    assert trainings.running(connection, 0) == trainings.failures(connection, 0) == []
    assert trainings.new_labels(connection) == 0
    with pytest.raises(NotFoundError, match=r"^there is no training 7 in the ledger$"):
        trainings.get(connection, 7)


def test_one_that_a_server_starts(connection, clock):
    number = trainings.claim(connection)
    clock.now = 1020
    assert trainings.begin(connection, number) == number
    clock.now = 1030
    trainings.note_labels(connection, number)
    (goes_on,) = trainings.running(connection, 1030)
    assert (goes_on.by_itself, goes_on.started_at, goes_on.alive_at, goes_on.labels_up_to) == (True, 1000, 1020, 0)
    clock.now = 1040
    assert trainings.end(connection, number, "model m published: better", succeeded=True, version="m", published=True)
    ended = trainings.last(connection)
    assert ended == trainings.get(connection, number)
    assert (ended.ended_at, ended.over_at(9999)) == (1040, 1040)
    assert (ended.succeeded, ended.result, ended.version, ended.published) == (
        True,
        "model m published: better",
        "m",
        True,
    )
    assert trainings.running(connection, 1040) == trainings.failures(connection, 1040) == []
    assert [(event.kind, event.detail) for event in reversed(events.history(connection))] == [
        ("training started", {"training": number, "by_itself": True}),
        ("training ended", {"training": number, "succeeded": True, "result": "model m published: better"}),
    ]


def test_the_first_end_that_is_told_stays(connection, clock):
    number = trainings.begin(connection)
    assert not trainings.get(connection, number).by_itself
    assert trainings.end(connection, number, "it was stopped", succeeded=False)
    before = trainings.get(connection, number)
    clock.now += 5
    assert not trainings.end(connection, number, "another", succeeded=True, version="m", published=True)
    trainings.note_alive(connection, number)
    trainings.note_labels(connection, number)
    assert trainings.get(connection, number) == before
    assert len(events.history(connection)) == 2


def test_one_that_was_given_up_does_not_begin(connection):
    number = trainings.claim(connection)
    trainings.end(connection, number, "it was stopped", succeeded=False)
    for unknown in (number, number + 1):
        with pytest.raises(NotFoundError, match=f"^the training {unknown} has ended already or is unknown to the led"):
            trainings.begin(connection, unknown)


def test_one_that_is_silent_for_long_was_killed(connection, clock):
    number = trainings.begin(connection)
    clock.now += 100
    trainings.note_alive(connection, number)
    assert trainings.running(connection, clock.now + LOST_S - 1)
    assert not trainings.running(connection, clock.now + LOST_S)
    (killed,) = trainings.failures(connection, clock.now + LOST_S)
    assert (killed.id, killed.over_at(clock.now + LOST_S), killed.result) == (number, 1100, None)
    # As one that goes on and was thought to be killed: the machine slept.
    clock.now += 10_000
    trainings.note_alive(connection, number)
    assert [training.id for training in trainings.running(connection, clock.now)] == [number]


def test_a_clock_that_was_set_back_keeps_none_alive(connection, clock):
    trainings.begin(connection)
    assert trainings.running(connection, clock.now - 60)
    assert not trainings.running(connection, clock.now - 86_400)


def test_failures_count_from_the_last_success(connection, clock):
    first, second = trainings.begin(connection), trainings.begin(connection)
    trainings.end(connection, first, "one", succeeded=False)
    trainings.end(connection, second, "two", succeeded=True)
    assert trainings.failures(connection, clock.now) == []
    later = [trainings.begin(connection) for _ in range(3)]
    for number in later[:2]:
        trainings.end(connection, number, "again", succeeded=False)
    assert [training.id for training in trainings.failures(connection, clock.now)] == later[:2]  # the third goes on
    assert trainings.last(connection).id == later[2]


@pytest.fixture
def store(tmp_path, ledger_url):
    """The images a to d, without labels."""
    studies = tmp_path / "studies"
    for seed, name in enumerate("abcd"):
        add_image(studies, name, seed)
    opened = Store(studies, Settings(ledger=ledger_url))
    yield opened
    opened.close()


@pytest.fixture
def save(store, tmp_path):
    seeds = iter(range(1000))
    return lambda image_id, tag="final", **others: store.save(
        image_id, label_file(tmp_path / "sent.nii.gz", next(seeds)), tag, author="anna", **others
    )


def train(store, *, succeeded=True, meanwhile=lambda: None):
    with store.ledger.writing() as connection:
        number = trainings.begin(connection)
        trainings.note_labels(connection, number)
    meanwhile()
    with store.ledger.writing() as connection:
        trainings.end(connection, number, "over", succeeded=succeeded)


def new_labels(store):
    with store.ledger.reading() as connection:
        return trainings.new_labels(connection)


def test_new_labels_are_images_not_saves(store, save):
    save("a")
    save("a")
    save("b")
    assert new_labels(store) == 2
    save("b", "original")
    save("c", "original")
    save("d", source="model")  # nobody has looked at it
    assert new_labels(store) == 2


def test_a_training_that_came_to_its_end_knows_the_labels_of_its_begin(store, save):
    save("a")
    save("b")
    train(store, meanwhile=lambda: save("c"))
    assert new_labels(store) == 1
    save("a")  # corrected once more
    assert new_labels(store) == 2


def test_a_training_that_failed_has_learned_nothing(store, save):
    save("a")
    train(store, succeeded=False)
    assert new_labels(store) == 1
    train(store)
    train(store, succeeded=False)
    assert new_labels(store) == 0


def test_labels_that_no_training_would_use_are_not_new(store, save):
    for name in "abc":
        save(name)
    with store.ledger.writing() as connection:
        images.exclude(connection, "a", "blurred", "eve")
    assert new_labels(store) == 2
    store.labels.forget("b", "final", "label removed", "anna")
    assert new_labels(store) == 1
    (store.layout.studies / "c.nii.gz").unlink()
    store.rescan()
    assert new_labels(store) == 0


def test_other_numbers_for_the_same_classes_are_no_new_labels(store, save):
    save("a")
    train(store)
    swapped = {"liver": {"index": 2}, "tumor": {"index": 1}}
    again = Store(store.layout.studies, Settings.model_validate({"ledger": store.settings.ledger, "labels": swapped}))
    try:
        assert again.labels.history("a", "final")[0].source == "remapped"
        assert new_labels(again) == 0
    finally:
        again.close()
