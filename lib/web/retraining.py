"""The server trains by itself when enough has been labelled, as `training.by_itself` says.

A thread asks `lib.training.policy` every so often and after each saved label. It starts trainings as
`POST /train/MODEL` does, so that clients see status, progress and result where they look for those of any training.
"""

import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any

from fastapi import HTTPException
from sqlalchemy import Connection

from lib.errors import LiverLoopError
from lib.settings import ByItselfSettings
from lib.store import trainings
from lib.store.leases import iso_time
from lib.store.ledger import Ledger
from lib.training.policy import Move, Situation, decide
from lib.web.requests import started_alone

logger = logging.getLogger(__name__)

_EVERY_S = 30.0  # hours open and minutes go by without anybody saying so
_WHILE_IT_RUNS_S = 1.0
_KILLED = "its process ended without a result; it was killed, or the log says more"
_FIGURES = re.compile(r"[\d.]+ [KMGT]?B")
_NO_LEDGER = "off: no ledger tells of new labels"


class Retraining:
    """Starts trainings that nobody asked for, and tells how things stand.

    Args:
        rule: `training.by_itself` of `app.yaml`.
        ledger: of the folder or the PACS; None: the datastore has none.
        check: refuses a training that can't succeed, as for a client.
        start: starts MONAI Label's background task for the training of this number in the ledger, and returns it.
        now: seconds since the epoch.
    """

    def __init__(
        self,
        rule: ByItselfSettings,
        ledger: Ledger | None,
        *,
        check: Callable[[], object],
        start: Callable[[int], dict[str, Any]],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._rule, self._ledger = rule, ledger
        self._check, self._start_task, self._now = check, start, now
        self._wake = threading.Event()
        self._is_over = False
        self._started: tuple[int, dict[str, Any]] | None = None  # what it started and has not seen the end of
        self._obstacle: str | None = None  # why a training that is due does not start

    @property
    def enabled(self) -> bool:
        """Whether it ever starts anything."""
        return self._ledger is not None and self._rule.after_labels > 0

    def begin(self) -> None:
        """Look after it from now on, in a thread that ends with the process."""
        if not self.enabled:
            logger.info("retraining by itself is %s", self.info()["state"])
            return
        hours = f"between {self._rule.hours.replace('-', ' and ')}" if self._rule.hours else "at any time of day"
        logger.info(
            "retraining by itself is on: after %d new or corrected labels, %g minutes apart, %s",
            self._rule.after_labels, self._rule.minutes_apart, hours,
        )  # fmt: skip
        threading.Thread(target=self._work, name="retraining", daemon=True).start()

    def notice_label(self) -> None:
        """A label was saved: look soon."""
        self._wake.set()

    def end(self) -> None:
        """Start nothing any more: the server is being stopped."""
        self._is_over = True

    def look(self) -> None:
        """See the end of what was started, and start what is due; what is in the way is logged and told by `info`."""
        if self._ledger is None or not self.enabled or self._is_over:
            return
        try:
            self._advance(self._ledger)
        except HTTPException:  # somebody's training has been asked for and is not in the ledger yet
            return
        except Exception as error:
            self._hold_up(error)
        else:
            self._obstacle = None

    def info(self) -> dict[str, Any]:
        """Rule, state in words, new labels, and the last training whoever started it; as JSON.

        Raises:
            StorageError: the ledger can't be read.
        """
        rule = self._rule.model_dump(mode="json")
        if self._ledger is None:
            return {"enabled": False, "policy": rule, "state": _NO_LEDGER, "new_labels": None, "last": None}
        with self._ledger.reading() as connection:
            situation, last = self._situation(connection)
        move = self._decide(situation)
        state = move.reason
        if move.start:
            state += f"; can't start: {self._obstacle}" if self._obstacle else "; about to start"
        return {
            "enabled": self.enabled,
            "policy": rule,
            "state": state,
            "new_labels": situation.new_labels,
            "last": None if last is None else self._shown(last),
        }

    def _work(self) -> None:
        while True:
            self._wake.wait(_WHILE_IT_RUNS_S if self._started else _EVERY_S)
            self._wake.clear()
            self.look()

    def _advance(self, ledger: Ledger) -> None:
        if self._started is not None:
            self._follow(ledger, *self._started)
        if self._started is not None:
            return
        with ledger.reading() as connection:
            move = self._decide(self._situation(connection)[0])
        if move.start:
            self._check()
            self._started = started_alone("train", partial(self._claimed, ledger))

    def _hold_up(self, error: Exception) -> None:
        """Log what is in the way once, not at each look: but for its figures, such as the free disk space, it stays."""
        before, self._obstacle = self._obstacle, " ".join(str(error).split()) or type(error).__name__
        if before is None or _FIGURES.sub("", before) != _FIGURES.sub("", self._obstacle):
            unforeseen = not isinstance(error, LiverLoopError)
            logger.warning("no training can start by itself now: %s", self._obstacle, exc_info=unforeseen)

    def _situation(self, connection: Connection) -> tuple[Situation, trainings.Training | None]:
        """What the rule looks at, and the last training."""
        now = self._now()
        last = trainings.last(connection)
        failures = trainings.failures(connection, now)
        situation = Situation(
            new_labels=trainings.new_labels(connection),
            running=bool(trainings.running(connection, now)),
            ended_at=last.over_at(now) if last else None,
            failures=len(failures),
            failure=(failures[-1].result or _KILLED) if failures else "",
        )
        return situation, last

    def _decide(self, situation: Situation) -> Move:
        now = self._now()
        return decide(self._rule, situation, now, datetime.fromtimestamp(now).time())

    def _claimed(self, ledger: Ledger) -> tuple[int, dict[str, Any]] | None:
        """Start a training unless another server on this ledger has just started one."""
        with ledger.writing() as connection:
            move = self._decide(self._situation(connection)[0])
            if not move.start:
                return None
            number = trainings.claim(connection)
        logger.info("a training starts by itself: %s", move.reason)
        try:
            return number, self._start_task(number)
        except Exception as error:
            with ledger.writing() as connection:
                trainings.end(connection, number, f"it could not be started: {error}", succeeded=False)
            raise

    def _follow(self, ledger: Ledger, number: int, task: Mapping[str, Any]) -> None:
        """Once the training that was started is over, say what became of it."""
        if task["status"] in {"SUBMITTED", "RUNNING"}:
            return
        result = "it was stopped" if task["status"] == "STOPPED" else _KILLED
        with ledger.writing() as connection:
            trainings.end(connection, number, result, succeeded=False)  # unless its process said so
            ended = trainings.get(connection, number)
        self._started = None
        logger.log(
            logging.INFO if ended.succeeded else logging.WARNING,
            "the training that began by itself %s: %s", "has ended" if ended.succeeded else "failed", ended.result,
        )  # fmt: skip

    def _shown(self, training: trainings.Training) -> dict[str, Any]:
        over = training.over_at(self._now())
        return {
            "by_itself": training.by_itself,
            "started": iso_time(training.started_at),
            "ended": None if over is None else iso_time(over),
            "result": training.result or (None if over is None else _KILLED),
            "version": training.version,
            "published": training.published,
        }
