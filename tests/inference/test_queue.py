"""Who gets the engine when; everything waits for events, nothing for time to pass."""

import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from lib.errors import BadInputError, GoneError, OverloadedError, UnavailableError
from lib.inference import queue as module
from lib.inference.queue import EngineQueue, Rank, WithRest, asked_by

LONG_S = 20  # never waited for unless something is broken


class Desk:
    """A queue, clients that wait in threads of their own, and jobs that end when told to."""

    def __init__(self, most_waiting=16):
        self.queue = EngineQueue(most_waiting, look_s=0.01)
        self.begun = []
        self.ended = []
        self._clients = ThreadPoolExecutor(40)
        self._doors = {}
        self._steps = {}

    def ask(self, key, client="", *, rank=Rank.AWAITED, steps=0, gone=None, waits=True):
        """Ask for a job and come back when it is in line or begun; `steps`: how often it could give way."""
        self._doors.setdefault(key, threading.Event())
        self._steps.setdefault(key, [threading.Event() for _ in range(steps)])
        if not waits:
            self.queue.start(key, self._work(key), client=client)
            return None
        calls = self._calls()

        def run():
            with asked_by(gone or (lambda: False)):
                return self.queue.run(key, self._work(key), client=client, rank=rank)

        future: Future = self._clients.submit(run)
        self.until(lambda: future.done() or self._calls() > calls)
        return future

    def _calls(self):
        with self.queue._lock:
            return sum(job.callers for job in self.queue._jobs.values())

    def _work(self, key):
        def work(give_way):
            self.begun.append(key)
            for step in self._steps[key]:
                assert step.wait(LONG_S)
                give_way()
            assert self._doors[key].wait(LONG_S)
            self.ended.append(key)
            return f"{key} done"

        return work

    def step(self, key):
        """Let a job come to its next chance to give way."""
        next(step for step in self._steps[key] if not step.is_set()).set()

    def end(self, *keys):
        """Let jobs end."""
        for key in keys:
            for event in (*self._steps[key], self._doors[key]):
                event.set()

    def until(self, condition):
        """Come back when it is so; the queue tells nobody, so it is looked at again and again."""
        look = threading.Event()
        for _ in range(LONG_S * 1000):
            if condition():
                return
            look.wait(0.001)
        pytest.fail("waited in vain")

    def close(self):
        self.end(*self._doors)
        self._clients.shutdown()
        self.queue.close()


@pytest.fixture
def make_desk():
    made = []

    def make(**options):
        made.append(Desk(**options))
        return made[-1]

    yield make
    for desk in made:
        desk.close()


@pytest.fixture
def desk(make_desk):
    return make_desk()


def test_the_result_and_the_error_of_the_work_come_back(desk):
    assert desk.queue.run("a", lambda _: 5) == 5

    def fail(_):
        raise BadInputError("no CT")

    with pytest.raises(BadInputError, match="no CT"):
        desk.queue.run("a", fail)
    with pytest.raises(TimeoutError, match="of the work itself"):
        desk.queue.run("a", lambda _: (_ for _ in ()).throw(TimeoutError("of the work itself")))
    assert desk.queue.run("a", lambda _: 6) == 6


def test_one_thread_runs_them_all_one_at_a_time(desk):
    asked = [desk.ask(key, key) for key in "abc"]
    desk.until(lambda: desk.begun == ["a"])
    desk.end("a")
    assert asked[0].result(LONG_S) == "a done"
    desk.until(lambda: desk.begun == ["a", "b"])
    assert desk.queue.waiting == 1
    desk.end("b", "c")
    assert [each.result(LONG_S) for each in asked] == ["a done", "b done", "c done"]
    threads = {desk.queue.run(number, lambda _: threading.get_ident()) for number in range(3)}
    assert len(threads) == 1


def test_who_came_first_is_served_first(desk):
    asked = [desk.ask(f"{client}", client) for client in "abcdefgh"]
    desk.end(*"abcdefgh")
    assert [each.result(LONG_S) for each in asked]
    assert desk.ended == list("abcdefgh")


def test_a_second_request_waits_for_the_first_of_the_others(desk):
    asked = [desk.ask(*each) for each in (("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b"), ("c1", "c"), ("b2", "b"))]
    desk.end("a1", "a2", "a3", "b1", "c1", "b2")
    assert [each.result(LONG_S) for each in asked]
    assert desk.ended == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_who_asked_often_while_alone_is_not_put_last_for_ever(desk):
    for number in range(5):
        desk.queue.run(number, lambda _: None, client="a")
    asked = [desk.ask(*each) for each in (("b1", "b"), ("a1", "a"), ("b2", "b"), ("a2", "a"))]
    desk.end("b1", "a1", "b2", "a2")
    assert [each.result(LONG_S) for each in asked]
    assert desk.ended == ["b1", "a1", "b2", "a2"]
    assert len(desk.queue._turns) <= 2  # the names of clients don't pile up


