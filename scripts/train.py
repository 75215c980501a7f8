#!/usr/bin/env python3
"""Train on the labelled images of a studies folder, without a server.

    scripts/train.py ~/livers                               from the model in force, result in runs/<time>
    scripts/train.py ~/livers --epochs 20 --publish         and give it to annotators if it is better
    scripts/train.py ~/livers --start scratch --conf training.seed 7

Images lie at the top of the folder, their labels in labels/final under the same names, with 0 background and the
indices of app.yaml. A fixed part of the patients is kept for validation. After each epoch the run's folder holds
history.csv, curves.png, TensorBoard events, last.pt and best.pt; at the end model.pt, which is the best epoch.
The same data, settings, start and threads give the same weights on a CPU. Exit code: 0, or 2 for wrong input.
"""

import argparse
import logging
import sys
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.venv import enter_environment

enter_environment()

from tqdm import tqdm

from lib.console import Parser, check_output_folder, run
from lib.errors import BadInputError
from lib.inference.command_line import add_app_arguments, device_from, settings_from
from lib.inference.device import set_threads
from lib.inference.model import ModelSource
from lib.training.cases import find_cases, split_cases
from lib.training.history import Row, as_table, sentence
from lib.training.run import Outcome, run_training
from lib.training.sides import labelled_cases

_RUNS = Path(__file__).resolve().parents[1] / "runs"


def main() -> None:
    """Read the arguments, train, say where the result is."""
    arguments = _arguments()
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    options = {"training.max_epochs": arguments.epochs, "training.threads": arguments.threads}
    settings = settings_from(arguments, {key: value for key, value in options.items() if value is not None})
    recipe = settings.training
    cases = find_cases(labelled_cases(arguments.studies, settings))
    source = ModelSource.of_app(settings, arguments.app)
    start = _start(arguments.start, source)
    device = device_from(arguments)
    threads = set_threads(recipe.threads)
    folder = arguments.output or _RUNS / datetime.now().strftime("%Y%m%d-%H%M%S")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        msg = f"{folder} exists and is no empty folder; give each training a folder of its own with -o"
        raise BadInputError(msg)
    check_output_folder(folder)

    training, validation = (len(side) for side in split_cases(cases, recipe.validation_fraction))
    print(
        f"{training} training and {validation} validation cases from {arguments.studies}; {device}, {threads} threads; "
        f"start: {start or 'new weights'}",
        flush=True,
    )
    with tqdm(unit="step", desc="preparing", delay=0.5) as bar:
        outcome = run_training(
            cases,
            settings,
            folder,
            device,
            start=start,
            in_force=source.path_or_none,
            publish_to=source.published if arguments.publish else None,
            on_epoch=lambda row: bar.write(sentence(row, recipe.max_epochs), file=sys.stdout),
            on_step=_Progress(bar, recipe.max_epochs),
            on_comparison=lambda done, total: bar.set_description(f"comparing with the published model {done}/{total}"),
        )
    _report(outcome, folder, source.published)


class _Progress:
    """Moves a bar over all steps of all epochs."""

    def __init__(self, bar: tqdm, epochs: int) -> None:
        self._bar, self._epochs, self._epoch = bar, epochs, 0

    def __call__(self, done: int, steps: int, loss: float) -> None:
        if done == 1:
            self._epoch += 1
            self._bar.set_description(f"epoch {self._epoch}/{self._epochs}", refresh=False)
            if self._epoch == 1:
                self._bar.reset(total=steps * self._epochs)
        self._bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        self._bar.update()


def _arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", type=Path, metavar="STUDIES", help="folder with images and labels/final")
    parser.add_argument("-o", "--output", type=Path, metavar="RUN_DIR", help="new folder (default: runs/<time>)")
    parser.add_argument("--epochs", type=int, metavar="N", help="instead of training.max_epochs")
    parser.add_argument(
        "--start",
        default="published",
        metavar="published|scratch|FILE",
        help="weights to start from: those in force, new ones, or a file (default: published)",
    )
    parser.add_argument(
        "--publish",
        action="store_true",
        help="give the result to annotators if it is better than the model in force",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores but one)")
    add_app_arguments(parser)
    return parser.parse_args()


def _start(choice: str, source: ModelSource) -> Path | None:
    if choice == "scratch":
        return None
    if choice == "published":
        return source.path
    if not Path(choice).is_file():
        msg = f"--start {choice}: there is no such file; name one, or use published or scratch"
        raise BadInputError(msg)
    return Path(choice)


def _report(outcome: Outcome, folder: Path, published: Path) -> None:
    rows: list[Row] = [row for row in outcome.fit.rows if row["epoch"] in {0, outcome.fit.best_epoch}]
    print(f"\nbefore training and the best epoch of {len(outcome.fit.rows) - 1}:\n{as_table(rows)}\n")
    if outcome.gate is not None:
        print(f"{outcome.gate.as_table()}\n")
    print(f"{'published' if outcome.published else 'not published'}: {outcome.reason}")
    for name in ("curves.png", "history.csv", "model.pt"):
        print(f"{name:<12} {folder / name}")
    if outcome.published:
        print(f"{'in force':<12} {published}")


if __name__ == "__main__":
    run(main)
