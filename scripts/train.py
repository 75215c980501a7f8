#!/usr/bin/env python3
"""Train on the labelled images of a studies folder, without a server.

    scripts/train.py ~/livers                               from the model in force, curves in runs/<time>
    scripts/train.py ~/livers --epochs 20 --publish         and give it to annotators if it is better
    scripts/train.py ~/livers --start scratch --conf training.seed 7
    scripts/train.py ~/livers --resume RUN_DIR              go on where a training was interrupted
    scripts/train.py ~/livers --check                       only look whether it can start, and how long it takes
    .venv/bin/torchrun --nproc-per-node 4 -- scripts/train.py ~/livers         on four GPUs of this machine

On several machines, which must see studies and run folder under the same paths, start torchrun on each with --nnodes
and --rdzv-endpoint (see its --help). Each process takes a batch of training.batch_size at a time.

Images lie at the top of the folder, their labels in labels/final under the same names, with 0 background and the
indices of app.yaml. A fixed part of the patients is kept for validation. After each epoch the run's folder holds
history.csv, curves.png, TensorBoard events, last.pt and best.pt; at the end model.pt, which is the best epoch. It is
kept as a version in the app's model/versions, too, so that scripts/models.py can publish it later. report.html tells
people all of it: data, curves, the comparison with the model in force, the worst cases as pictures.
The same data, settings, start and threads give the same weights on a CPU, also through an interruption: with --resume
and the other options that it began with, a training goes on after its last whole epoch. Exit code: 0, or 2 for wrong
input.
"""

import argparse
import logging
import sys
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.venv import enter_environment

enter_environment()

import torch
from tqdm import tqdm

from lib.console import Parser, check_output_folder, run
from lib.errors import BadInputError, NotFoundError
from lib.inference.command_line import add_app_arguments, device_from, settings_from
from lib.inference.device import set_threads
from lib.store.studies import named_studies
from lib.training.cases import find_cases, split_cases
from lib.training.distributed import from_first, joined, launched_by_torchrun, own_device, share
from lib.training.history import Row, as_table, sentence
from lib.training.preflight import check_cases
from lib.training.registry import PUBLISHED, SCRATCH, STARTER, Registry
from lib.training.run import Outcome, run_training
from lib.training.sides import labelled_cases
from lib.training.state import prepare_to_resume

_RUNS = Path(__file__).resolve().parents[1] / "runs"


def main() -> None:
    """Read the arguments, train, say where the result is."""
    arguments = _arguments()
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    device = device_from(arguments)
    if arguments.check or not launched_by_torchrun():
        _train(arguments, device)
        return
    device = own_device(device)
    with joined(device):
        _train(arguments, device)


def _train(arguments: argparse.Namespace, device: torch.device) -> None:
    options = {"training.max_epochs": arguments.epochs, "training.threads": arguments.threads}
    settings = settings_from(arguments, {key: value for key, value in options.items() if value is not None})
    recipe, part = settings.training, share()
    threads = set_threads(recipe.threads, part.world)
    cache_folder = arguments.app / "model" / "cache"
    if part.rank:
        run_training([], settings, from_first(Path()), device, start=None, cache_folder=cache_folder)
        return
    cases = find_cases(labelled_cases(arguments.studies, settings, arguments.app))
    registry = Registry(arguments.app, settings)
    start = None if arguments.resume else _start(arguments.start, registry)
    folder = arguments.resume or _new_folder(arguments.output)
    if arguments.resume:
        prepare_to_resume(folder)  # before the look at what is free on the disk

    preflight = check_cases(cases, settings, device=device, cache_folder=cache_folder)
    training, validation = (len(side) for side in split_cases(preflight.usable(cases), recipe.validation_fraction))
    print(
        f"{training} training and {validation} validation cases from {arguments.studies}; "
        f"{_count(part.world, device)}, {threads} threads; "
        f"start: {'where it was interrupted' if arguments.resume else start or 'new weights'}\n{preflight.as_text()}",
        flush=True,
    )
    if arguments.check:
        return
    from_first(folder.absolute())
    with tqdm(unit="step", desc="preparing", delay=0.5) as bar:
        progress = _Progress(bar, recipe.max_epochs)
        outcome = run_training(
            cases,
            settings,
            folder,
            device,
            start=start,
            registry=registry,
            cache_folder=cache_folder,
            may_publish=arguments.publish,
            resume=arguments.resume is not None,
            preflight=preflight,
            on_epoch=progress.epoch_done,
            on_step=progress.step_done,
            on_fold=lambda position: bar.set_description(str(position)),
            on_comparison=lambda done, total: bar.set_description(f"comparing with the published model {done}/{total}"),
            on_int8=lambda doing: bar.set_description(f"int8: {doing}"),
        )
    _report(outcome, folder, registry)


