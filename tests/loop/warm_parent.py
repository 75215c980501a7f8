"""Run as a program: imports what others have written, then runs whole programs in copies of itself.

Each copy begins with an environment, arguments and a folder of its own, and imports MONAI Label and `lib` anew, which
read their settings then: what it does is what `python PROGRAM` does, without ten seconds of waiting for PyTorch. Asked
and answered as `tests.loop.prepared_parent` is.
"""

import importlib
import json
import os
import runpy
import signal
import sys
import tempfile
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from lib.imports import begin_imports, end_imports

_WARM = (
    "torch", "torchvision", "monai.apps", "monai.bundle", "monai.data", "monai.engines", "monai.handlers",
    "monai.inferers", "monai.transforms", "ignite.engine", "fastapi", "uvicorn", "pydantic_settings", "pydicom_seg",
    "dicomweb_client.api", "SimpleITK", "nibabel", "sqlalchemy", "requests_toolbelt", "passlib.context", "jwt",
    "google.auth", "schedule", "timeloop", "watchdog.observers", "highdicom", "imagecodecs", "cc3d", "httpx",
)  # fmt: skip


def main() -> None:
    """Import, then serve requests for programs."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    begin_imports()
    for name in _WARM:
        with suppress(ModuleNotFoundError):  # a program that needs it imports it, or says that it lacks it
            importlib.import_module(name)
    end_imports()
    for name in [name for name in sys.modules if name.partition(".")[0] == "lib"]:
        del sys.modules[name]
    assert "monailabel" not in sys.modules, "it reads its settings when it is imported"
    assert threading.active_count() == 1, threading.enumerate()  # a copy has none of the others
    running: set[int] = set()
    answers.write(json.dumps({"ready": True}) + "\n")
    for line in sys.stdin:
        answers.write(json.dumps(_answer(json.loads(line), running)) + "\n")
    for pid in running:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def _answer(asked: dict[str, Any], running: set[int]) -> dict[str, Any]:
    if "arguments" in asked:
        pid = os.fork()
        if pid == 0:
            _become(**asked)
        running.add(pid)
        return {"pid": pid}
    pid, status = os.waitpid(asked["pid"], os.WNOHANG)
    if pid == 0:
        return {"code": None}
    running.discard(pid)
    return {"code": os.waitstatus_to_exitcode(status)}


def _become(arguments: list[str], environment: dict[str, str], log: str, folder: str) -> None:
    os.setsid()  # a process group of its own, which can be ended as a whole
    os.chdir(folder)
    with Path(os.devnull).open("rb") as nothing, Path(log).open("ab") as lines:
        os.dup2(nothing.fileno(), 0)
        os.dup2(lines.fileno(), 1)
        os.dup2(lines.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    sys.path[1:1] = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    program, *sys.argv[1:] = arguments
    code = 1
    try:
        if program.endswith(".py"):
            sys.argv[0], sys.path[0] = program, str(Path(program).parent)
            runpy.run_path(program, run_name="__main__")
        else:
            sys.argv[0], sys.path[0] = program, folder
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
