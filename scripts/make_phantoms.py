#!/usr/bin/env python3
"""Write synthetic CTs with ground truth for liver and tumors, for tests, benchmarks and trying things out.

    scripts/make_phantoms.py -o studies --count 4 --shape 256 256 80 --with-labels
    scripts/make_phantoms.py --sample-data

Images become `phantom_<seed>.nii.gz` in the folder, labels `labels/final/` under it with the same names. The same seed
and options give the same voxels.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.venv import enter_environment

enter_environment()

from tqdm import tqdm

from lib.anatomy.spec import Phase
from lib.console import Parser, check_output_folder, run
from lib.datasets.phantoms import SAMPLE_PHANTOMS
from lib.errors import BadInputError
from lib.phantom import Phantom, draw_spec, render
from lib.volume_io import write_image, write_label

SAMPLE_DATA = Path(__file__).resolve().parents[1] / "sample-data"


def main() -> None:
    """Parse the command line and write the phantoms."""
    arguments = _parser().parse_args()
    if arguments.sample_data:
        folder = arguments.output or SAMPLE_DATA
        jobs = list(SAMPLE_PHANTOMS.items())
    else:
        if arguments.output is None:
            msg = "name the folder to write to with -o DIR, or give --sample-data"
            raise BadInputError(msg)
        if arguments.count < 1:
            msg = f"--count must be 1 or more, not {arguments.count}"
            raise BadInputError(msg)
        folder = arguments.output
        jobs = list(_jobs(arguments))
    if folder.exists() and not folder.is_dir():
        msg = f"{folder} is a file; name a folder"
        raise BadInputError(msg)
    check_output_folder(folder)
    for name, options in tqdm(jobs, unit="phantom", desc="phantoms", delay=0.5):
        phantom = _make(options)
        if arguments.with_labels or arguments.sample_data:  # first, as a server may be watching the folder for images
            write_label(folder / "labels" / "final" / f"{name}.nii.gz", phantom.label)
        write_image(folder / f"{name}.nii.gz", phantom.image)


def _jobs(arguments: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    for number in range(arguments.count):
        options = {
            "seed": arguments.seed + number,
            "shape": tuple(arguments.shape) if arguments.shape else None,
            "spacing": tuple(arguments.spacing) if arguments.spacing else None,
            "phase": arguments.phase,
            "tumors": arguments.tumors,
            "orientation": arguments.orientation,
        }
        yield f"phantom_{arguments.seed + number:04d}", options


def _make(options: dict[str, Any]) -> Phantom:
    spec = draw_spec(**options)
    # a bar of its own only for those that take long
    with tqdm(total=100, unit="%", leave=False, delay=2, bar_format="{l_bar}{bar}| {elapsed}<{remaining}") as bar:

        def show(share: float) -> None:
            bar.update(round(100 * share) - bar.n)

        return render(spec, progress=show)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="studies folder to write to; made if missing")
    parser.add_argument("--count", type=int, default=1, help="how many phantoms (default: 1)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the first; the next have the next (default: 1)")
    parser.add_argument(
        "--shape", type=int, nargs=3, metavar=("X", "Y", "Z"),
        help="voxels of the axial grid (default: 512 512 and as many slices as a clinical scan has)",
    )  # fmt: skip
    parser.add_argument(
        "--spacing", type=float, nargs=3, metavar=("X", "Y", "Z"),
        help="mm between voxels (default: a field of view of 320 to 500 mm; slices such that the liver fits)",
    )  # fmt: skip
    parser.add_argument(
        "--phase",
        choices=get_args(Phase),
        help="before contrast, or late arterial or portal-venous after it (default: native or portal)",
    )
    parser.add_argument("--tumors", type=int, help="how many tumors each has (default: 0 to 12)")
    parser.add_argument("--orientation", help="axis codes of the files, such as LPS or RAS (default: any)")
    parser.add_argument("--with-labels", action="store_true", help="write the ground truth to DIR/labels/final too")
    parser.add_argument(
        "--sample-data", action="store_true", help="regenerate the committed sample-data/ (or the same phantoms in DIR)"
    )
    return parser


if __name__ == "__main__":
    run(main)
