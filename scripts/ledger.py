#!/usr/bin/env python3
"""Look into and keep in order what a studies folder knows: versions of labels, leases, exclusions, what happened.

    scripts/ledger.py status --studies ~/livers
    scripts/ledger.py history case_1 --studies ~/livers
    scripts/ledger.py restore case_1 2 --studies ~/livers --by ann
    scripts/ledger.py export livers.zip --studies ~/livers
    scripts/ledger.py check --studies ~/livers --conf ledger postgresql://liverloop@db/livers

All of it works while a server runs on the folder. docs/ledger.md explains every command.
Exit code: 0, 1 if something disagrees or remains to be done, 2 for wrong input.
"""

import argparse
import getpass
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.venv import enter_environment

enter_environment()

from tqdm import tqdm

from lib.console import Parser, check_output_file, run
from lib.errors import NotFoundError
from lib.files import atomic_write
from lib.inference.command_line import settings_from
from lib.store import audit, events, images, leases, refused, report, versions
from lib.store.archive import export_archive
from lib.store.archive_import import import_archive
from lib.store.command_line import add_ledger_options, check_studies
from lib.store.event_export import FORMATS, event_as_json, write_events
from lib.store.layout import FINAL
from lib.store.opening import open_store
from lib.store.store import Store

Answer = tuple[Any, str, int]  # for --json, for people, exit code


def main() -> int:
    """Run one command and print its answer."""
    arguments = _arguments()
    settings = settings_from(arguments)
    if arguments.name != "import":
        check_studies(arguments.studies, may_be_new=arguments.name == "rescan")
    # Labels are not renumbered by a mistyped --app.
    store = open_store(arguments.studies, settings, arguments.app, follow_classes=False)
    try:
        answer = arguments.command(store, arguments)
    finally:
        store.close()
    if answer is None:
        return 0
    values, text, code = answer
    print(json.dumps(values, indent=2, ensure_ascii=False) if arguments.json else text)
    return code


def _status(store: Store, _: argparse.Namespace) -> Answer:
    figures = report.status(store)
    return figures, report.status_table(figures), 0


def _history(store: Store, arguments: argparse.Namespace) -> Answer:
    with store.ledger.reading() as connection:
        found = versions.history(connection, arguments.image, arguments.tag)
        if not found:
            images.get(connection, arguments.image)  # raises where there is no such image
        shown = {version.tag: versions.current(connection, arguments.image, version.tag) for version in found}
    current = {version.id for version in shown.values() if version is not None}
    values = [report.version_as_json(store.layout, version, current) for version in found]
    return values, report.history_table(found, current), 0


def _diff(store: Store, arguments: argparse.Namespace) -> Answer:
    first, second = arguments.first, arguments.second
    classes = store.labels.diff(arguments.image, arguments.tag, first, second)
    values = {"image": arguments.image, "tag": arguments.tag, "first": first, "second": second, "classes": classes}
    return values, report.diff_table(classes, first, second), 0


def _restore(store: Store, arguments: argparse.Namespace) -> Answer:
    version = store.labels.restore(arguments.image, arguments.tag, arguments.number, author=arguments.by)
    text = (
        f"version {version.number} of the label {version.tag} of {version.image_id} repeats version {arguments.number}"
    )
    return report.version_as_json(store.layout, version, {version.id}), text, 0


def _leases(store: Store, _: argparse.Namespace) -> Answer:
    with store.ledger.reading() as connection:
        held = leases.list_all(connection)
    return [lease.described() for lease in held], report.lease_table(held), 0


def _release(store: Store, arguments: argparse.Namespace) -> Answer:
    with store.ledger.writing() as connection:
        lease = leases.free(connection, arguments.image, actor=arguments.by, why="released by scripts/ledger.py")
    if lease is None:
        msg = f"nobody has the image {arguments.image!r}"
        raise NotFoundError(msg)
    return lease.described(), f"took {lease.image_id} back from {lease.client_id}", 0


