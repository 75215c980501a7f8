import pytest

from lib.case_scores import Span
from lib.store import images, leases
from lib.store.events import history
from lib.store.images import FileState
from lib.store.leases import Lease


@pytest.fixture
def clock(monkeypatch):
    """The time in seconds since the epoch, to be set by a test."""

    class Clock:
        now = 1000.0

        def time(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(leases, "time", clock)
    return clock


@pytest.fixture
def connection(undone):
    images.register(undone, [(name, FileState(".nii.gz", 1, 1)) for name in "abc"])
    return undone


def give(connection, image_id, client_id, strategy="random", seconds=60.0):
    return leases.acquire(connection, image_id, client_id, strategy=strategy, reason="why", score=0.5, seconds=seconds)


def happened(connection, image_id=None):
    return [(event.kind, event.image_id, event.actor, event.detail) for event in history(connection, image_id)]


def test_a_lease_is_what_was_asked_for(connection, clock):
    lease = give(connection, "a", "anna")
    assert lease == Lease("a", "anna", "random", "why", 0.5, 1000, 1000, 1060)
    assert leases.of_image(connection, "a") == lease
    assert leases.of_image(connection, "b") is None
    assert happened(connection) == [
        ("image handed out", "a", "anna", {"strategy": "random", "reason": "why", "score": 0.5})
    ]


def test_the_part_of_a_strategy_and_the_slices_to_look_at(connection, clock):
    spans = (Span("tumor", 3, 5, 0.75), Span("liver", 0, 1, 0.5))
    lease = leases.acquire(
        connection, "a", "anna", strategy="hybrid", reason="", score=1.0, seconds=60, part="class:tumor", slices=spans
    )
    assert leases.of_image(connection, "a") == lease
    assert (lease.part, lease.slices) == ("class:tumor", spans)
    assert lease.described()["slices"][0] == {"label": "tumor", "first": 3, "last": 5, "share": 0.75}
    assert happened(connection)[0][3]["part"] == "class:tumor"


def test_choices_are_counted_by_part(connection):
    assert leases.picked(connection, "hybrid") == {}
    for name, strategy, part in (("a", "hybrid", "x"), ("b", "hybrid", "y"), ("c", "first", ""), ("a", "hybrid", "x")):
        leases.acquire(connection, name, "anna", strategy=strategy, reason="", score=None, seconds=60, part=part)
        leases.free(connection, name, actor="anna", why="skipped")
    assert leases.picked(connection, "hybrid") == {"x": 2, "y": 1}
    assert leases.picked(connection, "first") == {"": 1}


def test_what_was_handed_out_last(connection):
    assert leases.last_handed_out(connection) == []
    for name in "abca":
        give(connection, name, "anna")
        leases.free(connection, name, actor="anna", why="skipped")
    assert leases.last_handed_out(connection) == ["a", "c"]
    assert leases.last_handed_out(connection, 3) == ["a", "c", "b"]


def test_leases_of_a_client(connection, clock):
    first = give(connection, "c", "anna")
    clock.now += 1
    second = give(connection, "a", "anna", "first")
    other = give(connection, "b", "bob")
    assert leases.held_by(connection, "anna") == [first, second]
    assert leases.held_by(connection, "anna", "first") == [second]
    assert leases.held_by(connection, "carl") == []
    assert leases.list_all(connection) == [first, second, other]


def test_only_the_holder_renews(connection, clock):
    give(connection, "a", "anna")
    clock.now += 50
    assert not leases.renew(connection, "a", "bob", 60)
    assert not leases.renew(connection, "b", "anna", 60)
    assert leases.renew(connection, "a", "anna", 60)
    assert leases.of_image(connection, "a") == Lease("a", "anna", "random", "why", 0.5, 1000, 1050, 1110)


def test_freed_once(connection, clock):
    lease = give(connection, "a", "anna")
    assert leases.free(connection, "a", actor="bob", why="anna is on holiday") == lease
    assert leases.of_image(connection, "a") is None
    assert leases.free(connection, "a", actor="bob", why="again") is None
    assert happened(connection)[0] == (
        "lease freed", "a", "bob", {"client_id": "anna", "strategy": "random", "why": "anna is on holiday"},
    )  # fmt: skip
    assert len(happened(connection)) == 2


def test_a_lease_ends_when_its_time_is_over(connection, clock):
    give(connection, "a", "anna", seconds=10)
    give(connection, "b", "bob", seconds=11)
    assert not leases.has_expired(connection)
    clock.now += 10
    assert leases.has_expired(connection)
    assert leases.expire(connection) == 1
    assert not leases.has_expired(connection)
    assert [lease.image_id for lease in leases.list_all(connection)] == ["b"]
    assert happened(connection, "a")[0] == (
        "lease expired", "a", "server", {"client_id": "anna", "strategy": "random", "why": "its time was over"},
    )  # fmt: skip
    assert leases.expire(connection) == 0


def test_as_json_with_times_that_anyone_can_read(connection, clock):
    described = give(connection, "a", "anna").described()
    clock.now += 100
    assert described == {
        "image_id": "a", "client_id": "anna", "strategy": "random", "reason": "why", "score": 0.5,
        "acquired_at": "1970-01-01T00:16:40.000+00:00", "renewed_at": "1970-01-01T00:16:40.000+00:00",
        "expires_at": "1970-01-01T00:17:40.000+00:00", "seconds": 60, "part": "", "slices": [],
    }  # fmt: skip
    assert leases.of_image(connection, "a").described()["seconds"] == 0
