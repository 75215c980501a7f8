"""The server's log: on the console and in `logs/app.log` of the app's folder, one line for each request of our own.

What a line holds: `lib.web.log_lines`.
"""

import json
import logging
import os
import sys
import threading
import warnings
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import TracebackType
from typing import Any

from lib.files import atomic_write
from lib.web.log_lines import JOBS, Line, Wanted
from lib.web.request_ids import new_request_id
from lib.web.traffic import METHODS, OTHER, WATCHED

logger = logging.getLogger(__name__)

FILE = "app.log"
MOST_BYTES = 10 * 2**20  # of one file
KEPT_FILES = 10  # beside the one that is written
_CONFIGURATION = "logging.json"
_OWNER_ONLY = 0o600


class OwnersFile(RotatingFileHandler):
    """A log file that only the server's own user may read, and no more of them than asked for."""

    def _open(self) -> Any:
        def only_for_owner(path: str, flags: int) -> int:
            return os.open(path, flags, _OWNER_ONLY)

        file = open(  # noqa: SIM115 - the handler closes it
            self.baseFilename, self.mode, encoding=self.encoding, errors=self.errors, opener=only_for_owner
        )
        if hasattr(os, "fchmod"):
            os.fchmod(file.fileno(), _OWNER_ONLY)  # one that was there before
        return file


def log_configuration(file: Path, *, verbose: bool = False) -> dict[str, Any]:
    """What `logging.config.dictConfig` makes the log of.

    Args:
        file: gets the lines, beside the console.
        verbose: with debugging messages of our own; those of libraries quote what the log must not hold.
    """
    common = {"formatter": "line", "filters": ["wanted"]}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": "lib.web.log_lines.Line"}},
        "filters": {"wanted": {"()": "lib.web.log_lines.Wanted"}},
        "handlers": {
            "console": {"class": "logging.StreamHandler", **common},
            "file": {
                "class": "lib.web.log.OwnersFile",
                "filename": str(file),
                "maxBytes": MOST_BYTES,
                "backupCount": KEPT_FILES,
                "encoding": "utf-8",
                **common,
            },
        },
        "root": {"level": "INFO", "handlers": ["console", "file"]},
        "loggers": {
            "lib": {"level": "DEBUG" if verbose else "INFO"},
            "monailabel": {"level": "WARNING"},
            "uvicorn": {"level": "INFO"},
            "uvicorn.access": {"level": "CRITICAL"},
            **{name: {"level": "INFO"} for name in JOBS},
        },
    }


def write_log_configuration(app: Path, *, verbose: bool = False) -> Path:
    """Write what MONAI Label takes as `--log_config` into the app's `logs` folder.

    Args:
        app: the app folder.
        verbose: see `log_configuration`.

    Returns:
        Where it is.

    Raises:
        StorageError: the disk refused.
    """
    folder = app / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{FILE}*"):
        old.chmod(_OWNER_ONLY)  # written before they were anybody's secret
    path = folder / _CONFIGURATION
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(log_configuration(folder / FILE, verbose=verbose), indent=2), encoding="utf-8")
    return path


def log_request(
    method: str, route: str, status: int, seconds: float, caller: str | None, size: int | None = None
) -> None:
    """Write the line of a request that is over.

    Args:
        method: of HTTP.
        route: its template such as `/infer/{model}`, or a path without query that no route is for.
        status: of the answer.
        seconds: from the request to the end of the answer.
        caller: who is logged in; None: nobody.
        size: bytes of the answer's body, if that is known.
    """
    level = logging.DEBUG if route in WATCHED else logging.INFO
    told = method if method in METHODS else OTHER
    sent = "" if size is None else f" {size} B"
    logger.log(level, "%s %s %d %.0f ms%s %s", told, route, status, seconds * 1000, sent, caller or "-")


def keep_private() -> None:
    """Give every log of this process our lines, whoever configured it; errors that nobody foresaw and warnings too.

    For a server that plain `monailabel start_server` runs, and for jobs. Call it again where more handlers came.
    """
    handlers = [*logging.root.handlers]
    for name in list(logging.root.manager.loggerDict):
        handlers += logging.getLogger(name).handlers
    for handler in handlers:
        if type(handler) in {logging.StreamHandler, logging.FileHandler, RotatingFileHandler}:
            handler.setFormatter(Line())
            if not any(isinstance(one, Wanted) for one in handler.filters):
                handler.addFilter(Wanted())
    watch_errors()


def watch_errors() -> None:
    """Errors that end a thread or the process, and warnings, come into the log without their words."""
    warnings.showwarning = _on_warning
    logging.raiseExceptions = False  # or a line that can't be written would be shown with its words
    sys.excepthook = _on_end_of_process
    threading.excepthook = _on_end_of_thread


def keep_private_in_job() -> None:
    """The same in a training, scoring or batch; all its lines get an id of its own, as those of a request have."""
    Line.job = f"job-{new_request_id(None)}"
    keep_private()


def _on_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    logger.warning("%s at %s:%d", category.__name__, Path(filename).name, lineno)


def _on_end_of_process(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logger.critical("the process ends", exc_info=(kind, error, trace))


def _on_end_of_thread(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_value is None or issubclass(ended.exc_type, SystemExit):
        return
    name = ended.thread.name if ended.thread else "unknown"
    logger.error("the thread %s ends", name, exc_info=(ended.exc_type, ended.exc_value, ended.exc_traceback))