def _exclude(store: Store, arguments: argparse.Namespace) -> Answer:
    with store.ledger.writing() as connection:
        images.exclude(connection, arguments.image, arguments.reason, arguments.by)
        leases.free(connection, arguments.image, actor=arguments.by, why="the image was excluded")
    values = {"image": arguments.image, "excluded": arguments.reason}
    return values, f"{arguments.image} is left out: {arguments.reason}", 0


def _include(store: Store, arguments: argparse.Namespace) -> Answer:
    with store.ledger.writing() as connection:
        images.include(connection, arguments.image, arguments.reason, arguments.by)
    return {"image": arguments.image, "excluded": None}, f"{arguments.image} is no longer left out", 0


def _unfit(store: Store, _: argparse.Namespace) -> Answer:
    with store.ledger.reading() as connection:
        found = images.unfit(connection)
    return found, report.unfit_table(found), 0


def _excluded(store: Store, _: argparse.Namespace) -> Answer:
    with store.ledger.reading() as connection:
        found = images.excluded(connection)
    return found, report.excluded_table(found), 0


def _refused(store: Store, arguments: argparse.Namespace) -> Answer:
    found = list(refused.listed(store.layout, arguments.image))
    return [asdict(one) for one in found], report.refused_table(found), 0


def _events(store: Store, arguments: argparse.Namespace) -> Answer:
    with store.ledger.reading() as connection:
        found = events.history(connection, arguments.image, limit=arguments.limit)
    return [event_as_json(event) for event in found], report.event_table(found), 0


def _audit(store: Store, arguments: argparse.Namespace) -> None:
    """Straight to its target, as it may be long."""
    if arguments.output is not None:
        check_output_file(arguments.output)
    with store.ledger.reading() as connection:
        found = events.walk(
            connection, since=arguments.since, before=arguments.before, user=arguments.user, kind=arguments.kind
        )
        if arguments.output is None:
            write_events(found, sys.stdout, arguments.format)
            return
        with atomic_write(arguments.output) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            write_events(found, file, arguments.format)


def _rescan(store: Store, _: argparse.Namespace) -> Answer:
    if store.pacs_images is not None:
        with _progress("listing the PACS", "series") as progress:
            store.pacs_images.walk(progress)
    with _progress("looking", "file") as progress:
        changes = store.rescan(progress)
    values = asdict(changes) | {"unsettled": [str(path) for path in changes.unsettled]}
    return values, report.changes_text(changes), 0


def _export(store: Store, arguments: argparse.Namespace) -> Answer:
    check_output_file(arguments.file)
    with _progress("exporting", "file") as progress:
        exported = export_archive(store, arguments.file, progress)
    return asdict(exported), report.exported_text(exported, arguments.file), 1 if exported.missing else 0


def _import(store: Store, arguments: argparse.Namespace) -> Answer:
    with _progress("importing", "file") as progress:
        imported = import_archive(store, arguments.file, progress)
    return asdict(imported), report.imported_text(imported), 0


def _check(store: Store, arguments: argparse.Namespace) -> Answer:
    with _progress("checking", "image") as progress:
        found = audit.check(store, progress, deep=not arguments.quick)
    return [asdict(finding) for finding in found], report.finding_text(found), 1 if found else 0


def _repair(store: Store, _: argparse.Namespace) -> Answer:
    with _progress("checking", "image") as progress:
        found = audit.check(store, progress)
    with _progress("repairing", "image") as progress:
        done = audit.repair(store, found, progress)
    remains = any(audit.REMAINS in line for line in done)
    return done, "\n".join(done) or "files and ledger agree", 1 if remains else 0


@contextmanager
def _progress(what: str, unit: str) -> Iterator[Callable[[int], object]]:
    with tqdm(desc=what, unit=f" {unit}", leave=False) as bar:
        yield lambda done: bar.update(done - bar.n)


