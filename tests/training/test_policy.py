from datetime import time

import pytest

from lib.settings import ByItselfSettings
from lib.training.policy import Move, Situation, decide, is_open

NOON = time(12)
NOW = 1_000_000.0


def rule(**keys):
    return ByItselfSettings(**({"after_labels": 10} | keys))


def ago(minutes, **others):
    """Enough labels, the last training over so many minutes ago."""
    return Situation(12, ended_at=NOW - 60 * minutes, **others)


def test_off_whatever_there_is():
    assert decide(ByItselfSettings(), Situation(500), NOW, NOON) == Move(
        False, "off: training.by_itself.after_labels is 0"
    )


@pytest.mark.parametrize(("labels", "start"), [(0, False), (9, False), (10, True), (11, True)])
def test_as_many_labels_as_the_site_says(labels, start):
    assert decide(rule(), Situation(labels), NOW, NOON) == Move(start, f"{labels} of 10 new labels")


def test_never_two_at_a_time():
    assert decide(rule(), Situation(12, running=True), NOW, NOON) == Move(False, "a training is running")


@pytest.mark.parametrize(
    ("minutes", "left"), [(0, "60 minutes"), (0.5, "60 minutes"), (58.9, "2 minutes"), (59.5, "1 minute")]
)
def test_minutes_apart(minutes, left):
    expected = f"12 of 10 new labels; the last training has just ended, the next starts in {left}"
    assert decide(rule(), ago(minutes), NOW, NOON) == Move(False, expected)


def test_after_these_minutes():
    assert decide(rule(), ago(60), NOW, NOON).start
    assert decide(rule(minutes_apart=0), ago(0), NOW, NOON).start


def test_a_failure_is_told_and_waited_for_longer():
    move = decide(rule(), ago(5, failures=1, failure="the disk is full"), NOW, NOON)
    assert move.reason == (
        "12 of 10 new labels; the last training failed 5 minutes ago (the disk is full), the next starts in 115 minutes"
    )


@pytest.mark.parametrize(
    ("minutes_apart", "failures", "wait"),
    [
        (60, 1, 120),
        (60, 2, 240),
        (60, 4, 960),
        (60, 5, 1440),  # a day
        (60, 5000, 1440),
        (4000, 3, 4000),  # a site that wants more than a day
        (0, 1, 2),  # never at once again
        (0, 3, 8),
    ],
)
def test_each_failure_doubles_the_wait(minutes_apart, failures, wait):
    wanted = rule(minutes_apart=minutes_apart)
    assert not decide(wanted, ago(wait - 0.1, failures=failures), NOW, NOON).start
    assert decide(wanted, ago(wait, failures=failures), NOW, NOON).start


def test_an_end_in_the_far_future_holds_nothing_up():
    assert decide(rule(), ago(-100_000), NOW, NOON).start


def test_hours():
    night = rule(hours="19:00-07:00")
    assert decide(night, Situation(12), NOW, NOON) == Move(
        False, "12 of 10 new labels; the next training starts at 19:00"
    )
    assert decide(night, Situation(12), NOW, time(19)).start


@pytest.mark.parametrize(
    ("opening", "clock", "expected"),
    [
        ((time(9), time(17)), time(8, 59, 59), False),
        ((time(9), time(17)), time(9), True),
        ((time(9), time(17)), time(17), False),
        ((time(19), time(7)), time(18, 59), False),
        ((time(19), time(7)), time(23, 59, 59), True),
        ((time(19), time(7)), time(0), True),
        ((time(19), time(7)), time(7), False),
        ((time(23, 59), time(0)), time(23, 59, 30), True),
        ((time(23, 59), time(0)), time(0), False),
    ],
)
def test_open(opening, clock, expected):
    assert is_open(opening, clock) is expected


def test_there_is_one_opening_and_one_closing_on_each_day():
    day = [time(hour, minute) for hour in range(24) for minute in range(60)]
    for opening in ((time(9), time(17)), (time(17), time(9))):
        states = [is_open(opening, clock) for clock in day]
        assert sum(before != after for before, after in zip(states, states[1:] + states[:1], strict=True)) == 2
        assert sum(states) == (8 * 60 if opening[0] < opening[1] else 16 * 60)
