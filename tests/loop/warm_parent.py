"""Run as a program: imports what others have written, then runs whole programs in copies of itself.

Each copy begins with an environment, arguments and a folder of its own, and imports MONAI Label and `lib` anew, which
read their settings then: what it does is what `python PROGRAM` does, without ten seconds of waiting for PyTorch. Asked
and answered by `tests.loop.copying`.
"""

import importlib
import os
import runpy
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from lib.imports import begin_imports, end_imports
from tests.loop.copying import leave, serve_copies, settle, take_answers

_WARM = (
    "torch", "torchvision", "monai.apps", "monai.bundle", "monai.data", "monai.engines", "monai.handlers",
    "monai.inferers", "monai.transforms", "ignite.engine", "fastapi", "uvicorn", "pydantic_settings", "pydicom_seg",
    "dicomweb_client.api", "SimpleITK", "nibabel", "sqlalchemy", "requests_toolbelt", "passlib.context", "jwt",
    "google.auth", "schedule", "timeloop", "watchdog.observers", "highdicom", "imagecodecs", "cc3d", "httpx",
)  # fmt: skip


def main() -> None:
    """Import, then serve requests for programs."""
    answers = take_answers()
    begin_imports()
    for name in _WARM:
        with suppress(ModuleNotFoundError):  # a program that needs it imports it, or says that it lacks it
            importlib.import_module(name)
    end_imports()
    for name in [name for name in sys.modules if name.partition(".")[0] == "lib"]:
        del sys.modules[name]
    assert "monailabel" not in sys.modules, "it reads its settings when it is imported"
    serve_copies(answers, _become)


def _become(arguments: list[str], environment: dict[str, str], log: str, folder: str) -> NoReturn:
    os.environ.clear()
    settle(log, folder, environment)
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
        leave(code)


if __name__ == "__main__":
    main()