def _time(text: str) -> float:
    """Seconds since the epoch; without a zone the time is this machine's."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        msg = f"{text!r} is no time such as 2026-11-01 or 2026-11-01T08:30"
        raise argparse.ArgumentTypeError(msg) from None


def _arguments() -> argparse.Namespace:
    common = argparse.ArgumentParser(add_help=False)
    add_ledger_options(common, after_command=True)
    by = argparse.ArgumentParser(add_help=False)
    by.add_argument("--by", default=getpass.getuser(), metavar="NAME", help="who does that (default: you)")
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_ledger_options(parser, after_command=False)
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[Store, argparse.Namespace], Answer | None], summary: str, *more: Any) -> Any:
        added = commands.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", parents=[common, *more]
        )
        added.set_defaults(command=command)
        return added

    def add_tag(to: argparse.ArgumentParser, default: str | None = FINAL) -> None:
        to.add_argument("--tag", default=default, help=f"which label (default: {default or 'all'})")

    add("status", _status, "how many images, labels and versions there are")
    history = add("history", _history, "every version of an image's labels")
    history.add_argument("image", metavar="IMAGE")
    add_tag(history, None)
    diff = add("diff", _diff, "what is different between two versions")
    diff.add_argument("image", metavar="IMAGE")
    diff.add_argument("first", type=int, metavar="FIRST", help="number of a version")
    diff.add_argument("second", type=int, metavar="SECOND")
    add_tag(diff)
    restore = add("restore", _restore, "make an old version the newest again", by)
    restore.add_argument("image", metavar="IMAGE")
    restore.add_argument("number", type=int, metavar="NUMBER", help="of the old version")
    add_tag(restore)
    add("leases", _leases, "who has which image")
    add("release", _release, "take an image back from who has it", by).add_argument("image", metavar="IMAGE")
    for name, command, summary in (
        ("exclude", _exclude, "leave an image out of every strategy, training and batch inference"),
        ("include", _include, "take an excluded image back in"),
    ):
        decision = add(name, command, summary, by)
        decision.add_argument("image", metavar="IMAGE")
        decision.add_argument("--reason", required=True, metavar="TEXT", help="why, for those who come after")
    add("excluded", _excluded, "the images that are left out")
    add("unfit", _unfit, "the images that can't be used: unreadable, no CT, or the same as another")
    add("refused", _refused, "labels that did not fit, and why").add_argument("--image", metavar="IMAGE")
    happened = add("events", _events, "what happened, the newest first")
    happened.add_argument("--image", metavar="IMAGE", help="only to this image")
    happened.add_argument("--limit", type=int, default=50, metavar="N", help="at most so many (default: 50)")
    audited = add("audit", _audit, "write down what happened, the oldest first, for other programs")
    audited.add_argument("--user", metavar="NAME", help="only what this user did, or what was done about their account")
    audited.add_argument("--kind", metavar="TEXT", help="only of this kind, such as: 'login failed'")
    audited.add_argument(
        "--since", type=_time, metavar="TIME", help="from then on, such as 2026-11-01 or 2026-11-01T08:30"
    )
    audited.add_argument("--before", type=_time, metavar="TIME", help="only before then")
    audited.add_argument("--format", choices=FORMATS, default=FORMATS[0], help="JSON lines (default) or CSV")
    audited.add_argument("-o", "--output", type=Path, metavar="FILE", help="write into this file")
    add("rescan", _rescan, "look through the folder for what others changed")
    add("export", _export, "write everything but the images into one file").add_argument(
        "file", type=Path, metavar="FILE"
    )
    add("import", _import, "add everything in an exported file that is not there yet").add_argument(
        "file", type=Path, metavar="FILE"
    )
    check = add("check", _check, "find and explain what disagrees between files and ledger")
    check.add_argument("--quick", action="store_true", help="compare sizes and times; do not read every version")
    add("repair", _repair, "do what can be done about that without losing anything")
    arguments = parser.parse_args()
    if arguments.studies is None:
        parser.error("--studies DIR is required, the folder with the images or the address of a PACS")
    if getattr(arguments, "limit", 1) < 1:
        parser.error(f"--limit must be at least 1, not {arguments.limit}")
    return arguments


if __name__ == "__main__":
    run(main)
