import time

import pytest
from sqlalchemy import update

from lib.store.events import SERVER, Event, history, record, walk
from lib.store.schema import events as table


def test_what_happened_is_told_newest_first(ledger):
    before = time.time()
    with ledger.writing() as connection:
        record(connection, "image vanished", "case_1")
        record(connection, "label refused", "case_2", "final", actor="anna", detail={"reason": "moved", "n": 1.5})
    with ledger.reading() as connection:
        refused, vanished = history(connection)
    assert refused == Event(
        vanished.id + 1, refused.at, "label refused", "case_2", "final", "anna", {"reason": "moved", "n": 1.5}
    )
    assert vanished == Event(vanished.id, vanished.at, "image vanished", "case_1", None, SERVER, {})
    assert before <= vanished.at <= refused.at <= time.time()


def test_only_of_one_image_only_later_and_only_so_many(ledger):
    with ledger.writing() as connection:
        for number in range(30):
            record(connection, f"kind {number}", f"case_{number % 3}")
        everything = history(connection)
        assert [event.kind for event in everything] == [f"kind {number}" for number in reversed(range(30))]
        assert history(connection, limit=4) == everything[:4]
        assert history(connection, after=everything[5].id) == everything[:5]
        assert history(connection, "case_1") == [event for event in everything if event.image_id == "case_1"]
        assert history(connection, "case_1", after=everything[9].id, limit=2) == [everything[1], everything[4]]
        assert history(connection, "unknown") == []
        assert history(connection, after=everything[0].id) == []


def test_an_event_of_no_image_is_of_none(ledger):
    with ledger.writing() as connection:
        record(connection, "folder looked through")
        (event,) = history(connection)
    assert (event.image_id, event.tag) == (None, None)


def test_ids_count_up_also_after_one_was_undone(ledger):
    def fail_after_noting():
        with ledger.writing() as connection:
            record(connection, "never happened")
            raise KeyError("unrelated")

    with ledger.writing() as connection:
        record(connection, "first")
    with pytest.raises(KeyError, match="unrelated"):
        fail_after_noting()
    with ledger.writing() as connection:
        record(connection, "second")
    with ledger.reading() as connection:
        second, first = history(connection)
    assert (first.kind, second.kind) == ("first", "second")
    assert second.id > first.id


def test_what_was_passed_can_be_changed_afterwards(ledger):
    detail = {"reason": "moved"}
    with ledger.writing() as connection:
        record(connection, "label refused", detail=detail)
        detail["reason"] = "other"
        (event,) = history(connection)
    assert event.detail == {"reason": "moved"}


def test_everything_oldest_first_however_much(ledger):
    with ledger.writing() as connection:
        for number in range(2500):
            record(connection, f"kind {number}")
    with ledger.reading() as connection:
        assert [event.kind for event in walk(connection)] == [f"kind {number}" for number in range(2500)]


def test_what_one_user_did_or_what_was_done_about_them(ledger):
    with ledger.writing() as connection:
        record(connection, "login failed", detail={"user": "Jürgen", "from": "10.0.0.1"})
        record(connection, "lease taken", "case_1", actor="jürgen")
        record(connection, "user added", actor="root", detail={"user": "jürgen.2"})
        record(connection, "login failed", detail={"user": None})
        record(connection, "odd", actor="x", detail={"user": ["Jürgen"]})
    with ledger.reading() as connection:
        for spelling in ("Jürgen", "JÜRGEN", "ju\u0308rgen"):
            found = list(walk(connection, user=spelling))
            assert [event.kind for event in found] == ["login failed", "lease taken"]
        assert [event.kind for event in walk(connection, user="root")] == ["user added"]
        assert list(walk(connection, user="nobody")) == []
        assert [event.actor for event in walk(connection, kind="login failed", user="jürgen")] == [SERVER]


def test_of_a_time(ledger):
    with ledger.writing() as connection:
        for number in range(5):
            record(connection, str(number))
        for event in history(connection):
            connection.execute(update(table).where(table.c.id == event.id).values(at=float(event.kind)))
    with ledger.reading() as connection:
        assert [event.kind for event in walk(connection, since=1.0, before=3.0)] == ["1", "2"]
        assert [event.kind for event in walk(connection, since=4.0)] == ["4"]
        assert [event.kind for event in walk(connection, before=1.0)] == ["0"]
        assert list(walk(connection, since=3.0, before=3.0)) == []
