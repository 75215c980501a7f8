#!/usr/bin/env python3
"""Segment liver and tumors in CTs, without a server.

    scripts/infer.py ct.nii.gz dicom_folder -o labels
    scripts/infer.py ~/livers -o ~/predictions --json ~/predictions/summary.json

An image is a .nii.gz, .nii or .nrrd file, a folder with one DICOM series, or a studies folder, of which every image
at the top is taken. Each label has its image's name and exactly its geometry: 0 background, 1 liver, 2 tumor.
Several cases are under way at once: while the network works on one, others are read and written. A case that can't
be used is reported and the others go on. What was finished before, from the same image, with the same model and the
same settings, is not done again, so that the same command goes on where it was stopped; DIR/records tells. Exit code:
0, 1 if a case failed, 2 for wrong input.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.venv import enter_environment

enter_environment()

from tqdm import tqdm

from lib.console import Parser, check_output_file, check_output_folder, run
from lib.files import atomic_write
from lib.inference.command_line import add_app_arguments, device_from, settings_from
from lib.inference.files import one_line, plan_jobs
from lib.inference.model import ModelSource, load_model
from lib.inference.overlapped import segment_all, workers_for
from lib.inference.records import Recipe
from lib.store.studies import expand_images
from lib.volume_io import LABEL_SUFFIXES


def main() -> int:
    """Read the arguments, segment case after case, report."""
    arguments = _arguments()
    settings, device = settings_from(arguments), device_from(arguments)
    jobs = plan_jobs(expand_images(arguments.images), arguments.output, arguments.extension)
    check_output_folder(arguments.output)
    if arguments.json:
        check_output_file(arguments.json)
    weights = arguments.weights or ModelSource.of_app(settings, arguments.app).path
    model = load_model(settings, weights, device).hastened(settings)
    recipe = Recipe.of(model, weights, settings)
    records = []
    with (
        tqdm(desc="slices", total=0, unit="slice", leave=False) as bar,
        tqdm(total=len(jobs), desc="cases", unit="case") as cases,
    ):

        def on_slices(done: int, slices: int) -> None:
            if done == 0:
                bar.total += slices
            bar.update(done)

        for record in segment_all(
            jobs, model, settings, recipe, workers=workers_for(device), planes=arguments.planes, again=arguments.again,
            on_slices=on_slices,
        ):  # fmt: skip
            records.append(record)
            line = f"error: {record['error']}" if "error" in record else one_line(record)
            tqdm.write(line, file=sys.stderr if "error" in record else sys.stdout)
            cases.update()
    failed = [record for record in records if "error" in record]
    if arguments.json:
        report = {
            "model_version": model.version,
            "weights": str(weights),
            "device": str(device),
            "engine": model.engine(settings).name,
            "postprocessing": settings.postprocessing.model_dump(),
            "failed": len(failed),
            "skipped": sum("skipped" in record for record in records),
            "cases": records,
        }
        with atomic_write(arguments.json) as path:
            path.write_text(json.dumps(report, indent=2), encoding="utf-8")
    if failed:
        sys.stderr.write(f"{len(failed)} of {len(jobs)} cases could not be segmented:\n")
        sys.stderr.writelines(f"  {record['image']}: {record['error']}\n" for record in failed)
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="file, DICOM folder or studies folder")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder for the labels")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="weights instead of the app's model in force")
    parser.add_argument(
        "--extension", choices=LABEL_SUFFIXES, default=".nii.gz", help="kind of label file (default: %(default)s)"
    )
    parser.add_argument(
        "--planes",
        choices=("seg.nrrd", "images"),
        help="also write one plane per class: NAME_planes.seg.nrrd, or a folder with one PNG per class and slice",
    )
    parser.add_argument("--again", action="store_true", help="segment also what was finished before")
    parser.add_argument("--json", type=Path, metavar="OUT", help="volumes, lesion counts and seconds of all cases")
    add_app_arguments(parser)
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
