#!/usr/bin/env python3
"""Get three real sample CTs through pip, or synthetic phantoms where no package registry is in reach."""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.venv import enter_environment

enter_environment()

from lib.console import Parser, run
from lib.datasets.samples import DEFAULT_FOLDER, complete_kind, ensure_samples


def main() -> int:
    """Fetch, convert, and say what is there."""
    parser = Parser(
        description=(
            "Get three real CTs from two published Python packages (43 MB, through your own pip configuration), check "
            "their sha256 and convert them to NIfTI. Origin and licenses are written into the folder's README.md. "
            "Without a registry in reach the folder gets the synthetic phantoms of sample-data/ instead."
        )
    )
    parser.add_argument("-o", "--output", type=Path, default=DEFAULT_FOLDER, metavar="DIR", help="default: %(default)s")
    parser.add_argument("--force", action="store_true", help="fetch again, even if everything is there")
    arguments = parser.parse_args()

    def log(message: str) -> None:
        print(message, flush=True)

    start = time.perf_counter()
    if not arguments.force and complete_kind(arguments.output):
        print(f"{arguments.output} is complete; nothing to do")
    ensure_samples(arguments.output, log, force=arguments.force)
    print(f"done in {time.perf_counter() - start:.1f} s")
    return 0


if __name__ == "__main__":
    run(main)