def test_background_work_waits_for_all_others(desk):
    first = desk.ask("a", "a")
    batch = desk.ask("batch", rank=Rank.BACKGROUND)
    desk.ask("ahead", waits=False)
    second = desk.ask("b", "b")
    desk.end("a", "b", "batch", "ahead")
    assert [each.result(LONG_S) for each in (first, second, batch)] == ["a done", "b done", "batch done"]
    desk.until(lambda: "ahead" in desk.ended)
    assert desk.ended == ["a", "b", "batch", "ahead"]


def test_background_work_gives_way_in_the_middle(desk):
    desk.ask("ahead", waits=False, steps=2)
    desk.ask("later", waits=False, client="other")
    desk.until(lambda: desk.begun == ["ahead"])
    asked = [desk.ask("a", "a"), desk.ask("b", "b")]
    assert desk.begun == ["ahead"]  # not before it comes to a place where it can be paused
    desk.step("ahead")
    desk.until(lambda: desk.begun == ["ahead", "a"])
    desk.end("a", "b", "later")
    assert [each.result(LONG_S) for each in asked] == ["a done", "b done"]
    desk.end("ahead")
    desk.until(lambda: "later" in desk.ended)
    assert desk.ended == ["a", "b", "ahead", "later"]  # what has begun goes on first


def test_idle_work_gives_way_to_all_other(desk):
    idle = desk.ask("idle", rank=Rank.IDLE, steps=2)
    later = desk.ask("later", rank=Rank.IDLE)
    desk.until(lambda: desk.begun == ["idle"])
    desk.ask("ahead", waits=False, steps=2)
    desk.step("idle")
    desk.until(lambda: desk.begun == ["idle", "ahead"])  # paused for work that may be paused itself
    asked = desk.ask("a", "a")
    desk.step("ahead")
    desk.until(lambda: desk.begun == ["idle", "ahead", "a"])
    desk.end("a", "ahead", "idle", "later")
    assert [each.result(LONG_S) for each in (asked, idle, later)] == ["a done", "idle done", "later done"]
    assert desk.ended == ["a", "ahead", "idle", "later"]


def test_a_result_is_there_before_the_rest_is_done(desk):
    """And the rest gives way, whoever waited for the result, and goes on before other background work."""
    go_on, steps = threading.Event(), []

    def rest(give_way):
        while not go_on.wait(0.002):
            give_way()
        steps.append("rest")

    assert desk.queue.run("x", lambda _: WithRest("x", rest), rank=Rank.BACKGROUND) == "x"
    assert desk.queue.run("x", lambda _: "x again") == "x again"
    later = desk.ask("later", rank=Rank.BACKGROUND)
    assert desk.begun == steps == []
    go_on.set()
    desk.until(lambda: desk.begun == ["later"])
    assert steps == ["rest"]
    desk.end("later")
    assert later.result(LONG_S)


def test_a_rest_that_fails_is_told_in_the_log(desk, caplog):
    def rest(_):
        raise BadInputError("no scores")

    with caplog.at_level(logging.WARNING, module.__name__):
        assert desk.queue.run("x", lambda _: WithRest("x", rest), rank=Rank.BACKGROUND) == "x"
        assert desk.queue.run("y", lambda _: "y", rank=Rank.BACKGROUND) == "y"
    assert caplog.messages == ["not done in the background: no scores"]


def test_what_has_not_begun_is_done_as_who_waits_does_it(desk):
    busy = desk.ask("a", "a")
    desk.ask("x", waits=False)
    with ThreadPoolExecutor(1) as clients:
        asked = clients.submit(desk.queue.run, "x", lambda _: "with nothing beside")
        desk.until(lambda: desk.queue._jobs["x"].callers)
        desk.end("a", "x")
        assert asked.result(LONG_S) == "with nothing beside"
    assert busy.result(LONG_S)
    assert desk.begun == ["a"]


def test_a_request_that_somebody_waits_for_does_not_give_way(desk):
    first, second = desk.ask("a", "a", steps=1), desk.ask("b", "b")
    desk.step("a")
    desk.end("a", "b")
    assert first.result(LONG_S)
    assert second.result(LONG_S)
    assert desk.ended == ["a", "b"]


