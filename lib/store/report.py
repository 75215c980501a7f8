"""What the ledger holds, as tables for people and as values for JSON."""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from lib.store import images, leases, segs, versions
from lib.store.archive import Exported
from lib.store.archive_import import Imported
from lib.store.comparison import Comparison
from lib.store.events import Event
from lib.store.findings import Finding
from lib.store.layout import Layout
from lib.store.leases import Lease, iso_time
from lib.store.meaning import LOOKED_AT, SLICES, looked_at
from lib.store.refused import Refused
from lib.store.scan import Changes
from lib.store.schema import images as images_table
from lib.store.schema import versions as versions_table
from lib.store.store import Store
from lib.store.versions import Version

_WIDEST = 60  # characters of what a client or a person wrote


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], nothing: str) -> str:
    """Columns side by side, those of numbers to the right.

    Args:
        headers: one per column.
        rows: one value per column; None is shown as nothing.
        nothing: what to say where there are no rows.
    """
    cells = [["" if value is None else " ".join(str(value).split()) for value in row] for row in rows]
    if not cells:
        return nothing
    columns = list(zip(headers, *cells, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [all(_is_number(cell) for cell in column[1:]) and any(column[1:]) for column in columns]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in [list(headers), *cells]
    )


def status(store: Store) -> dict[str, Any]:
    """How many of everything there are, and where the ledger is."""
    gone = select(func.count()).select_from(images_table).where(~images_table.c.present)
    with store.ledger.reading() as connection:
        looked = store.ledger.fact(connection, "scanned_at")
        held = leases.list_all(connection)
        exchange = segs.status(store.ledger, connection)
        return {
            "studies": str(store.layout.studies),
            "ledger": f"{store.ledger.url.get_backend_name()} {store.ledger.name}",
            "images": images.counts(connection),
            "gone": int(connection.scalar(gone) or 0),
            "labels": versions.count_by_tag(connection),
            "versions": int(connection.scalar(select(func.count()).select_from(versions_table)) or 0),
            "waiting": len(versions.pending(connection)),
            "leases": sum(lease.expires_at > time.time() for lease in held),
            "scanned_at": iso_time(float(looked)) if looked else None,
            **({"pacs": exchange} if exchange else {}),
        }


def status_table(figures: Mapping[str, Any]) -> str:
    """`status` for people."""
    counts = figures["images"]
    looked = figures["scanned_at"]
    lines = {
        "studies": figures["studies"],
        "ledger": figures["ledger"],
        "images": f"{counts['total']}: {counts['completed']} labelled, {counts['open']} to be labelled, "
        f"{counts['excluded']} excluded, {counts['unfit']} unfit; {figures['gone']} more are known and not in the "
        "folder",
        "labels": ", ".join(f"{tag} {number}" for tag, number in figures["labels"].items()) or "none",
        "versions": figures["versions"],
        "not taken in": figures["waiting"],
        "leases": figures["leases"],
        "looked through": "never" if looked is None else _local(looked),
    }
    if "pacs" in figures:
        lines |= {"PACS": figures["pacs"]["pacs"], "SEGs": segs.status_text(figures["pacs"])}
    width = max(map(len, lines))
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in lines.items())


def version_as_json(layout: Layout, version: Version, current: Collection[int | None] = ()) -> dict[str, Any]:
    """A version as JSON.

    Files are told by their path within the studies folder; what the client noted is left out, as it may hold paths of
    the server.

    Args:
        layout: of the studies folder.
        version: the version.
        current: keys of the versions that are shown.
    """
    values = asdict(version)
    for name in ("id", "info", "image_id", "file", "sent", "saved_at"):
        del values[name]
    folder = layout.versions.relative_to(layout.studies)
    return {
        "image": version.image_id,
        **values,
        "file": (folder / version.file).as_posix(),
        "sent": version.sent and (folder / version.sent).as_posix(),
        "saved_at": iso_time(version.saved_at),
        **{key: version.info.get(key) for key in (LOOKED_AT, SLICES)},
        "current": version.id in current,
    }


def history_table(history: Sequence[Version], current: Collection[int] = ()) -> str:
    """Versions, the newest first: who, when, and per class ml and Dice with what a model made and the one before.

    Where not all slices of a version were looked at, a column says of how many that is true.
    """
    classes = list(dict.fromkeys(name for version in history for name in version.ml or {}))
    headers = ["tag", "version", "", "saved", "by", "source", "model"]
    for name in classes:
        headers += [f"{name} ml", "Dice model", "Dice before"]
    seen = [looked_at(version.info) for version in history]
    if any(seen):
        headers.append("looked at")
    rows = []
    for version, part in zip(history, seen, strict=True):
        source = version.source if version.restored_from is None else f"{version.source} {version.restored_from}"
        row: list[object] = [version.tag, version.number, "shown" if version.id in current else None]
        row += [local_time(version.saved_at), version.author[:_WIDEST], source, version.model_version]
        for name in classes:
            row.append(_ml((version.ml or {}).get(name)))
            for compared in (version.against_presegmentation, version.against_previous):
                row.append(_dice((compared or {}).get(name, {}).get("dice")))
        if any(seen):
            row.append(f"{part[LOOKED_AT]} of {part[SLICES]} slices" if part else "all")
        rows.append(row)
    return table(headers, rows, "no label")


