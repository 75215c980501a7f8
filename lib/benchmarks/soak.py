"""Many annotators in the loop while the server trains: nothing fails, nothing is lost, nothing grows."""

import argparse
import secrets
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tqdm import tqdm

from lib.access.roles import Role
from lib.benchmarks import soak_text
from lib.benchmarks.counts import check_counts
from lib.benchmarks.machine import describe_machine
from lib.benchmarks.server_process import ServerProcess
from lib.benchmarks.soak_annotator import Annotator
from lib.benchmarks.soak_cases import Cases
from lib.benchmarks.soak_check import folder_facts, label_facts, training_counts
from lib.benchmarks.soak_growth import as_json, growth
from lib.benchmarks.soak_people import Curator, Desk, Person, Watcher
from lib.benchmarks.soak_samples import Folders, Sampler, columns
from lib.benchmarks.soak_timings import by_kind
from lib.benchmarks.soak_verdict import promises
from lib.console import check_output_file
from lib.errors import BadInputError
from lib.inference.command_line import DEFAULT_APP, settings_from
from lib.inference.model import load_model
from lib.settings import Settings
from lib.store.accounts import Accounts
from lib.store.store import Store
from lib.training.publish import describe, publish

SUMMARY = "many annotators in the loop for minutes or hours while the server trains: is anything lost, does it grow"
as_text = soak_text.as_text

