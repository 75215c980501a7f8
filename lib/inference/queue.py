"""One engine for many: people who wait take turns, and what nobody waits for gives way to them.

Several inferences at once would only slow each other down and need the memory of all. So one thread owns the engine.
Which job is next: first those that somebody waits for, one of each client before the second of any, in the order in
which they came; then background work (prefetch, batches), which stops between slices while somebody waits; then idle
work, which stops for both. Who asks for what is being made already waits for that and starts nothing.
"""

import atexit
import itertools
import logging
import math
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from contextvars import ContextVar
from enum import IntEnum
from functools import partial
from queue import SimpleQueue
from typing import Any, NamedTuple

from lib.errors import GoneError, LiverLoopError, OverloadedError, UnavailableError

logger = logging.getLogger(__name__)

GiveWay = Callable[[], None]
Work = Callable[[GiveWay], Any]


class Rank(IntEnum):
    """Who goes first; a job of higher rank pauses for those of lower."""

    AWAITED = 0
    BACKGROUND = 1
    IDLE = 2


class WithRest(NamedTuple):
    """What a background job may give: its result at once, and what it still does with the engine.

    Nobody waits for the rest, which is background work from its beginning, whoever waited for the result.
    """

    value: Any
    rest: Work


_END_S = 10.0  # at most, for what runs when the server ends
_gone: ContextVar[Callable[[], bool]] = ContextVar("gone", default=lambda: False)


@contextmanager
def asked_by(gone: Callable[[], bool]) -> Iterator[None]:
    """Within it, `EngineQueue.run` drops what waits once `gone` says that nobody wants the answer any more.

    Args:
        gone: called now and then from the thread that waits.
    """
    token = _gone.set(gone)
    try:
        yield
    finally:
        _gone.reset(token)


