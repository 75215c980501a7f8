"""Which promises a soak found kept."""

from collections.abc import Mapping
from statistics import median
from typing import Any

_FEW = 10  # more open files or threads than before: of connections at that moment
_QUARTER = 4
_TELLS_AFTER = 5.0  # minutes: then there are samples enough behind the warm-up
_TRAINS_AFTER = 3.0  # minutes: until then the first training may not have begun its work


def promises(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each promise with `promise`, `kept` and `told`, what was found in words.

    Args:
        result: of `lib.benchmarks.soak.measure`, as far as it is measured.
    """
    errors = sum(row["error"] for row in result["requests"].values())
    asked = sum(row["done"] + row["error"] for row in result["requests"].values())
    labels, files, server, trainings = (
        result["labels"], result["files"], result["server"], result["models"]["trainings"],
    )  # fmt: skip
    stop = server["stop"]
    ended = f"exit code {stop['code']} after {stop['seconds']:.1f} s"
    idle = [name for name, count in result["saved"].items() if not count]
    trained = any(runs for _, runs in result["models"]["training"])
    listed = (
        (
            "all work, and a training runs",
            not idle and (trained or result["minutes"] < _TRAINS_AFTER),
            f"{len(idle)} annotators saved nothing; {'a' if trained else 'no'} training ran",
        ),
        ("no request fails", not errors, _told(f"{errors} of {asked}", result["errors"])),
        (
            "no label is lost, none is there twice",
            not labels["complaints"],
            _told(f"{labels['acknowledged']} acknowledged, {labels['versions']} kept", labels["told"]),
        ),
        ("ledger and folder agree", not labels["findings"], f"{labels['findings']} findings"),
        (
            "images are as they were",
            not (files["images_changed"] or files["added"]),
            _told("", [*files["images_changed"], *files["added"]]) or "yes, nothing beside them",
        ),
        (
            "no temporary file is left",
            not files["temporary_left"],
            _told(f"{len(files['temporary_left'])} left", files["temporary_left"]),
        ),
        ("no session is left", not files["sessions_left"], f"{files['sessions_left']} left"),
        ("memory does not grow", *_memory(result)),
        *((f"no more {key.replace('_', ' ')}", *_level(result["samples"][key])) for key in ("open_files", "threads")),
        ("no training fails", not trainings.get("failed", 0), _counts(trainings)),
        ("the log tells of no error", not server["log"], _told(f"{len(server['log'])} lines", server["log"])),
        (
            "the server stops when asked, with its children",
            stop["code"] == 0 and not stop["left"] and not server["ended"],
            f"{ended}, {stop['left']} of {stop['children']} children left",
        ),
    )
    return [{"promise": promise, "kept": bool(kept), "told": told} for promise, kept, told in listed]


def _memory(result: Mapping[str, Any]) -> tuple[bool, str]:
    found, most = result["growth"]["memory_mb"], result["most_growth_mb"]
    if found is None:
        return result["minutes"] < _TELLS_AFTER, "too short, or too few samples, to tell"
    told = f"{found['per_hour']:+.0f} MB/h (95 %: {found['lower']:+.0f} to {found['upper']:+.0f}), allowed {most:g}"
    return found["lower"] <= most, told


def _level(values: list[int]) -> tuple[bool, str]:
    """Whether the last quarter is about where the second was; in the first the server warms up."""
    quarter = len(values) // _QUARTER
    if not quarter:
        return True, "too short to tell"
    before, after = median(values[quarter : 2 * quarter]), median(values[-quarter:])
    return after - before <= _FEW, f"{before:g}, at the end {after:g}"


def _told(figures: str, words: list[str]) -> str:
    return f"{figures}: {words[0]}" if words and figures else figures or "; ".join(words)


def _counts(trainings: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in trainings.items()) or "none"
