"""What clients are told of a training, scoring or batch: its last lines, without traces of the program."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lib.web.log_lines import UNFORESEEN, Parts, is_of_monai_label, parts_of

_TRACE = "Traceback (most recent call last):"
_FRAME = re.compile(r'  File "')
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
        if parts is not None:
            in_trace = False
            yield _in_short(line, parts)
        elif _TRACE in line or _FRAME.match(line):  # the beginning may not be kept any more
            in_trace = True
        elif in_trace:
            kind = _KIND.fullmatch(line)
            if kind is not None:
                in_trace = False
                yield f"{UNFORESEEN}: {kind[1]}; {_LOG.format(kind[1])}"
        elif line.strip() and not is_of_monai_label(line):
            yield line


def _in_short(line: str, parts: Parts) -> str:
    """A line of ours without the places in the program that an error passed."""
    kind = _UNFORESEEN.search(parts.words)
    return line if kind is None else f"{line[: -len(parts.words)]}{parts.words[: kind.end()]}; {_LOG.format(parts.id)}"


def _without(line: str, folders: Mapping[Path, str]) -> str:
    for folder, name in folders.items():
        line = line.replace(str(folder), name)
    return line
