"""Run as a program: imports MONAI Label and `lib` once, then makes a server out of a copy of itself whenever asked.

Importing takes most of a start; a copy of a process that has imported everything answers within a second. What the copy
runs is what `monailabel start_server` runs. Asked and answered in lines of JSON on the standard streams; when its
input ends, it ends every server and itself.
"""

import importlib
import json
import logging
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from lib.imports import begin_imports, end_imports
from lib.web.environment import apply_environment, server_environment


def main() -> None:
    """Import, then serve requests for servers."""
    apply_environment(server_environment(os.environ))
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # MONAI Label prints while it is imported
    begin_imports()
    for name in ("monailabel.app", "monailabel.main", "lib.web.app"):
        importlib.import_module(name)
    end_imports()

    # A copy of a process has only the thread that made it, and locks of the others would never be released.
    assert threading.active_count() == 1, threading.enumerate()
    running: set[int] = set()
    answers.write(json.dumps({"ready": True}) + "\n")
    for line in sys.stdin:
        answers.write(json.dumps(_answer(json.loads(line), running)) + "\n")
    for pid in running:
        os.killpg(pid, signal.SIGKILL)


def _answer(asked: dict[str, Any], running: set[int]) -> dict[str, Any]:
    if "arguments" in asked:
        pid = os.fork()
        if pid == 0:
            _become_server(**asked)
        running.add(pid)
        return {"pid": pid}
    pid, status = os.waitpid(asked["pid"], os.WNOHANG)
    if pid == 0:
        return {"code": None}
    running.discard(pid)
    return {"code": os.waitstatus_to_exitcode(status)}


def _become_server(arguments: list[str], log: str, folder: str, environment: dict[str, str]) -> None:
    os.setsid()  # a process group of its own, which can be ended as a whole
    os.chdir(folder)
    with Path(os.devnull).open("rb") as nothing, Path(log).open("ab") as lines:
        os.dup2(nothing.fileno(), 0)
        os.dup2(lines.fileno(), 1)
        os.dup2(lines.fileno(), 2)
    os.environ.update(environment)
    tempfile.tempdir = None
    from monailabel.main import Main

    sys.argv = ["monailabel", "start_server", *arguments]
    code = 1
    try:
        Main(loglevel=logging.INFO, actions="start_server").run()
        code = 0
    except SystemExit as error:
        code = int(error.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
