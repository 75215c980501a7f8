"""What a training with corrected cases changes on cases that it never saw: on phantoms, and within one real CT."""

import argparse
import shutil
import time
from collections.abc import Mapping
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tqdm import tqdm

from lib.benchmarks.machine import describe_machine
from lib.benchmarks.shifted_cases import FIELD_OF_VIEW_MM, Cases, cut_into_slabs, make_arterial_phantoms
from lib.errors import BadInputError, NotFoundError
from lib.inference.command_line import add_app_arguments, device_from, settings_from
from lib.inference.device import resolve_precision, set_threads
from lib.inference.model import Model, load_model
from lib.settings import Settings
from lib.training.comparison import PairedDifference, signed
from lib.training.gate import compare_models
from lib.training.history import Row
from lib.training.registry import Registry
from lib.training.run import run_training
from lib.volume_io import stem_of

SUMMARY = "what a training from the starter weights changes on cases that it never saw"
PHANTOMS, REAL = "phantoms", "real"
_ROOT = Path(__file__).resolve().parents[2]
_SAMPLE = _ROOT / "sample-data" / "ct" / "lits_117_crop.nii.gz"
_REFERENCES = "labels_reference"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `scripts/benchmark.py learning`."""
    parser.add_argument("--only", choices=(PHANTOMS, REAL), help="one of the two trainings (default: both)")
    parser.add_argument(
        "--corrected", type=int, default=12, metavar="N", help="phantoms to train with (default: %(default)s)"
    )
    parser.add_argument(
        "--unseen", type=int, default=8, metavar="N", help="phantoms to compare on (default: %(default)s)"
    )
    parser.add_argument(
        "--size", type=int, default=256, metavar="N", help="columns and rows of a phantom (default: %(default)s)"
    )
    parser.add_argument("--slices", type=int, default=30, metavar="N", help="of a phantom (default: %(default)s)")
    parser.add_argument(
        "--slice-mm", type=float, default=8.0, metavar="MM", help="their distance in mm (default: %(default)s)"
    )
    parser.add_argument(
        "--ct",
        type=Path,
        default=_SAMPLE,
        metavar="FILE",
        help=f"a real CT, its label under the same name in {_REFERENCES}/ beside it (default: what "
        "scripts/fetch_samples.py got from LiTS)",
    )
    parser.add_argument("--epochs", type=int, metavar="N", help="instead of training.max_epochs")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores but one)")
    parser.add_argument(
        "--folder",
        type=Path,
        metavar="DIR",
        help="keep cases, runs and their reports here (default: a temporary folder that is removed)",
    )
    add_app_arguments(parser)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the benchmark.

    Returns:
        `date`, `machine`, `precision`, `recipe`, and `phantoms` and `real` unless left out: for each what `learn`
        gives, and `cases`, which tells what they are.

    Raises:
        LiverLoopError: a wrong argument, a CT or weights that can't be used.
    """
    options = {"training.max_epochs": arguments.epochs, "training.threads": arguments.threads}
    settings = settings_from(arguments, {key: value for key, value in options.items() if value is not None})
    device = device_from(arguments)
    set_threads(settings.training.threads)
    for name in ("corrected", "unseen"):
        if getattr(arguments, name) < 2:
            msg = f"--{name} must be at least 2, not {getattr(arguments, name)}"
            raise BadInputError(msg)
    label = arguments.ct.parent / _REFERENCES / arguments.ct.name
    if arguments.only != PHANTOMS:
        for path in (arguments.ct, label):
            if not path.is_file():
                msg = f"there is no {path}; scripts/fetch_samples.py gets a real CT, --only {PHANTOMS} does without"
                raise NotFoundError(msg)
    starter = arguments.app / "starter.pt"
    load_model(settings, starter, torch.device("cpu"))  # before phantoms are rendered for minutes
    result: dict[str, Any] = {
        "benchmark": "learning",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": describe_machine(device),
        "precision": resolve_precision(device, settings.inference.precision),
        "recipe": settings.training.model_dump(mode="json"),
    }
    with nullcontext(arguments.folder) if arguments.folder else TemporaryDirectory(prefix="liverloop-") as base:
        folder = Path(base).resolve()
        if arguments.only != REAL:
            cases = _phantoms(arguments, folder / PHANTOMS / "studies")
            told = (
                f"synthetic, late arterial phase, {arguments.size} x {arguments.size} x {arguments.slices} voxels of "
                f"{FIELD_OF_VIEW_MM / arguments.size:.2f} x {FIELD_OF_VIEW_MM / arguments.size:.2f} x "
                f"{arguments.slice_mm:g} mm"
            )
            result[PHANTOMS] = {"cases": told, **learn(cases, settings, starter, folder / PHANTOMS, device)}
        if arguments.only != PHANTOMS:
            cases = cut_into_slabs(arguments.ct, label, folder / REAL / "studies")
            told = f"slabs of one real CT, {stem_of(arguments.ct)}, with gaps between them"
            result[REAL] = {"cases": told, **learn(cases, settings, starter, folder / REAL, device)}
    return result


