"""Background work in processes of its own: shown again after a restart, and ended with the server."""

import logging
import os
import sys
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import psutil
from monailabel.utils.async_tasks import utils as background

from lib.errors import StorageError
from lib.store import trainings
from lib.store.ledger import Ledger
from lib.supervision import end_with_parent
from lib.web.job_records import METHODS, Interrupted, JobRecords

logger = logging.getLogger(__name__)

INTERRUPTED = "INTERRUPTED"  # beside MONAI Label's own SUBMITTED, RUNNING, DONE, ERROR and STOPPED
_SERVER = "LIVERLOOP_SERVER"
_JOB = "monailabel.interfaces.utils.app"  # the program that MONAI Label starts for each
_KILL_S = 5.0


def end_with_server() -> bool:
    """In a process that a server started for a job: end with it. Does nothing in a server or a script.

    Returns:
        Whether this is such a process.
    """
    program = getattr(sys.modules["__main__"].__spec__, "name", None)
    server = os.environ.get(_SERVER, "")
    if program != _JOB or not server.isdecimal():
        return False
    end_with_parent(int(server))
    return True


def begin_jobs(records: JobRecords, ledger: Ledger | None) -> None:
    """In a server that starts: own the jobs from now on, and show what was interrupted before.

    Args:
        records: of the app folder.
        ledger: in which trainings that were interrupted are ended; None: there is none.
    """
    os.environ[_SERVER] = str(os.getpid())
    for job in records.interrupted():
        logger.warning("%s %s", _words(job.method), job.told)
        background.background_tasks.setdefault(job.method, []).append(_as_task(job))
        _end_in_ledger(job, ledger)


def interrupted_jobs() -> dict[str, str]:
    """What is told of the last job of each kind, where that was interrupted."""
    last = {method: background.tasks(method)[-1:] for method in METHODS}
    return {
        method: task["details"][-1] for method, found in last.items() for task in found if task["status"] == INTERRUPTED
    }


def running_jobs() -> dict[str, int]:
    """How many jobs of each kind wait or run."""
    return {
        method: sum(task["status"] in {"SUBMITTED", "RUNNING"} for task in background.tasks(method))
        for method in METHODS
    }


def stop_job(method: str, stop: Callable[[], Any], records: JobRecords) -> Any:
    """Stop a job because somebody asked for it: after a restart it is not shown as interrupted."""
    pids = [process.pid for process in background.processes(method).values()]
    answer = stop()
    for pid in pids:
        records.forget(pid)
    return answer


def end_jobs(records: JobRecords, ledger: Ledger | None) -> Sequence[str]:
    """End all jobs, and begin none of those that wait.

    Returns:
        What was ended, in words.
    """
    for executor in background.background_executors.values():
        executor.shutdown(wait=False, cancel_futures=True)
    ended = []
    for method in METHODS:
        for task in background.tasks(method):
            if task["status"] == "SUBMITTED":
                ended.append(f"{_words(method)} not begun: start it again")
        for process in list(background.processes(method).values()):
            _kill(process.pid)
            jobs = [job for job in records.interrupted() if job.pid == process.pid]
            for job in jobs:
                _end_in_ledger(job, ledger)
            told = [job.told for job in jobs] or ["interrupted at its beginning: start it again"]
            ended.append(f"{_words(method)} {told[0]}")
    return ended


def _kill(pid: int) -> None:
    try:
        process = psutil.Process(pid)
        family = [*process.children(recursive=True), process]
    except psutil.NoSuchProcess:
        return
    for one in family:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=_KILL_S)


def _end_in_ledger(job: Interrupted, ledger: Ledger | None) -> None:
    if job.training is None or ledger is None:
        return
    try:
        with ledger.writing() as connection:
            trainings.end(connection, job.training, job.told, succeeded=False)
    except StorageError as error:
        logger.warning("the end of training %d is not in the ledger: %s", job.training, error)


def _as_task(job: Interrupted) -> dict[str, Any]:
    """As MONAI Label keeps what it started itself."""
    times = {"start_ts": job.started_at, "end_ts": job.ended_at}
    return {
        "id": str(uuid.uuid4()),
        "status": INTERRUPTED,
        "request": dict(job.request),
        "details": [job.told],
        **{key: datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M:%S") for key, at in times.items()},
    }


def _words(method: str) -> str:
    return {"train": "training", "scoring": "scoring", "batch_infer": "batch inference"}[method]
