from lib.web.guard import handed_out
from lib.web.guard.handed_out import SECONDS, TIMES, HandedOut
from tests.clock import Clock

HOST = "labels.example.org:8000"


def test_an_image_can_be_fetched_where_it_was_given_a_few_times():
    known = HandedOut(Clock())
    known.note("a", "10.0.0.1", HOST, "ann")
    assert known.take("b", "10.0.0.1", HOST) is None
    assert known.take("a", "10.0.0.2", HOST) is None
    assert known.take("a", "10.0.0.1", "evil.example:8000") is None
    assert [known.take("a", "10.0.0.1", HOST) for _ in range(TIMES + 2)] == ["ann"] * TIMES + [None] * 2


def test_for_a_while_only():
    clock = Clock()
    known = HandedOut(clock)
    known.note("a", "10.0.0.1", HOST, "ann")
    clock.now += SECONDS - 1
    assert known.take("a", "10.0.0.1", HOST) == "ann"
    clock.now += 1
    assert known.take("a", "10.0.0.1", HOST) is None
    known.note("a", "10.0.0.1", HOST, "bob")
    assert known.take("a", "10.0.0.1", HOST) == "bob"


def test_so_many_are_remembered(monkeypatch):
    monkeypatch.setattr(handed_out, "_MOST", 2)
    known = HandedOut(Clock())
    for image in ("a", "b", "c"):
        known.note(image, "10.0.0.1", HOST, "ann")
    assert [known.take(image, "10.0.0.1", HOST) for image in ("a", "b", "c")] == [None, "ann", "ann"]
