"""When a server starts a training by itself: a rule of numbers and times, which knows neither ledger nor server."""

import math
from dataclasses import dataclass
from datetime import time

from lib.settings import ByItselfSettings

_LEAST_AFTER_FAILURE = 1.0  # minutes
_MOST_AFTER_FAILURE = 24 * 60.0  # minutes, where the rule's own are not more


@dataclass(frozen=True)
class Situation:
    """What the rule looks at.

    Args:
        new_labels: images with a final label that no training has learned from.
        running: a training goes on.
        ended_at: when the last training was over, seconds since the epoch; None: there was none.
        failures: how many trainings, up to the last, came to no end since one did.
        failure: why the last one did not.
    """

    new_labels: int
    running: bool = False
    ended_at: float | None = None
    failures: int = 0
    failure: str = ""


@dataclass(frozen=True)
class Move:
    """Whether to start a training now, and why or why not, in words."""

    start: bool
    reason: str


def decide(rule: ByItselfSettings, situation: Situation, now: float, clock: time) -> Move:
    """Start a training now, or wait.

    After a training that failed or was stopped, twice as long is waited as after one that came to its end, after the
    next one twice as long again, up to a day.

    The hours go by the clock on the wall, the minutes since the last training by the time that went by: summer time
    changes neither.

    Args:
        rule: `training.by_itself` of `app.yaml`.
        situation: how things are.
        now: seconds since the epoch.
        clock: the local time of day, without a time zone.
    """
    if not rule.after_labels:
        return Move(False, "off: training.by_itself.after_labels is 0")
    if situation.running:
        return Move(False, "a training is running")
    labels = f"{situation.new_labels} of {rule.after_labels} new labels"
    if situation.new_labels < rule.after_labels:
        return Move(False, labels)
    if situation.ended_at is not None:
        # Of an end in the far future, by a clock that was wrong then, nothing is held up.
        waited = abs(now - situation.ended_at) / 60
        left = _wait(rule, situation.failures) - waited
        if left > 0:
            what = f"failed {_minutes(waited)} ago ({situation.failure})" if situation.failures else "has just ended"
            return Move(False, f"{labels}; the last training {what}, the next starts in {_minutes(math.ceil(left))}")
    opening = rule.opening()
    if opening and not is_open(opening, clock):
        return Move(False, f"{labels}; the next training starts at {opening[0]:%H:%M}")
    return Move(True, labels)


def is_open(opening: tuple[time, time], clock: time) -> bool:
    """Whether a time of day lies in `[from, until)`, which may go over midnight."""
    start, end = opening
    return start <= clock < end if start < end else clock >= start or clock < end


def _wait(rule: ByItselfSettings, failures: int) -> float:
    """Minutes from the end of the last training on."""
    if not failures:
        return rule.minutes_apart
    longer = max(rule.minutes_apart, _LEAST_AFTER_FAILURE) * 2 ** min(failures, 20)
    return min(longer, max(rule.minutes_apart, _MOST_AFTER_FAILURE))


def _minutes(count: float) -> str:
    return "1 minute" if int(count) == 1 else f"{int(count)} minutes"