class _Progress:
    """Moves a bar over all steps of all epochs, and writes a line for each epoch."""

    def __init__(self, bar: tqdm, epochs: int) -> None:
        self._bar, self._epochs, self._epoch, self._begun = bar, epochs, 0, False

    def epoch_done(self, row: Row) -> None:
        self._epoch = int(row["epoch"] or 0)
        self._bar.write(sentence(row, self._epochs), file=sys.stdout)

    def step_done(self, done: int, steps: int, loss: float) -> None:
        if done == 1:
            self._bar.set_description(f"epoch {self._epoch + 1}/{self._epochs}", refresh=False)
            if not self._begun:
                self._bar.reset(total=steps * self._epochs)
                self._bar.initial = self._bar.n = steps * self._epoch  # of a training that goes on
                self._begun = True
        self._bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        self._bar.update()


def _arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "studies",
        type=named_studies,
        metavar="STUDIES",
        help="folder with images and labels/final, or address of a PACS",
    )
    folder = parser.add_mutually_exclusive_group()
    folder.add_argument("-o", "--output", type=Path, metavar="RUN_DIR", help="new folder (default: runs/<time>)")
    folder.add_argument(
        "--resume",
        type=Path,
        metavar="RUN_DIR",
        help="go on with the interrupted training of this folder; --start does not matter then",
    )
    parser.add_argument("--epochs", type=int, metavar="N", help="instead of training.max_epochs")
    parser.add_argument(
        "--start",
        default=PUBLISHED,
        metavar="published|scratch|starter|VERSION|FILE",
        help="weights to start from: those in force, new ones, the app's first ones, those of a model version (see "
        "scripts/models.py list), or a file (default: published)",
    )
    parser.add_argument(
        "--publish",
        action="store_true",
        help="give the result to annotators if it is better than the model in force",
    )
    parser.add_argument("--check", action="store_true", help="stop after the look at cases, disk, memory and time")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores but one)")
    add_app_arguments(parser)
    return parser.parse_args()


def _count(processes: int, device: torch.device) -> str:
    return str(device) if processes == 1 else f"{processes} processes on {device.type}"


def _new_folder(chosen: Path | None) -> Path:
    folder = chosen or _RUNS / datetime.now().strftime("%Y%m%d-%H%M%S")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        msg = f"{folder} exists and is no empty folder; give each training a folder of its own with -o"
        raise BadInputError(msg)
    check_output_folder(folder)
    return folder


def _start(choice: str, registry: Registry) -> Path | None:
    try:
        return registry.start_weights(choice)
    except NotFoundError as error:
        if choice in {PUBLISHED, SCRATCH, STARTER}:
            raise
        if Path(choice).is_file():
            return Path(choice)
        msg = f"--start {choice}: there is no such file, and {error}"
        raise NotFoundError(msg) from error


def _report(outcome: Outcome, folder: Path, registry: Registry) -> None:
    rows: list[Row] = [row for row in outcome.fit.rows if row["epoch"] in {0, outcome.fit.best_epoch}]
    print(f"\nbefore training and the best epoch of {len(outcome.fit.rows) - 1}:\n{as_table(rows)}\n")
    if outcome.cross_validation is not None:
        print(f"{outcome.cross_validation.as_table()}\n")
    if outcome.gate is not None:
        print(f"{outcome.gate.as_table()}\n")
    print(f"{'published' if outcome.published else 'not published'}: {outcome.reason}")
    if outcome.int8:
        print(f"int8 {outcome.int8}")
    for name in ("report.html", "curves.png", "history.csv", "model.pt"):
        print(f"{name:<12} {folder / name}")
    print(f"{'version':<12} {outcome.version}, see scripts/models.py")
    if outcome.published:
        print(f"{'in force':<12} {registry.source.published}")


if __name__ == "__main__":
    run(main)
