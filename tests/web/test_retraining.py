"""Retraining without a server: MONAI Label's background task is a dict, and nobody waits for a thread."""

import json
import logging
import threading
from datetime import datetime

import pytest
from fastapi import HTTPException
from monailabel.utils.async_tasks import utils as background

from lib.errors import BadInputError, StorageError
from lib.settings import ByItselfSettings
from lib.store import trainings
from lib.web.retraining import Retraining

NOON = datetime(2030, 6, 1, 12).timestamp()
KILLED = "its process ended without a result; it was killed, or the log says more"


class Server:
    """A server on a ledger, which trains after two labels; `now` is its clock."""

    def __init__(self, ledger, **rule):
        self.ledger, self.now, self.refusal, self.tasks = ledger, NOON, None, []
        keys = {"after_labels": 2, "minutes_apart": 60} | rule
        self.retraining = Retraining(
            ByItselfSettings(**keys), ledger, check=self.check, start=self.start, now=lambda: self.now
        )

    def check(self):
        if self.refusal is not None:
            raise self.refusal

    def start(self, number):
        self.tasks.append({"status": "SUBMITTED", "number": number})
        return self.tasks[-1]

    def look(self):
        """What it has started so far."""
        self.retraining.look()
        return len(self.tasks)

    def finish(self, status="DONE", **outcome):
        """The process of the last training ends; with an outcome it has said so itself."""
        if outcome:
            with self.ledger.writing() as connection:
                trainings.note_labels(connection, self.tasks[-1]["number"])
                trainings.end(connection, self.tasks[-1]["number"], **outcome)
        self.tasks[-1]["status"] = status

    @property
    def state(self):
        return self.retraining.info()["state"]


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """The ledger's times are those of the servers."""

    class Clock:
        now = NOON

        def time(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(trainings, "time", clock)
    return clock


@pytest.fixture(autouse=True)
def background_tasks(monkeypatch):
    """MONAI Label's own list of trainings."""
    listed = []
    monkeypatch.setitem(background.background_tasks, "train", listed)
    return listed


@pytest.fixture
def make_server(store, label_file):
    """Servers on one ledger, with two new labels."""
    for name in ("a", "b"):
        store.save(name, label_file(9), "final", author="anna")
    return lambda **rule: Server(store.ledger, **rule)


@pytest.fixture
def server(make_server):
    return make_server()


def test_what_is_due_starts_once(server):
    assert server.state == "2 of 2 new labels; about to start"
    assert server.look() == server.look() == 1
    assert server.state == "a training is running"
    shown = server.retraining.info()
    assert shown["enabled"] is True
    assert shown["new_labels"] == 2
    assert shown["policy"] == {"after_labels": 2, "minutes_apart": 60, "hours": "", "niceness": 10}
    started = shown["last"].pop("started")
    assert datetime.fromisoformat(started).timestamp() == NOON
    assert shown["last"] == {"by_itself": True, "ended": None, "result": None, "version": None, "published": None}
    json.dumps(shown)


def test_too_few_labels(make_server):
    server = make_server(after_labels=3)
    assert server.look() == 0
    assert server.state == "2 of 3 new labels"
    assert server.retraining.info()["last"] is None


def test_the_end_is_told(server, caplog):
    server.look()
    server.finish(result="model m published: better", succeeded=True, version="m", published=True)
    with caplog.at_level(logging.INFO):
        server.look()
    assert "the training that began by itself has ended: model m published: better" in caplog.text
    last = server.retraining.info()["last"]
    assert (last["result"], last["version"], last["published"]) == ("model m published: better", "m", True)
    assert last["ended"] is not None
    assert server.state == "0 of 2 new labels"


@pytest.mark.parametrize(("status", "reason"), [("STOPPED", "it was stopped"), ("ERROR", KILLED)])
def test_a_training_without_a_result_is_tried_again_later(server, caplog, status, reason):
    server.look()
    server.finish(status)
    assert server.look() == 1
    assert f"the training that began by itself failed: {reason}" in caplog.text
    assert server.retraining.info()["last"]["result"] == reason
    waits = f"2 of 2 new labels; the last training failed 0 minutes ago ({reason}), the next starts in 120 minutes"
    assert server.state == waits
    server.now += 119 * 60
    assert server.look() == 1
    server.now += 60
    assert server.look() == 2


def test_a_reason_that_the_process_gave_stays(server):
    server.look()
    server.finish("ERROR", result="the disk is full", succeeded=False)
    server.look()
    assert "failed 0 minutes ago (the disk is full)" in server.state


def test_hours_and_the_clock_on_the_wall(make_server):
    server = make_server(hours="19:00-07:00")
    assert server.look() == 0
    assert server.state == "2 of 2 new labels; the next training starts at 19:00"
    server.now += 7 * 3600
    assert server.look() == 1


def test_two_servers_on_one_ledger_start_one(make_server):
    one, two = make_server(), make_server()
    two.retraining._check = one.retraining.look  # between the look of the one and its start, the other starts
    assert two.look() == 0
    assert len(one.tasks) == 1
    assert two.state == one.state == "a training is running"


def test_a_server_that_comes_back_leaves_a_training_alone_that_goes_on(make_server, clock):
    make_server().look()
    again = make_server()
    assert again.look() == 0
    assert again.state == "a training is running"
    again.now = clock.now + 2 * trainings.LOST_S  # nothing was heard of it
    assert again.look() == 0
    assert again.retraining.info()["last"]["result"] == KILLED
    assert f"failed 6 minutes ago ({KILLED}), the next starts in 114 minutes" in again.state


def test_a_training_that_somebody_asked_for_comes_first(server, background_tasks, caplog):
    background_tasks.append({"status": "SUBMITTED"})  # its process has not said anything yet
    assert server.look() == 0
    background_tasks[0]["status"] = "DONE"
    assert server.look() == 1
    assert caplog.text == ""


def test_what_is_in_the_way_is_logged_once_and_shown(server, caplog):
    for free in ("3.0", "2.9", "512"):
        server.refusal = BadInputError(f"the disk has {free} GB free and the training needs 12.0 GB; free space")
        assert server.look() == 0
    assert caplog.text.count("no training can start by itself now: the disk has") == 1
    assert server.state == (
        "2 of 2 new labels; can't start: the disk has 512 GB free and the training needs 12.0 GB; free space"
    )
    server.refusal = BadInputError("no labelled case shows a tumor")
    server.look()
    assert "no training can start by itself now: no labelled case shows a tumor" in caplog.text
    server.refusal = None
    assert server.look() == 1
    with server.ledger.reading() as connection:
        assert trainings.last(connection).id == 1  # nothing that was refused is a training


@pytest.mark.parametrize("error", [StorageError("the ledger is locked"), ZeroDivisionError("division by zero")])
def test_whatever_happens_it_looks_again(server, caplog, error):
    server.refusal = error
    assert server.look() == server.look() == 0
    assert caplog.text.count(str(error) + "\n") == (1 if isinstance(error, StorageError) else 2)
    assert ("Traceback" in caplog.text) is isinstance(error, ZeroDivisionError)
    server.refusal = None
    assert server.look() == 1


def test_a_task_that_can_not_be_started_counts_as_a_failure(server, monkeypatch):
    def refuse(number):
        raise HTTPException(429, "++++++++++ Train Task is Already Running")

    monkeypatch.setattr(server.retraining, "_start_task", refuse)
    assert server.look() == 0
    assert "the last training failed 0 minutes ago (it could not be started: 429" in server.state


def test_off(make_server, caplog):
    server = make_server(after_labels=0)
    with caplog.at_level(logging.INFO):
        server.retraining.begin()
    assert server.look() == 0
    assert "retraining by itself is off: training.by_itself.after_labels is 0" in caplog.text
    shown = server.retraining.info()
    assert (shown["enabled"], shown["state"], shown["new_labels"]) == (
        False,
        "off: training.by_itself.after_labels is 0",
        2,
    )


def test_a_pacs_has_no_ledger():
    retraining = Server(None).retraining
    retraining.look()
    retraining.begin()
    shown = retraining.info()
    assert (shown["enabled"], shown["state"]) == (
        False,
        "off: no ledger tells of new labels",
    )
    assert (shown["new_labels"], shown["last"]) == (None, None)


def test_a_saved_label_is_noticed_at_once(server, monkeypatch, caplog):
    started = threading.Event()
    # A task that never ends: the thread, which lives on, leaves the ledger alone from then on.
    monkeypatch.setattr(server.retraining, "_start_task", lambda _: started.set() or {"status": "RUNNING"})
    with caplog.at_level(logging.INFO):
        server.retraining.begin()
    assert (
        "retraining by itself is on: after 2 new or corrected labels, 60 minutes apart, at any time of day"
        in caplog.text
    )
    server.retraining.notice_label()
    assert started.wait(10)  # not only at the next look, half a minute later
