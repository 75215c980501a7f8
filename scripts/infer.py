#!/usr/bin/env python3
"""Segment liver and tumors in CTs, without a server.

    scripts/infer.py ct.nii.gz dicom_folder -o labels
    scripts/infer.py ~/livers -o ~/predictions --json ~/predictions/summary.json

An image is a .nii.gz, .nii or .nrrd file, a folder with one DICOM series, or a studies folder, of which every image
at the top is taken. Each label has its image's name and exactly its geometry: 0 background, 1 liver, 2 tumor.
A case that can't be used is reported and the others go on. Exit code: 0, 1 if a case failed, 2 for wrong input.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.venv import enter_environment

enter_environment()

from tqdm import tqdm

from lib.console import Parser, check_output_file, check_output_folder, run
from lib.errors import LiverLoopError
from lib.files import atomic_write
from lib.inference.command_line import add_app_arguments, device_from, settings_from
from lib.inference.files import Job, one_line, plan_jobs, run_job
from lib.inference.model import Model, ModelSource, load_model
from lib.settings import Settings
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
    model = load_model(settings, weights, device)
    records = []
    with tqdm(jobs, desc="cases", unit="case", disable=len(jobs) == 1) as cases:
        for job in cases:
            records.append(_segment(job, model, settings, arguments.planes))
            line = one_line(records[-1]) if "error" not in records[-1] else f"error: {records[-1]['error']}"
            tqdm.write(line, file=sys.stderr if "error" in records[-1] else sys.stdout)
    failed = sum("error" in record for record in records)
    if arguments.json:
        report = {
            "model_version": model.version,
            "weights": str(weights),
            "device": str(device),
            "postprocessing": settings.postprocessing.model_dump(),
            "failed": failed,
            "cases": records,
        }
        with atomic_write(arguments.json) as path:
            path.write_text(json.dumps(report, indent=2), encoding="utf-8")
    if failed:
        sys.stderr.write(f"{failed} of {len(jobs)} cases could not be segmented\n")
    return 1 if failed else 0


def _segment(job: Job, model: Model, settings: Settings, planes: Any) -> dict[str, Any]:
    with tqdm(desc=job.image.name, unit="slice", leave=False) as bar:

        def on_slices(done: int, slices: int) -> None:
            if bar.total is None:
                bar.reset(total=slices)
            bar.update(done)

        try:
            return run_job(job, model, settings, planes=planes, on_slices=on_slices)
        except LiverLoopError as error:
            return {"image": str(job.image), "error": str(error)}


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
    parser.add_argument("--json", type=Path, metavar="OUT", help="volumes, lesion counts and seconds of all cases")
    add_app_arguments(parser)
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
