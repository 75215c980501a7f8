import threading
import time

import pytest
from monailabel.client.client import MONAILabelClientException

from lib.benchmarks.soak_people import Desk, Person, StoppedError
from lib.benchmarks.soak_timings import by_kind


@pytest.fixture
def desk(tmp_path):
    return Desk("http://127.0.0.1:9", "liver_tumor", None, tmp_path, pause_s=0.0, began=time.monotonic())


@pytest.fixture
def person(desk):
    return Person(desk, "ann", "secret", seed=1)


def answers(*statuses):
    """An action that is answered with each of these in turn; 200 is a result."""
    left = list(statuses)

    def action():
        status = left.pop(0)
        if status == 200:
            return "done"
        told = "ask again in 0 s" if status == 503 else "no"
        raise MONAILabelClientException(1, f"Status: {status}; Response: {told}")

    return action


@pytest.mark.parametrize(
    ("kind", "statuses", "result", "counts"),
    [
        ("infer", [200], "done", {"done": 1}),
        ("infer", [503, 503, 200], "done", {"done": 1, "later": 2}),
        ("infer", [409], None, {"error": 1}),
        ("next sample", [409], None, {"late": 1}),
        ("next sample", [404], None, {"error": 1}),
        ("withdraw label", [404], None, {"late": 1}),
        ("infer", [500], None, {"error": 1}),
    ],
)
def test_how_a_request_ends(person, desk, kind, statuses, result, counts):
    assert person.ask(kind, answers(*statuses)) == result
    row = by_kind(desk.timings.all())[kind]
    assert {end: count for end, count in row.items() if not end.endswith("_s") and count} == counts


def test_a_server_that_is_gone_or_has_no_time_to_name_is_an_error(person, desk):
    def broken():
        raise ConnectionResetError("reset by peer")

    def stopping():
        raise MONAILabelClientException(1, "Status: 503; Response: the server is being stopped")

    assert person.ask("infer", broken) is None
    assert person.ask("infer", stopping) is None
    assert [error.split(": ", 1)[1] for error in desk.timings.errors] == [
        "ann: ConnectionResetError('reset by peer')",
        "ann: 503 the server is being stopped",
    ]


def test_nobody_waits_when_the_soak_is_over(person, desk):
    threading.Timer(0.05, desk.over.set).start()
    with pytest.raises(StoppedError):
        person.pause(60)
    with pytest.raises(StoppedError):
        person.ask("infer", answers(503))


def test_half_of_the_people_keep_their_client(desk):
    first, second = Person(desk, "a", "", seed=1), Person(desk, "b", "", seed=2)
    assert first.client is first.client
    assert second.client is not second.client
    assert not first.logged_in
