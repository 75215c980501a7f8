"""How a process that has imported much makes copies of itself; asked and answered in lines of JSON.

A copy of a process has only the thread that made it, and locks of the others would never be released: so there must be
no others.
"""

import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TextIO


def take_answers() -> TextIO:
    """Where answers go; what is printed goes to the standard error from now on."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # MONAI Label prints while it is imported
    return answers


def serve_copies(answers: TextIO, become: Callable[..., NoReturn]) -> None:
    """Make a copy, or say how one ended, for each line of the standard input; at its end, end every copy.

    Args:
        answers: of `take_answers`.
        become: what a copy does with what was asked for; never returns.
    """
    assert threading.active_count() == 1, threading.enumerate()
    running: set[int] = set()
    answers.write(json.dumps({"ready": True}) + "\n")
    for line in sys.stdin:
        answers.write(json.dumps(_answer(json.loads(line), running, become)) + "\n")
    for pid in running:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def _answer(asked: dict[str, Any], running: set[int], become: Callable[..., NoReturn]) -> dict[str, Any]:
    if "arguments" in asked:
        pid = os.fork()
        if pid == 0:
            become(**asked)
        running.add(pid)
        return {"pid": pid}
    pid, status = os.waitpid(asked["pid"], os.WNOHANG)
    if pid == 0:
        return {"code": None}
    running.discard(pid)
    return {"code": os.waitstatus_to_exitcode(status)}


def settle(log: str, folder: str, environment: dict[str, str]) -> None:
    """In a copy: a process group, an output, a folder and temporary files of its own.

    Args:
        log: gets what it prints.
        folder: where it runs.
        environment: variables that it gets beside those it has.
    """
    os.setsid()  # a process group of its own, which can be ended as a whole
    os.chdir(folder)
    with Path(os.devnull).open("rb") as nothing, Path(log).open("ab") as lines:
        os.dup2(nothing.fileno(), 0)
        os.dup2(lines.fileno(), 1)
        os.dup2(lines.fileno(), 2)
    os.environ.update(environment)
    tempfile.tempdir = None


def leave(code: int) -> NoReturn:
    """End a copy without what its maker would do at its own end."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