def diff_table(comparison: Comparison, first: int, second: int) -> str:
    """What is different between two versions, per class."""
    headers = ["class", "Dice", "changed ml", f"ml in {first}", f"ml in {second}"]
    rows = [
        [name, _dice(row["dice"]), _ml(row["changed_ml"]), _ml(row["ml_first"]), _ml(row["ml_second"])]
        for name, row in comparison.items()
    ]
    return table(headers, rows, "no classes")


def lease_table(held: Sequence[Lease]) -> str:
    """Who has which image until when."""
    headers = ["image", "client", "strategy", "since", "renewed", "until", ""]
    rows = [
        [
            lease.image_id,
            lease.client_id[:_WIDEST],
            lease.strategy,
            *(local_time(at) for at in (lease.acquired_at, lease.renewed_at, lease.expires_at)),
            "over" if lease.expires_at <= time.time() else None,
        ]
        for lease in held
    ]
    return table(headers, rows, "nobody has an image")


def unfit_table(unfit: Mapping[str, str]) -> str:
    """The images that can't be used, for people."""
    return table(["image", "why"], unfit.items(), "every image can be used")


def excluded_table(excluded: Mapping[str, str]) -> str:
    """The images left out."""
    return table(["image", "reason"], excluded.items(), "no image is excluded")


def refused_table(found: Sequence[Refused]) -> str:
    """The files that were refused or set aside."""
    rows = [(one.at and _local(one.at), one.image_id, one.tag, one.sent_by, one.file, one.reason) for one in found]
    return table(["at", "image", "tag", "sent by", "file", "reason"], rows, "nothing was refused")


def event_table(happened: Sequence[Event]) -> str:
    """What happened, the newest first."""
    rows = [
        (local_time(event.at), event.kind, event.image_id, event.tag, event.actor[:_WIDEST], _detail(event.detail))
        for event in happened
    ]
    return table(["at", "what", "image", "tag", "by", "detail"], rows, "nothing happened yet")


def finding_text(findings: Sequence[Finding]) -> str:
    """Disagreements, each with what a repair would do."""
    if not findings:
        return "files and ledger agree"
    lines = []
    for finding in findings:
        where = finding.path or " ".join(part for part in (finding.image_id, finding.tag) if part)
        lines.append(f"{where}: {finding.kind}: {finding.explanation}")
        lines.append(f"    {'repair would: ' + finding.repair if finding.repair else 'a person must act'}")
    repairable = sum(finding.repair is not None for finding in findings)
    total = "1 disagreement" if len(findings) == 1 else f"{len(findings)} disagreements"
    lines.append(f"{total}; scripts/ledger.py repair can do something about {repairable}")
    return "\n".join(lines)


def changes_text(changes: Changes) -> str:
    """What a look through the folder found."""
    figures = {
        "images that are new": changes.images_added,
        "images that are other files now, or there again": len(changes.images_changed),
        "images that are gone": len(changes.images_vanished),
        "labels that were looked at": len(changes.labels_found),
        "labels that are gone": len(changes.labels_missing),
        "images that are still being written": len(changes.unsettled),
    }
    return "\n".join(f"{number} {what}" for what, number in figures.items() if number) or "nothing has changed"


def exported_text(exported: Exported, path: Path) -> str:
    """What an archive holds, and what it had to leave out."""
    versions_in = exported.counts.get("versions", 0)
    lines = [f"{path}: {versions_in} versions, {exported.files} files, {exported.size / 1e6:.1f} MB"]
    lines += [f"lost or damaged, not in the archive: {member}" for member in exported.missing]
    return "\n".join(lines)


def imported_text(imported: Imported) -> str:
    """What an import added."""
    if not imported:
        return "everything in the archive is here already"
    return "added: " + ", ".join(f"{number} {what}" for what, number in asdict(imported).items() if number)


def local_time(at: float) -> str:
    """Seconds since the epoch as this machine's time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _local(iso: str) -> str:
    """A time in ISO format as this machine's; what somebody else wrote there as it is."""
    try:
        return local_time(datetime.fromisoformat(iso).timestamp())
    except ValueError:
        return iso


def _detail(detail: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in detail.items() if value is not None)


def _ml(value: float | None) -> str | None:
    return None if value is None else f"{value:.1f}"


def _dice(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"


def _is_number(cell: str) -> bool:
    return not cell or cell.replace(".", "", 1).isdigit()