def test_who_asks_for_what_is_being_made_waits_for_that(desk):
    desk.ask("x", waits=False, steps=2)
    desk.until(lambda: desk.begun == ["x"])
    asked = [desk.ask("x", client) for client in "ab"]
    other = desk.ask("y", "c")
    desk.step("x")  # somebody waits for it now: it does not give way any more
    desk.end("x", "y")
    assert [each.result(LONG_S) for each in asked] == ["x done", "x done"]
    assert other.result(LONG_S) == "y done"
    assert desk.ended == ["x", "y"]
    assert desk.begun == ["x", "y"]


def test_what_was_paused_gets_the_place_of_who_asks_for_it(desk):
    desk.ask("x", waits=False, steps=2)
    desk.until(lambda: desk.begun == ["x"])
    first = desk.ask("a", "a")
    desk.step("x")
    desk.until(lambda: desk.begun == ["x", "a"])
    asked = [desk.ask("b", "b"), desk.ask("x", "c"), desk.ask("d", "d")]
    desk.end("a", "b", "x", "d")
    assert [each.result(LONG_S) for each in (first, *asked)]
    assert desk.ended == ["a", "b", "x", "d"]


def test_the_next_image_of_a_client_takes_the_place_of_one_that_was_not_begun(desk):
    busy = desk.ask("a", "a")
    for key, client in (("x", "b"), ("y", "c"), ("z", "b")):
        desk.ask(key, client, waits=False)
    desk.ask("z", "b", waits=False)
    assert desk.queue.waiting == 2
    desk.end("a", "y", "z")
    assert busy.result(LONG_S)
    desk.until(lambda: len(desk.ended) == 3)
    assert desk.ended == ["a", "y", "z"]


def test_work_ahead_does_not_pile_up(make_desk):
    desk = make_desk(most_waiting=2)
    desk.ask("a", "a")
    for number in range(20):
        desk.ask(number, f"client {number}", waits=False)
    assert desk.queue.waiting <= 3


def test_too_many_are_asked_to_come_back(make_desk):
    desk = make_desk(most_waiting=2)
    asked = [desk.ask(key, key) for key in "abc"]  # one is served, two wait
    with pytest.raises(OverloadedError, match="2 requests wait for the network already; ask again in 1 s") as caught:
        desk.queue.run("d", lambda _: None)
    assert caught.value.retry_after_s == 1
    batch = desk.ask("batch", rank=Rank.BACKGROUND)  # which is no client
    desk.end("a", "b", "c", "batch")
    assert [each.result(LONG_S) for each in (*asked, batch)]
    assert desk.queue.run("d", lambda _: "done") == "done"


def test_a_client_that_has_gone_is_dropped_while_it_waits(desk):
    gone = threading.Event()
    first, second, third = desk.ask("a", "a"), desk.ask("b", "b", gone=gone.is_set), desk.ask("c", "c")
    gone.set()
    with pytest.raises(GoneError, match="the client has gone while its request was waiting"):
        second.result(LONG_S)
    assert desk.queue.waiting == 1
    desk.end("a", "c")
    assert first.result(LONG_S)
    assert third.result(LONG_S)
    assert desk.begun == ["a", "c"]


def test_what_another_client_waits_for_as_well_is_not_dropped(desk):
    gone = threading.Event()
    first = desk.ask("a", "a")
    leaving, staying = desk.ask("x", "b", gone=gone.is_set), desk.ask("x", "c")
    gone.set()
    with pytest.raises(GoneError):
        leaving.result(LONG_S)
    desk.end("a", "x")
    assert first.result(LONG_S)
    assert staying.result(LONG_S) == "x done"


def test_failures_in_the_background_are_told_in_the_log(desk, caplog):
    def fail(_):
        raise BadInputError("no CT")

    with caplog.at_level(logging.WARNING, module.__name__):
        desk.queue.start("x", fail)
        desk.until(lambda: caplog.records)
    assert caplog.messages == ["not done in the background: no CT"]
    assert desk.queue.run("a", lambda _: 5) == 5


def test_the_end_of_the_server_breaks_off_what_runs_and_what_waits(desk):
    desk.ask("x", waits=False, steps=3)
    desk.until(lambda: desk.begun == ["x"])
    asked = desk.ask("a", "a", steps=1)
    waiting = desk.ask("b", "b")
    desk.step("x")
    desk.until(lambda: desk.begun == ["x", "a"])
    closing = threading.Thread(target=desk.queue.close)
    closing.start()
    desk.until(lambda: desk.queue._closed)
    desk.step("a")
    closing.join(LONG_S)
    assert not closing.is_alive()
    for each in (asked, waiting):
        with pytest.raises(UnavailableError, match="the server is being stopped"):
            each.result(LONG_S)
    with pytest.raises(UnavailableError, match="the server is being stopped; ask again when it runs"):
        desk.queue.run("c", lambda _: None)
    desk.queue.start("d", lambda _: None)
    assert desk.ended == []
