"""Run as a program: imports MONAI Label and `lib` once, then makes a server out of a copy of itself whenever asked.

Importing takes most of a start; a copy of a process that has imported everything answers within a second. What the copy
runs is what `monailabel start_server` runs. Asked and answered by `tests.loop.copying`.
"""

import importlib
import logging
import os
import sys
from typing import NoReturn

from lib.imports import begin_imports, end_imports
from lib.web.environment import apply_environment, server_environment
from tests.loop.copying import leave, serve_copies, settle, take_answers


def main() -> None:
    """Import, then serve requests for servers."""
    apply_environment(server_environment(os.environ))
    answers = take_answers()
    begin_imports()
    for name in ("monailabel.app", "monailabel.main", "lib.web.app"):
        importlib.import_module(name)
    end_imports()
    serve_copies(answers, _become_server)


def _become_server(arguments: list[str], log: str, folder: str, environment: dict[str, str]) -> NoReturn:
    settle(log, folder, environment)
    from monailabel.main import Main

    sys.argv = ["monailabel", "start_server", *arguments]
    code = 1
    try:
        Main(loglevel=logging.INFO, actions="start_server").run()
        code = 0
    except SystemExit as error:
        code = int(error.code or 0)
    finally:
        leave(code)


if __name__ == "__main__":
    main()