def learn(cases: Cases, settings: Settings, starter: Path, folder: Path, device: torch.device) -> dict[str, Any]:
    """Train from the starter weights and compare on the unseen cases, as annotators get their segmentations.

    Training, gate and publication are those of an app that has no model of its own yet. What is compared is the
    trained model, whether or not the gate let it through.

    Args:
        cases: to train with and to compare on.
        settings: recipe, network, labels.
        starter: the weights in force before.
        folder: gets the app folder with its model versions, and the run; both must not be there yet.
        device: to train on.

    Returns:
        `training`, `validation`, `unseen`: names of cases; `classes`: of each label the mean Dice `before` and `after`
        on the unseen ones, the `gain` and its 95 % bootstrap `interval`; `lesions`: found of those labelled, before
        and after; `published` and `reason`, the decision of the gate; `best_epoch`, `epochs`, `seconds` of the
        training; and `unseen_cases`, the Dice of each.

    Raises:
        BadInputError: there has been a training in the folder, or none of the cases can be used.
        ModelError: the weights don't fit.
    """
    app, run = folder / "app", folder / "run"
    if app.exists() or run.exists():
        msg = f"{folder} holds a training already; choose another folder"
        raise BadInputError(msg)
    app.mkdir(parents=True)
    shutil.copyfile(starter, app / "starter.pt")
    registry = Registry(app, settings)
    begin = time.perf_counter()
    with tqdm(total=settings.training.max_epochs, desc="training", unit="epoch", leave=False) as bar:

        def epoch_done(row: Row) -> None:
            bar.update(int(row["epoch"] or 0) - bar.n)

        outcome = run_training(
            cases.corrected, settings, run, device,
            start=app / "starter.pt", registry=registry, on_epoch=epoch_done,
        )  # fmt: skip
    seconds = time.perf_counter() - begin
    before = load_model(settings, app / "starter.pt", device)
    after = Model(outcome.fit.network, outcome.version)
    report = compare_models(after, before, cases.unseen, settings)
    if report.left_out:
        msg = f"unseen cases could not be compared: {dict(report.left_out)}"
        raise BadInputError(msg)
    manifest = registry.get(outcome.version).manifest
    found = report.found
    return {
        "training": manifest["training_cases"],
        "validation": manifest["validation_cases"],
        "unseen": [case.name for case in report.cases],
        "classes": {name: _change(paired) for name, paired in report.classes.items()},
        "lesions": {
            "labelled": found[0].true_positive + found[0].false_negative,
            "before": found[1].true_positive,
            "after": found[0].true_positive,
            "not_labelled_before": found[1].false_positive,
            "not_labelled_after": found[0].false_positive,
        }
        if found
        else None,
        "published": outcome.published,
        "reason": outcome.reason,
        "best_epoch": outcome.fit.best_epoch,
        "epochs": len(outcome.fit.rows) - 1,
        "seconds": seconds,
        "unseen_cases": {
            case.name: {"before": case.published.dice, "after": case.candidate.dice} for case in report.cases
        },
    }


def as_text(result: Mapping[str, Any]) -> str:
    """The result as tables."""
    machine, recipe = result["machine"], result["recipe"]
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads; device {machine['device_name']}; "
        f"{result['precision']}; torch {machine['torch']}; {result['date']}",
        f"epochs: {recipe['max_epochs']} at most; learning rate {recipe['learning_rate']:g}, seed {recipe['seed']}",
    ]
    for kind in (PHANTOMS, REAL):
        if kind in result:
            lines += ["", *_table(result[kind])]
    return "\n".join(lines)


def _phantoms(arguments: argparse.Namespace, folder: Path) -> Cases:
    number = arguments.corrected + arguments.unseen
    with tqdm(total=number, desc="rendering", unit="phantom", leave=False) as bar:
        return make_arterial_phantoms(
            folder, arguments.corrected, arguments.unseen,
            size=arguments.size, slices=arguments.slices, slice_mm=arguments.slice_mm, progress=bar.update,
        )  # fmt: skip


def _change(paired: PairedDifference) -> dict[str, Any]:
    return {
        "before": paired.published,
        "after": paired.candidate,
        "gain": paired.difference,
        "interval": list(paired.interval),
    }


def _table(learned: Mapping[str, Any]) -> list[str]:
    counts = " and ".join(f"{len(learned[side])} {side}" for side in ("training", "validation"))
    minutes = learned["seconds"] / 60
    lines = [
        learned["cases"],
        f"{counts} cases, best epoch {learned['best_epoch']} of {learned['epochs']}, {minutes:.1f} minutes",
        f"{len(learned['unseen'])} unseen cases: mean Dice",
        f"{'':<10}{'before':>8}{'after':>8}{'gain':>8}   95 % interval",
    ]
    for name, change in learned["classes"].items():
        lower, upper = (signed(end) for end in change["interval"])
        cells = f"{change['before']:>8.3f}{change['after']:>8.3f}{signed(change['gain']):>8}"
        lines.append(f"{name:<10}{cells}   {lower} to {upper}")
    if lesions := learned["lesions"]:
        lines.append(
            f"lesions found: {lesions['before']} before, {lesions['after']} after, of {lesions['labelled']}; "
            f"not in the label: {lesions['not_labelled_before']} before, {lesions['not_labelled_after']} after"
        )
    lines.append(f"{'published' if learned['published'] else 'not published'}: {learned['reason']}")
    return lines
