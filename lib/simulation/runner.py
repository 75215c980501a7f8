"""Many campaigns side by side, each in a process with one thread; what is done already is not done again."""

import contextlib
import logging
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from lib.simulation.material import load, prepare, prepare_test_set, seed_folder
from lib.simulation.plan import Plan
from lib.simulation.rounds import Campaign, rounds_done
from lib.supervision import end_with_parent

_LOOK_S = 1.0  # between two looks at how many rounds are done


@dataclass(frozen=True)
class Job:
    """What a process does.

    Args:
        plan: of the simulation.
        strategy: of the campaign; empty: prepare what all campaigns of the seed need.
        seed: of the campaign.
        folder: of the simulation.
        app: folder of the app.
    """

    plan: Plan
    strategy: str
    seed: int
    folder: Path
    app: Path

    @property
    def place(self) -> Path:
        """Where the campaign writes."""
        return seed_folder(self.folder, self.seed) / (self.strategy or "start")

    @property
    def most(self) -> int:
        """How many rounds it has at most, with the one before the first label."""
        return 1 + self.plan.rounds_of(self.strategy) if self.strategy else 1

    @property
    def done(self) -> int:
        """How many of them are written down."""
        return rounds_done(self.place) if self.strategy else 0

    def __call__(self) -> None:
        """Do it, from where it was interrupted."""
        with _log_in(self.place.with_suffix(".log")):
            if not self.strategy:
                prepare(self.plan, self.seed, self.folder, self.app)
                return
            material = load(self.plan, self.seed, self.folder)
            Campaign(self.plan, self.strategy, self.seed, material, self.place).run()


def run_all(
    plan: Plan, strategies: Sequence[str], seeds: Sequence[int], folder: Path, app: Path, workers: int, niceness: int
) -> None:
    """Run all campaigns, and show how many rounds are done.

    When it is interrupted, a call with the same arguments goes on.

    Args:
        plan: of the simulation; `folder` must not hold another one.
        strategies: names, perhaps with "full".
        seeds: of the campaigns.
        folder: of the simulation.
        app: folder of the app.
        workers: processes.
        niceness: of theirs.

    Raises:
        BadInputError: the folder holds another simulation.
        LiverLoopError: what a campaign raised; the others are ended.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plan.keep(folder)
    with tqdm(total=plan.test_cases + plan.validation, desc="test set", unit="case", leave=False) as bar:
        prepare_test_set(plan, folder, bar.update)
    with _processes(workers, niceness) as pool:
        _do(pool, [Job(plan, "", seed, folder, app) for seed in seeds], "pools and start weights", "seed")
        _do(
            pool,
            [Job(plan, strategy, seed, folder, app) for seed in seeds for strategy in strategies],
            "rounds",
            "round",
        )


def _do(pool: ProcessPoolExecutor, jobs: Sequence[Job], what: str, unit: str) -> None:
    """Do jobs and show how many rounds there are of all that there may be."""
    with _interrupts_later():
        running = {pool.submit(job): job for job in jobs}
    waiting: set[Future[None]] = set(running)

    def done() -> int:
        return sum(
            job.most if future not in waiting else min(job.done, job.most - 1) for future, job in running.items()
        )

    with tqdm(total=sum(job.most for job in jobs), desc=what, unit=unit, initial=done(), smoothing=0.05) as bar:
        while waiting:
            ended, waiting = wait(waiting, _LOOK_S, FIRST_COMPLETED)
            for future in ended:
                future.result()
            bar.update(done() - bar.n)


@contextmanager
def _processes(workers: int, niceness: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end with this one, and at once where it is interrupted."""
    context = multiprocessing.get_context("spawn")  # a fork would take over torch's threads
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, context, _begin, (os.getpid(), niceness))
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()
        raise
    pool.shutdown()


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """A Ctrl-C waits until the end; processes that start in between are never interrupted by one: the parent decides.

    A terminal sends it to them as well, and those that are just importing would each show where.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(parent: int, niceness: int) -> None:
    """In each process, before its first job."""
    end_with_parent(parent)
    os.nice(niceness)
    torch.set_num_threads(1)


@contextmanager
def _log_in(path: Path) -> Iterator[None]:
    """Send the log, and the progress that trainings show, into a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file, contextlib.redirect_stderr(file):
        handler = logging.StreamHandler(file)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root = logging.getLogger()
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        try:
            yield
        finally:
            root.removeHandler(handler)
