"""What happened, written down for other programs: JSON lines or CSV."""

import csv
import json
from collections.abc import Iterable
from typing import IO, Any

from lib.store.events import Event
from lib.store.leases import iso_time

FORMATS = ("jsonl", "csv")

_COLUMNS = ("id", "at", "kind", "image", "tag", "actor", "detail")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def event_as_json(event: Event) -> dict[str, Any]:
    """An event as JSON."""
    return {
        "id": event.id,
        "at": iso_time(event.at),
        "kind": event.kind,
        "image": event.image_id,
        "tag": event.tag,
        "actor": event.actor,
        "detail": event.detail,
    }


def write_events(events: Iterable[Event], target: IO[str], form: str) -> None:
    """Write events as they come.

    Args:
        events: the oldest first.
        target: open for text; for CSV with `newline=""`.
        form: `jsonl`, one JSON object a line, or `csv`, with `detail` as JSON.
    """
    writer = csv.writer(target)
    if form == "csv":
        writer.writerow(_COLUMNS)
    for event in events:
        values = event_as_json(event)
        if form == "csv":
            values["detail"] = json.dumps(event.detail, ensure_ascii=False)
            writer.writerow([_as_text(values[column]) for column in _COLUMNS])
        else:
            target.write(json.dumps(values, ensure_ascii=False) + "\n")


def _as_text(value: Any) -> Any:
    """A spreadsheet would run a client's name that begins like a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
