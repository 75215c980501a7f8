"""What clients are told of a training, scoring or batch: its last lines, without traces of the program."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lib.web.log_lines import UNFORESEEN, is_of_monai_label, parts_of

_TRACE = "Traceback (most recent call last):"
_KIND = re.compile(r"([A-Za-z_][\w.]*)(:.*)?")
_UNFORESEEN = re.compile(rf"{UNFORESEEN}: (\w+)")
_LOG = "look for {} in the server's log"


def told(task: Mapping[str, Any], folders: Mapping[Path, str]) -> dict[str, Any]:
    """A task of MONAI Label's as it goes out.

    Args:
        task: as MONAI Label keeps it; `details` are the last lines that its process printed.
        folders: of the server, each with what stands for it in an answer.
    """
    lines = task.get("details")
    if lines is None:
        return dict(task)
    shown = [_without(line, folders) for line in _shown(list(lines.copy()))]  # it goes on growing meanwhile
    if task.get("status") == "ERROR" and not any(UNFORESEEN in line or " ERROR " in line for line in shown):
        shown.append(f"it ended with an error; {_LOG.format(task.get('start_ts', 'its beginning'))}")
    return {**task, "details": shown}


def _shown(lines: Iterable[str]) -> Iterable[str]:
    in_trace = False
    for line in lines:
        parts = parts_of(line)
        if in_trace and parts is None:
            kind = None if line[:1].isspace() else _KIND.fullmatch(line)
            if kind is not None:
                in_trace = False
                yield f"{UNFORESEEN}: {kind[1]}; {_LOG.format(kind[1])}"
        elif _TRACE in line:
            in_trace = True
        elif parts is None:
            in_trace = False
            if not is_of_monai_label(line):
                yield line
        else:
            in_trace = False
            kind = _UNFORESEEN.search(parts.words)
            if kind is None:
                yield line
            else:
                words = parts.words[: kind.end()]
                yield f"{parts.time} {parts.level} {parts.logger} [{parts.id}] {words}; {_LOG.format(parts.id)}"


def _without(line: str, folders: Mapping[Path, str]) -> str:
    for folder, name in folders.items():
        line = line.replace(str(folder), name)
    return line
