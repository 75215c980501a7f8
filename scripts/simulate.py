#!/usr/bin/env python3
r"""Play active learning through, with an annotator who knows the truth, to see which strategy needs the fewest labels.

    scripts/simulate.py --pool phantoms --strategies foreground_random hybrid full --seeds 0 1 2 \
        --folder simulation --html simulation.html
    scripts/simulate.py --pool pool/ --test test/ --start starter --annotator realistic --folder simulation
    scripts/simulate.py ... --report-only --json so_far.json

Each campaign scores the pool with the model in force, chooses by its strategy, has the images labelled, trains, lets
the gate decide, and judges the model in force on a test set. "full" among the strategies labels the whole pool at once;
with "hybrid+slices", only the slices that hybrid suggests are labelled. What is done lies in --folder: the same command
goes on with what is not, and may name further strategies, seeds or rounds. docs/active_learning.md tells more.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.venv import enter_environment

enter_environment()

from lib.activelearning.strategies import STRATEGIES
from lib.console import Parser, check_output_file, check_output_folder, run
from lib.errors import BadInputError
from lib.files import atomic_write
from lib.inference.command_line import add_app_arguments, settings_from
from lib.simulation.page import as_text, pictures_of, tables, write_page
from lib.simulation.plan import EASY, FULL, PHANTOMS, SCRATCH, SLICES_ONLY, STARTER, Plan, small
from lib.simulation.results import collect, fill_in
from lib.simulation.runner import run_all

_USUAL = ("random", "foreground_random", "entropy", "class_balanced", "hybrid", FULL)


def main() -> None:
    """Run what is not done yet, print the tables, write the report."""
    arguments = _arguments()
    plan = _plan(arguments)
    check_output_folder(arguments.folder)
    for output in (arguments.json, arguments.html):
        if output:
            check_output_file(output)
    if not arguments.report_only:
        run_all(
            plan, arguments.strategies, arguments.seeds, arguments.folder.resolve(), arguments.app.resolve(),
            arguments.workers, arguments.niceness,
        )  # fmt: skip
    command = shlex.join(["scripts/simulate.py", *sys.argv[1:]])
    result = collect(plan, arguments.strategies, arguments.seeds, arguments.folder.resolve(), command)
    for rows in tables(result["summary"]).values():
        print(f"{as_text(rows)}\n")
    if arguments.json:
        with atomic_write(arguments.json) as path:
            path.write_text(json.dumps(result, indent=1), encoding="utf-8")
    if not (arguments.html or arguments.fill_in):
        return
    pictures = pictures_of(result["summary"], result["pool"])
    if arguments.html:
        write_page(arguments.html, result, pictures)
        for name, png in pictures.items():
            with atomic_write(arguments.html.with_name(f"{arguments.html.stem}_{name}.png")) as path:
                path.write_bytes(png)
    if arguments.fill_in:
        fill_in(arguments.fill_in, result["summary"], command, pictures["curves"])


def _plan(arguments: argparse.Namespace) -> Plan:
    for name in ("rounds", "per_round", "steps", "start_steps", "workers", "patients"):
        if getattr(arguments, name) < 1:
            msg = f"--{name.replace('_', '-')} must be 1 or more, not {getattr(arguments, name)}"
            raise BadInputError(msg)
    planned = arguments.rounds * arguments.per_round if arguments.planned is None else arguments.planned
    if planned < 1:
        msg = f"--planned must be 1 or more, not {planned}"
        raise BadInputError(msg)
    for name, least in (("seeds", min(arguments.seeds)), ("validation", arguments.validation)):
        if least < 0:
            msg = f"--{name} must be 0 or more, not {least}"
            raise BadInputError(msg)
    known = sorted(set(STRATEGIES) - {"review"})
    for name in arguments.strategies:
        if name != FULL and name.removesuffix(SLICES_ONLY) not in known:
            msg = (
                f"there is no strategy {name!r} to simulate; choose among {', '.join(known)}, each also with "
                f"{SLICES_ONLY} after it, and {FULL}"
            )
            raise BadInputError(msg)
    if arguments.pool != PHANTOMS and not arguments.test:
        msg = f"--pool {arguments.pool} needs --test with a folder of cases of other patients, to judge the models on"
        raise BadInputError(msg)
    overrides = small(patch=arguments.patch, filters=() if arguments.start == STARTER else arguments.filters)
    for key, _ in arguments.conf:
        overrides.pop(key, None)
    pool, test = ("", "")
    if arguments.pool != PHANTOMS:
        pool, test = str(Path(arguments.pool).resolve()), str(arguments.test.resolve())
    return Plan(
        pool=pool or PHANTOMS, test=test, rounds=arguments.rounds, per_round=arguments.per_round,
        steps=arguments.steps, start=arguments.start, start_steps=arguments.start_steps,
        annotator=arguments.annotator, planned=planned,
        validation=arguments.validation if arguments.pool == PHANTOMS else 0,
        patients=arguments.patients,
        test_cases=arguments.test_cases, size=arguments.size, slices=arguments.slices,
        settings=settings_from(arguments, overrides),
    )  # fmt: skip


def _arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--pool", required=True, metavar="DIR", help=f"folder as lib/simulation/pool.py makes it, or '{PHANTOMS}'")
    add("--test", type=Path, metavar="DIR", help="such a folder of other patients, to judge the models on")
    add("--folder", type=Path, required=True, metavar="DIR", help="keeps what is done, to go on there")
    add("--strategies", nargs="+", default=_USUAL, metavar="NAME", help=f"(default: {' '.join(_USUAL)})")
    add("--seeds", nargs="+", type=int, default=(0, 1, 2, 3, 4), metavar="N", help="(default: 0 1 2 3 4)")
    add("--rounds", type=int, default=6, metavar="N", help="of a campaign (default: %(default)s)")
    add("--per-round", type=int, default=5, metavar="K", help="labels of a round (default: %(default)s)")
    add("--steps", type=int, default=2000, metavar="N", help="of training in a round (default: %(default)s)")
    add(
        "--start",
        choices=(EASY, STARTER, SCRATCH),
        default=EASY,
        help="weights of the first round (default: %(default)s)",
    )
    add("--start-steps", type=int, default=1500, metavar="N", help="of an easy start's training (default: %(default)s)")
    add("--annotator", choices=("true", "realistic"), default="true", help="(default: %(default)s)")
    add("--planned", type=int, metavar="N", help="labels that strategies are told to expect in the end (default: all)")
    add(
        "--validation",
        type=int,
        default=30,
        metavar="N",
        help="phantoms outside of the pool to judge trainings by; 0: the app's split of what is chosen (%(default)s)",
    )
    add("--patients", type=int, default=110, metavar="N", help="phantoms of a pool, 1.4 images each (%(default)s)")
    add("--test-cases", type=int, default=60, metavar="N", help="phantoms to judge on (default: %(default)s)")
    add("--size", type=int, default=128, metavar="N", help="columns and rows of a phantom (default: %(default)s)")
    add("--slices", type=int, default=24, metavar="N", help="of a phantom (default: %(default)s)")
    add("--patch", type=int, default=64, metavar="N", help="pixels of a training patch (default: %(default)s)")
    add(
        "--filters", nargs="+", type=int, default=(8, 16, 32, 64, 128), metavar="N", help="of the network (%(default)s)"
    )
    add("--workers", type=int, default=1, metavar="N", help="campaigns at once (default: %(default)s)")
    add("--niceness", type=int, default=10, choices=range(20), metavar="0-19", help="of theirs (default: %(default)s)")
    add("--report-only", action="store_true", help="run nothing, report what is done so far")
    add("--json", type=Path, metavar="OUT", help="all figures")
    add("--html", type=Path, metavar="OUT", help="the report; its pictures lie beside it as PNG, too")
    add("--fill-in", type=Path, metavar="PAGE", help="a Markdown page that gets tables and curves between its marks")
    add_app_arguments(parser)
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
