import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.access.throttle import OF_ADDRESSES, OF_USERS, Pauses, Throttle
from lib.errors import TooManyLoginsError
from tests.clock import Clock


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def throttle(clock):
    return Throttle(Pauses(free=2, first_s=1, longest_s=8), Pauses(free=4, first_s=1, longest_s=100), clock)


def fail(throttle, times, user="ann", address="10.0.0.1"):
    for _ in range(times):
        throttle.begin(user, address)


def pause(throttle, user="ann", address="10.0.0.1"):
    with pytest.raises(TooManyLoginsError) as caught:
        throttle.begin(user, address)
    assert str(caught.value) == f"too many failed logins; try again in {caught.value.retry_after_s} s"
    return caught.value.retry_after_s


def test_pauses_of_a_user_grow_up_to_the_longest(throttle, clock):
    announced = []
    for number in range(8):
        announced.append(throttle.begin("ann", f"10.0.0.{number}"))
        if announced[-1]:
            assert pause(throttle, address="10.9.9.9") == announced[-1]
            clock.now += announced[-1]
    assert announced == [0, 0, 1, 2, 4, 8, 8, 8]


def test_others_go_on(throttle):
    fail(throttle, 3)
    assert pause(throttle) == 1
    assert throttle.begin("bob", "10.0.0.2") == 0


def test_an_address_is_paused_whatever_names_it_tries(throttle):
    for number in range(5):
        throttle.begin(f"user {number}", "10.0.0.1")
    assert pause(throttle, user="another") == 1
    assert throttle.begin("another", "10.0.0.2") == 0


def test_a_try_within_a_pause_does_not_lengthen_it(throttle, clock):
    fail(throttle, 3)
    for _ in range(10):
        pause(throttle)
    clock.now += 0.999
    assert pause(throttle) == 1
    clock.now += 0.001
    assert throttle.begin("ann", "10.0.0.1") == 2


def test_success_forgets_the_failures_of_the_user(throttle):
    fail(throttle, 2)
    throttle.begin("ann", "10.0.0.9")
    throttle.succeeded("ann", "10.0.0.9")
    fail(throttle, 2)
    assert throttle.begin("ann", "10.0.0.9") == 1


def test_success_does_not_forget_the_failures_of_the_address(throttle):
    """Or whoever has one login could guess all others."""
    for number in range(5):
        throttle.begin("ann", "10.0.0.1")
        throttle.succeeded("ann", "10.0.0.1")
        announced = throttle.begin(f"victim {number}", "10.0.0.1")
    assert announced == 1
    assert pause(throttle) == 1


def test_success_takes_only_its_own_try_back(throttle):
    fail(throttle, 2)
    throttle.begin("ann", "10.0.0.1")
    throttle.succeeded("ann", "10.0.0.1")
    fail(throttle, 2)
    assert throttle.begin("bob", "10.0.0.1") == 1  # the fifth failure of the address


def test_an_undecided_try_does_not_count(throttle):
    for _ in range(20):
        throttle.begin("ann", "10.0.0.1")
        throttle.undecided("ann", "10.0.0.1")
    assert throttle.begin("ann", "10.0.0.1") == 0


def test_failures_are_forgotten_after_an_hour(throttle, clock):
    fail(throttle, 3)
    clock.now += 3599
    assert throttle.begin("ann", "10.0.0.1") == 2
    clock.now += 3600
    assert throttle.begin("ann", "10.0.0.1") == 0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),  # of one customer
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("a name", "a name", True),
        ("", "10.0.0.1", False),
    ],
)
def test_addresses_that_count_together(throttle, one, other, same):
    for number in range(5):
        throttle.begin(str(number), one)
    if same:
        assert pause(throttle, user="x", address=other) == 1
    else:
        assert throttle.begin("x", other) == 0


def test_memory_is_bounded(clock):
    throttle = Throttle(Pauses(free=2, most=100), Pauses(free=2, most=100), clock)
    for number in range(5000):
        throttle.begin(f"{number}" * 1000, f"{number}" * 1000)
    for counter in (throttle._users, throttle._addresses):
        assert len(counter._failures) == 100
        assert max(sys.getsizeof(key) for key in counter._failures) < 100


def test_the_quiet_are_forgotten_first(clock):
    throttle = Throttle(Pauses(free=0, most=3), Pauses(free=1000), clock)
    for user in ("a", "b", "c"):
        throttle.begin(user, "10.0.0.1")
    clock.now += 1
    throttle.begin("a", "10.0.0.1")
    throttle.begin("d", "10.0.0.1")
    assert pause(throttle, user="a") == 2
    assert throttle.begin("b", "10.0.0.1") == 1


def test_a_thousand_at_once_are_not_all_the_first(clock):
    throttle = Throttle(OF_USERS, OF_ADDRESSES, clock)
    passed = []

    def guess(number):
        try:
            throttle.begin("ann", f"10.0.{number}.1")
        except TooManyLoginsError:
            return
        passed.append(number)

    threads = [threading.Thread(target=guess, args=(number,)) for number in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(passed) == OF_USERS.free + 1


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["f", "s", "u"]), st.floats(0, 50)), max_size=60))
def test_nobody_waits_longer_than_the_longest(steps):
    clock = Clock()
    pauses = Pauses(free=2, first_s=1, longest_s=8)
    throttle = Throttle(pauses, pauses, clock)
    for user, outcome, later in steps:
        clock.now += later
        waits = 0
        try:
            throttle.begin(user, user)
        except TooManyLoginsError as error:
            waits = error.retry_after_s
            clock.now += waits
            throttle.begin(user, user)
        assert 0 <= waits <= pauses.longest_s
        if outcome == "s":
            throttle.succeeded(user, user)
        if outcome == "u":
            throttle.undecided(user, user)


@given(st.text())
def test_whatever_is_sent_is_counted(text):
    throttle = Throttle(Pauses(free=0), Pauses(free=0), Clock())
    throttle.begin(text, text)
    assert pause(throttle, text, text) == 1
