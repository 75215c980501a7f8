"""Trainings in processes of their own, which can be killed at any moment."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from matplotlib.figure import Figure

from lib.settings import Settings
from lib.store.studies import labelled_images
from lib.training.cases import find_cases
from lib.training.registry import Registry
from lib.training.run import run_training

# A server that has imported everything once and forks for each training; it has computed nothing, so that no thread
# is missing in its children.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.training.killed_training", "torch._dynamo"])  # which torch imports when needed


class Job(NamedTuple):
    """What to train; `content` is that of an `app.yaml`."""

    studies: Path
    app: Path
    run: Path
    content: dict[str, Any]


def die(*_: object, **__: object) -> None:
    """As by `kill -9`, or a power cut."""
    os.kill(os.getpid(), signal.SIGKILL)


def _die_writing_state(number: int, save: Callable[..., object]) -> Callable[[dict[str, Any], Path], None]:
    """In place of `torch.save`; the checkpoints go through it as well."""
    states = 0

    def called(content: dict[str, Any], path: Path) -> None:
        nonlocal states
        states += "fit" in content
        save(content, path)
        if states == number:
            os.truncate(path, path.stat().st_size // 2)
            die()

    return called


def _at_call(number: int, act: Callable[..., object], otherwise: Callable[..., Any]) -> Callable[..., Any]:
    calls = 0

    def called(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return (act if calls == number else otherwise)(*arguments, **options)

    return called


def _after(original: Callable[..., object]) -> Callable[..., None]:
    def called(*arguments: Any, **options: Any) -> None:
        original(*arguments, **options)
        die()

    return called


# Where a training can kill itself: what is replaced and by what.
POINTS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "the state of epoch 2 is half written": (
        "torch.save",
        lambda original: _die_writing_state(3, original),
    ),
    "epoch 2 is in the history but not kept": (
        "lib.training.run.save_state",
        lambda original: _at_call(3, die, original),
    ),
    "models are being compared": ("lib.training.gate.compare_on", lambda original: _at_call(2, die, original)),
    "the version is there but not published": ("lib.training.registry.Registry.publish", lambda _: die),
    "the version is published": ("lib.training.registry.Registry.publish", _after),
}


def start(job: Job, *, resume: bool, point: str | None = None) -> tuple[Any, Connection]:
    """Start a training; its end of the pipe tells the number of each step done in this life."""
    ours, theirs = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_train, args=(theirs, job, resume, point), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def train(job: Job, *, resume: bool = False, point: str | None = None) -> int:
    """Train to the end, or to the point where it kills itself; gives the exit code."""
    process, _ = start(job, resume=resume, point=point)
    process.join()
    return int(process.exitcode)


def train_until(job: Job, steps: int, *, resume: bool) -> bool:
    """Train and kill it when it has done some steps; gives whether it was still running then."""
    process, connection = start(job, resume=resume)
    try:
        while connection.recv() < steps:
            pass
    except EOFError:  # it has ended before
        pass
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def _train(connection: Connection, job: Job, resume: bool, point: str | None) -> None:
    torch.set_num_threads(1)
    settings = Settings.model_validate(job.content)
    done = 0

    def on_step(*_: object) -> None:
        nonlocal done
        done += 1
        connection.send(done)

    with ExitStack() as stack:
        stack.enter_context(patch("lib.training.history.draw_curves", lambda _: Figure(figsize=(0.5, 0.5))))
        if point:
            target, replacement = POINTS[point]
            stack.enter_context(patch(target, replacement(resolve_name(target))))
        connection.send(0)
        run_training(
            find_cases(labelled_images(job.studies)), settings, job.run, torch.device("cpu"),
            start=None, registry=Registry(job.app, settings), resume=resume, on_step=on_step,
        )  # fmt: skip
