#!/usr/bin/env python3
"""Score a folder of predicted label volumes against a folder of references, as the LiTS challenge does.

Files pair up by name: case_1.nii with case_1.nii.gz, and LiTS' segmentation-7 with volume-7 or test-segmentation-7.
Volumes hold 0 background, 1 liver, 2 tumor. The JSON has the challenge's own names at its top level.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.venv import enter_environment

enter_environment()

from tqdm import tqdm

from lib.console import Parser, check_output_file, run
from lib.errors import BadInputError
from lib.files import atomic_write
from lib.metrics.evaluation import Options, evaluate_pairs
from lib.metrics.folders import Pairing, pair_files
from lib.metrics.report import as_csv, as_html, as_json, as_text, build_report

_SHOWN = 5


def main() -> int:
    """Read the arguments, evaluate, write the reports."""
    arguments = _arguments()
    pairing = pair_files(arguments.reference, arguments.prediction)
    _check_complete(pairing, arguments.allow_missing)
    _check_outputs(arguments)
    options = Options(
        pictures=arguments.slices if arguments.html else 0,
        images=arguments.images,
        ignore_affine=arguments.ignore_affine,
    )
    progress = tqdm(
        evaluate_pairs(pairing.pairs, options, arguments.workers),
        total=len(pairing.pairs),
        desc="evaluating",
        unit="case",
    )
    found = {one.pair.name: one for one in progress}
    evaluated = [found[pair.name] for pair in pairing.pairs]
    report = build_report(evaluated, pairing.reference_only, pairing.prediction_only)
    _write(arguments.json, as_json(report))
    if arguments.csv:
        _write(arguments.csv, as_csv(report))
    if arguments.html:
        _write(arguments.html, as_html(report, evaluated))
    print(as_text(report))
    return 0


def _arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True, metavar="DIR", help="folder with the true labels")
    parser.add_argument("--prediction", type=Path, required=True, metavar="DIR", help="folder with the labels to score")
    parser.add_argument("--json", type=Path, required=True, metavar="OUT", help="all scores, of the set and per case")
    parser.add_argument("--html", type=Path, metavar="OUT", help="page with tables and pictures, one file")
    parser.add_argument("--csv", type=Path, metavar="OUT", help="one row per case")
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="folder with the CTs for the pictures, named like the labels or volume-N; without it, labels alone",
    )
    parser.add_argument(
        "--slices", type=int, default=3, metavar="N", help="worst slices shown per case in the page (default: 3)"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core)")
    parser.add_argument(
        "--allow-missing", action="store_true", help="score what pairs up and list the rest, instead of stopping"
    )
    parser.add_argument(
        "--ignore-affine",
        action="store_true",
        help="compare voxel by voxel where the affines differ, as the challenge does; shapes must still agree",
    )
    arguments = parser.parse_args()
    if arguments.workers is not None and arguments.workers < 1:
        parser.error(f"--workers must be at least 1, not {arguments.workers}")
    if arguments.slices < 0:
        parser.error(f"--slices can't be negative, not {arguments.slices}")
    if arguments.images and not arguments.images.is_dir():
        parser.error(f"--images: there is no folder {arguments.images}")
    if arguments.images and not arguments.html:
        parser.error("--images is for the pictures of --html OUT; give both")
    return arguments


def _check_complete(pairing: Pairing, allow_missing: bool) -> None:
    problems = []
    for paths, what in ((pairing.reference_only, "prediction"), (pairing.prediction_only, "reference")):
        if paths:
            names = ", ".join(path.name for path in paths[:_SHOWN]) + (", ..." if len(paths) > _SHOWN else "")
            problems.append(f"no {what} for {len(paths)} of the files: {names}")
    if not pairing.pairs:
        msg = "no file of the reference folder has a partner in the prediction folder; name them alike"
        raise BadInputError("; ".join([msg, *problems]))
    if problems and not allow_missing:
        problems.append("add or rename them, or use --allow-missing to score the rest")
        raise BadInputError("; ".join(problems))
    for problem in problems:
        sys.stderr.write(f"warning: {problem}\n")


def _check_outputs(arguments: argparse.Namespace) -> None:
    outputs = [path for path in (arguments.json, arguments.html, arguments.csv) if path]
    for number, path in enumerate(outputs):
        check_output_file(path)
        if path.resolve() in {other.resolve() for other in outputs[:number]}:
            msg = f"{path} is named for two reports; give each a file of its own"
            raise BadInputError(msg)


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run(main)