class EngineQueue:
    """Runs one job at a time, except that others may be paused in the middle for those of waiting clients.

    Args:
        most_waiting: how many callers may wait while one is served; background work does not count.
        look_s: how often it is asked whether a waiting caller is still there.
    """

    def __init__(self, most_waiting: int, look_s: float = 0.2) -> None:
        self._most, self._look_s = most_waiting, look_s
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._jobs: dict[Hashable, _Job] = {}  # all that have not ended
        self._line: list[_Job] = []  # those that wait for the engine, paused ones too
        self._running: _Job | None = None
        self._callers = 0  # of `run`, not in the background
        # Turns by start-time fair queuing: a client's next turn comes after the others' current one.
        self._turn = 0
        self._turns: dict[str, int] = {}
        self._seconds = 1.0  # that the last job with a caller took
        # A paused job keeps its thread, so that there is one for each rank; only one of them computes.
        self._threads = {rank: _Thread(rank) for rank in Rank}
        self._closed = False

    def run(self, key: Hashable, work: Work, *, client: str = "", rank: Rank = Rank.AWAITED) -> Any:
        """The result of `work`, when its turn has come; that of a job with the same key if there is one.

        Args:
            key: what is made; equal keys mean equal results.
            work: called with a function that it should call often: there a background job is paused.
            client: whose turn it is.
            rank: let those of lower rank go first.

        Raises:
            OverloadedError: too many wait.
            GoneError: the caller has gone while waiting, see `asked_by`.
            Exception: what `work` raises.
        """
        awaited = rank is Rank.AWAITED
        with self._lock:
            if awaited and self._callers > self._most:
                seconds = max(1, math.ceil(self._seconds))
                msg = f"{self._most} requests wait for the network already; ask again in {seconds} s"
                raise OverloadedError(msg, seconds)
            job = self._admitted(key, work, client, rank)
            job.callers += 1
            self._callers += awaited
        try:
            return self._result(job)
        finally:
            with self._lock:
                job.callers -= 1
                self._callers -= awaited
                if not job.callers and not job.begun and job in self._line:
                    self._drop(job)

    def start(self, key: Hashable, work: Work, *, client: str = "") -> None:
        """Do it in the background with nobody waiting; the client's last that has not begun is dropped for it."""
        with self._lock:
            unasked = [job for job in self._line if job.rank and not job.begun and not job.callers]
            outdated = [job for job in unasked if job.client == client and job.key != key]
            for job in outdated or unasked[: len(unasked) - self._most]:
                self._drop(job)
            if not self._closed:
                self._admitted(key, work, client, Rank.BACKGROUND)

    @property
    def waiting(self) -> int:
        """How many jobs wait for the engine."""
        with self._lock:
            return len(self._line)

    def close(self) -> None:
        """Take nothing more and break off what runs."""
        with self._lock:
            self._closed = True
            for job in self._line:
                job.go_on.set()
                if not job.begun:
                    job.future.set_exception(_stopping())
        for thread in self._threads.values():
            thread.end(_END_S)
        atexit.unregister(self.close)

    def _admitted(self, key: Hashable, work: Work, client: str, rank: Rank) -> "_Job":
        """The job of this key, in line; one that has not begun is done as who is most urgent does it."""
        if self._closed:
            raise _stopping()
        turn = 0 if rank else max(self._turn, self._turns.get(client, -1) + 1)
        if not rank:
            self._turns[client] = turn
        order = (rank, turn, next(self._numbers))
        job = self._jobs.get(key)
        if job is None:
            job = self._jobs[key] = _Job(key, work, client, order)
            self._line.append(job)
        elif rank < job.rank and not job.begun:
            job.work = work
        job.order = min(job.order, order)
        self._next()
        return job

    def _result(self, job: "_Job") -> Any:
        gone = _gone.get()
        while not wait([job.future], self._look_s).done:
            if gone():
                msg = "the client has gone while its request was waiting"
                raise GoneError(msg)
        return job.future.result()

    def _next(self) -> None:
        """Let the first in line have the engine if it is free."""
        if self._running is not None or not self._line or self._closed:
            return
        job = self._running = min(self._line, key=lambda each: each.place)
        self._line.remove(job)
        if job.begun:
            job.go_on.set()
            return
        job.begun = True
        if not job.rank:
            self._turn = job.order[1]
            self._turns = {client: turn for client, turn in self._turns.items() if turn >= self._turn}
        if not any(thread.started for thread in self._threads.values()):
            atexit.register(self.close)
        self._threads[job.rank].do(partial(self._do, job))

    def _do(self, job: "_Job") -> None:
        result, rest, failure, began = None, None, None, time.perf_counter()
        try:
            result = job.work(partial(self._give_way, job))
        except BaseException as error:  # whatever it is belongs to who waits for it
            failure = error
        if isinstance(result, WithRest):
            result, rest = result
        with self._lock:
            del self._jobs[job.key]
            if job.callers and not job.rank:
                self._seconds = time.perf_counter() - began
            elif failure is not None and not job.callers:
                self._warn(failure)
            if rest is None:
                self._leave()
            else:
                job.order = (Rank.BACKGROUND, 0, next(self._numbers))
        if failure is None:
            job.future.set_result(result)
        else:
            job.future.set_exception(failure)
        del result
        if rest is not None:
            self._do_rest(job, rest)

    def _do_rest(self, job: "_Job", rest: Work) -> None:
        failure = None
        try:
            rest(partial(self._give_way, job))
        except BaseException as error:
            failure = error
        with self._lock:
            if failure is not None:
                self._warn(failure)
            self._leave()

    def _leave(self) -> None:
        self._running = None
        self._next()

    def _warn(self, failure: BaseException) -> None:
        """Of what nobody asked for."""
        if not self._closed:
            known = isinstance(failure, LiverLoopError)
            logger.warning("not done in the background: %s", failure, exc_info=None if known else failure)

    def _give_way(self, job: "_Job") -> None:
        """Pause a job that is not awaited while one of lower rank is in line."""
        with self._lock:
            urgent = any(other.rank < job.rank for other in self._line)
            if urgent and not self._closed:
                job.go_on.clear()
                self._running = None
                self._line.append(job)
                self._next()
        if urgent:
            job.go_on.wait()
        if self._closed:
            raise _stopping()

    def _drop(self, job: "_Job") -> None:
        self._line.remove(job)
        del self._jobs[job.key]


def _stopping() -> UnavailableError:
    return UnavailableError("the server is being stopped; ask again when it runs")


class _Job:
    """Something to be made once for all who ask for it."""

    def __init__(self, key: Hashable, work: Work, client: str, order: tuple[Rank, int, int]) -> None:
        self.key, self.work, self.client = key, work, client
        self.order = order  # rank, turn, number
        self.callers = 0
        self.begun = False
        self.go_on = threading.Event()
        self.future: Future[Any] = Future()

    @property
    def rank(self) -> Rank:
        """Its own, or that of the most urgent who asked for it."""
        return self.order[0]

    @property
    def place(self) -> tuple[Rank, bool, int, int]:
        """The least is next: of a rank the job that has begun, so that only one of each is ever held in memory."""
        rank, turn, number = self.order
        return rank, rank > Rank.AWAITED and not self.begun, turn, number


class _Thread:
    """Does one thing after the other; begins when there is something to do, for copies of a process have no threads."""

    def __init__(self, rank: Rank) -> None:
        self._name = ("segment", "segment-in-background", "segment-when-idle")[rank]
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def started(self) -> bool:
        """Whether there was something to do."""
        return self._thread is not None

    def do(self, task: Callable[[], None]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        self._tasks.put(task)

    def end(self, seconds: float) -> None:
        self._tasks.put(None)
        if self._thread is not None:
            self._thread.join(seconds)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()
            del task  # with the result, of which the next one may be long in coming