_REVIEWERS = 4  # one of so many annotators
_SAMPLE_S, _SAMPLES = 5.0, 60  # seconds between two looks at the server; more often in a short soak
_WARM_UP, _WARM_UP_S = 0.25, 120.0  # of the time, and at least, in which caches and pools fill
_REQUEST_S = 120.0  # longer than this is a hang
_QUIET_S = 20.0  # for the server to take its temporary files away when nobody asks any more
_SEED = 2026
_WEAKER = 7.0  # added to the background's bias
# Trainings of seconds, one after the other; everything else is as the app has it.
_RECIPE: dict[str, object] = {
    "inference.cache_mb": 1,  # full within minutes: results of small images take some KB
    "training.max_epochs": 2,
    "training.patch_size": 64,
    "training.slices_per_case": 4,
    "training.learning_rate": 0.001,
    "training.threads": 1,
    "training.cross_validate_below": 0,
    "training.by_itself.after_labels": 8,
    "training.by_itself.minutes_apart": 0,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `scripts/benchmark.py soak`."""
    parser.add_argument(
        "--minutes", type=float, default=10.0, metavar="N", help="how long the annotators work (default: %(default)s)"
    )
    parser.add_argument("--clients", type=int, default=16, metavar="N", help="annotators (default: %(default)s)")
    parser.add_argument(
        "--pause", type=float, default=1.0, metavar="S",
        help="mean seconds that an annotator thinks, twice for each image (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--images", type=int, default=64, metavar="N", help="phantoms (default: %(default)s)")
    parser.add_argument(
        "--size", type=int, default=96, metavar="N", help="columns and rows of each (default: %(default)s)"
    )
    parser.add_argument("--slices", type=int, default=16, metavar="N", help="of each phantom (default: %(default)s)")
    parser.add_argument(
        "--most-growth", type=float, default=100.0, metavar="MB",
        help="of the server's memory in an hour; the whole 95 %% interval must lie above it to count as growth "
        "(default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--picture", type=Path, metavar="PNG", help="memory and latencies over time")
    parser.add_argument(
        "--folder", type=Path, metavar="DIR",
        help="keep studies, app and log of the server here, an empty folder (default: a temporary one)",
    )  # fmt: skip
    parser.add_argument(
        "--app", type=Path, default=DEFAULT_APP, metavar="DIR", help="app folder (default: apps/liver_tumor)"
    )
    parser.add_argument(
        "--conf", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"),
        help="override one key of app.yaml; may be repeated. Trainings are as short as can be unless told otherwise",
    )  # fmt: skip


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Start a server, let people work with it, stop it, and see what is left.

    Returns:
        `date`, `machine`, `minutes`, `clients`, `images`, `login`: whether people had to log in; `requests` by kind,
        see `lib.benchmarks.soak_timings.by_kind`, and the first `errors`; `saved` labels by annotator; `labels`,
        `files`, `models`, `server`; `growth` by the hour; `samples` of the server over time; `promises`: what is
        promised, whether it was kept, in words; `broken`: those that were not.

    Raises:
        LiverLoopError: a wrong argument, or the server does not start.
    """
    _check(arguments)
    settings = settings_from(arguments, {})
    conf = {**_RECIPE, **dict(arguments.conf)}
    with nullcontext(arguments.folder) if arguments.folder else TemporaryDirectory(prefix="liverloop-soak-") as base:
        folder = Path(base).resolve()
        studies = folder / "studies"
        cases = Cases(studies, arguments.images, arguments.size, arguments.slices)
        passwords = _people(studies, settings, arguments.clients)
        server = ServerProcess(folder, arguments.app.resolve(), conf)
        _weaken(server.app / "starter.pt", settings)
        with server, _no_hang():
            desk, sampler, people, facts = _worked(server, cases, passwords, settings, arguments)
            facts["trainings"] = training_counts(studies)
            facts["stop"] = server.stop()
            facts["log"] = server.bad_lines()
        result = _result(arguments, desk, sampler, people, facts)
        result["labels"] = label_facts(studies, settings, desk.journal)
        result["files"] |= folder_facts(cases)
    result["promises"] = promises(result)
    result["broken"] = [one["promise"] for one in result["promises"] if not one["kept"]]
    if arguments.picture:
        from lib.benchmarks.soak_picture import draw  # brings matplotlib

        draw(arguments.picture, desk.timings.all(), sampler.samples, result["models"])
    return result


def _check(arguments: argparse.Namespace) -> None:
    check_counts(arguments, "clients", "images", "size", "slices")
    if not 0 < arguments.minutes <= 60 * 24 * 7:
        msg = f"--minutes must be above 0 and at most a week, not {arguments.minutes:g}"
        raise BadInputError(msg)
    if not 0 <= arguments.pause <= 3600:
        msg = f"--pause must be from 0 to 3600 seconds, not {arguments.pause:g}"
        raise BadInputError(msg)
    if arguments.images < 3 * arguments.clients:
        msg = f"--images {arguments.images} are too few for {arguments.clients} clients; give at least three for each"
        raise BadInputError(msg)
    if arguments.picture:
        check_output_file(arguments.picture)
    if arguments.folder:
        arguments.folder.mkdir(parents=True, exist_ok=True)
        if any(arguments.folder.iterdir()):
            msg = f"--folder {arguments.folder} is not empty; choose another"
            raise BadInputError(msg)


def _people(studies: Path, settings: Settings, clients: int) -> dict[str, str]:
    """Add the users to the ledger; returns their passwords by name, the administrator's last."""
    store = Store(studies, settings)
    accounts = Accounts(store.ledger)
    roles = {_name(number): Role.REVIEWER if _reviews(number) else Role.ANNOTATOR for number in range(clients)}
    passwords = {name: secrets.token_urlsafe(16) for name in (*roles, "admin")}
    for name, password in passwords.items():
        accounts.add(name, password, roles.get(name, Role.ADMIN), by="soak")
    store.close()
    return passwords


def _name(number: int) -> str:
    return f"{'reviewer' if _reviews(number) else 'annotator'}{number:02d}"


def _reviews(number: int) -> bool:
    return number % _REVIEWERS == _REVIEWERS - 1


def _weaken(weights: Path, settings: Settings) -> None:
    """Make the starter find too little, so that short trainings make better models, which are published."""
    network: Any = load_model(settings, weights, torch.device("cpu")).network
    with torch.no_grad():
        network.head.bias[0] += _WEAKER
    publish(weights, network, describe(settings, "weaker-starter"))


def _worked(
    server: ServerProcess, cases: Cases, passwords: Mapping[str, str], settings: Settings, arguments: argparse.Namespace
) -> tuple[Desk, Sampler, list[Person], dict[str, Any]]:
    """Let all work for the time asked for; what they left behind on the server once it is quiet."""
    seconds, began = arguments.minutes * 60, time.monotonic()
    with TemporaryDirectory(prefix="liverloop-clients-") as downloads:
        desk = Desk(server.url, settings.model_name, cases, Path(downloads), arguments.pause, began)
        people: list[Person] = [
            Annotator(desk, name, password, _SEED + number, reviews=_reviews(number))
            for number, (name, password) in enumerate(passwords.items())
            if name != "admin"
        ]
        admin = passwords["admin"]
        people.append(Curator(desk, "admin", admin, _SEED - 1, open_images=2 * arguments.clients))
        watcher = Watcher(desk, "watcher", admin, _SEED - 2)
        watcher.user = "admin"
        people.append(watcher)
        folders = Folders(server.temporary, server.sessions, server.app, server.studies / "ledger")
        before = _files(server.temporary)
        sampler = Sampler(server.process, folders, began, min(_SAMPLE_S, seconds / _SAMPLES))
        sampler.start()
        for person in people:
            person.start()
        _wait(server, seconds)
        desk.over.set()
        for person in people:
            person.join()
        quiet = time.monotonic() + _QUIET_S
        while (left := sorted(_files(server.temporary) - before)) and time.monotonic() < quiet:
            time.sleep(0.2)
        sampler.stop()
        facts = {
            "seconds": time.monotonic() - began,
            "temporary_left": left,
            "sessions_left": len(_files(server.sessions)),
            "ended": server.has_ended(),
            "start_s": server.start_s,
        }
    return desk, sampler, people, facts


def _wait(server: ServerProcess, seconds: float) -> None:
    often_s = 1.0 if sys.stderr.isatty() else 60.0  # a log keeps every state of the bar
    with tqdm(total=round(seconds), desc="soaking", unit="s", leave=False, mininterval=often_s) as bar:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not server.has_ended():
            time.sleep(min(1.0, left))
            bar.update(round(seconds - max(0.0, end - time.monotonic())) - bar.n)


def _result(
    arguments: argparse.Namespace, desk: Desk, sampler: Sampler, people: list[Person], facts: Mapping[str, Any]
) -> dict[str, Any]:
    samples = columns(sampler.samples)
    hours = [at / 3600 for at in samples["at"]]
    (watcher,) = (person for person in people if isinstance(person, Watcher))
    warm_h = max(_WARM_UP_S / 3600, _WARM_UP * arguments.minutes / 60)
    growths = {
        key: as_json(growth(hours, samples[key], after_h=warm_h)) for key in ("memory_mb", "open_files", "threads")
    }
    return {
        "benchmark": "soak",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": describe_machine(torch.device("cpu")),
        "minutes": arguments.minutes,
        "clients": arguments.clients,
        "images": arguments.images,
        "shape": [arguments.size, arguments.size, arguments.slices],
        "pause_s": arguments.pause,
        "most_growth_mb": arguments.most_growth,
        "saved": desk.journal.counts([person.name for person in people if isinstance(person, Annotator)]),
        "login": any(person.logged_in for person in people),
        "requests": by_kind(desk.timings.all()),
        "errors": desk.timings.errors,
        "growth": growths,
        "files": {key: facts[key] for key in ("temporary_left", "sessions_left")},
        "models": {
            "versions": desk.versions,
            "trainings": facts["trainings"],
            "training": [list(look) for look in watcher.training],
        },
        "server": {key: facts[key] for key in ("start_s", "ended", "log", "stop", "seconds")},
        "samples": samples,
    }


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@contextmanager
def _no_hang() -> Iterator[None]:
    """MONAI Label's client waits for ever; here a request that takes minutes is an error."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_REQUEST_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
