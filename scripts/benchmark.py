#!/usr/bin/env python3
"""Measure how long LiverLoop takes and what memory it needs on this machine.

    scripts/benchmark.py infer                                    a phantom of 512 x 512 x 100
    scripts/benchmark.py infer --volume ct.nii.gz --repeat 3 --json infer.json
    scripts/benchmark.py infer --against monailabel-radiology     beside the 3D model of MONAI Label's sample app
    scripts/benchmark.py cascade --phantoms 20                    full resolution around the liver beside everywhere
    scripts/benchmark.py clients --clients 8                      many annotators at once beside one alone
    scripts/benchmark.py engines                                  PyTorch and OpenVINO on slices of a phantom
    scripts/benchmark.py batch --cases 6                          many cases at once, beside the network's own speed
    scripts/benchmark.py store --images 1000 20000                the store beside MONAI Label's
    scripts/benchmark.py train --cases 4 --slices 100             loading, steps and whole epochs of a training
    scripts/benchmark.py learning --epochs 12                     unseen cases before and after a training
    scripts/benchmark.py score --volume 60 100                    scores beside segmenting alone and MONAI Label's
    scripts/benchmark.py start                                    a server's start beside plain MONAI Label's
    scripts/benchmark.py soak --minutes 60 --json soak.json       annotators in the loop while the server trains

Each but the soak compares with a baseline measured in the same run. Exit code: 0; 1 when a soak finds that a promise
is not kept; 2 for wrong input.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.venv import enter_environment

enter_environment()

from lib.benchmarks import batch, cascade, clients, engines, infer, learning, score, soak, start, store, train
from lib.console import Parser, check_output_file, run
from lib.files import atomic_write

_BENCHMARKS = {
    "batch": batch, "cascade": cascade, "clients": clients, "engines": engines, "infer": infer, "learning": learning,
    "score": score, "soak": soak, "start": start, "store": store, "train": train,
}  # fmt: skip


def main() -> int:
    """Run one benchmark, print its table, write its JSON."""
    arguments = _arguments()
    if arguments.json:
        check_output_file(arguments.json)
    benchmark = _BENCHMARKS[arguments.benchmark]
    result = benchmark.measure(arguments)
    print(benchmark.as_text(result))
    if arguments.json:
        with atomic_write(arguments.json) as path:
            path.write_text(json.dumps(result, indent=2), encoding="utf-8")
    return int(bool(result.get("broken")))


def _arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    subparsers = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    for name, module in _BENCHMARKS.items():
        subparser = subparsers.add_parser(name, help=module.SUMMARY, description=f"Measure {module.SUMMARY}.")
        module.add_arguments(subparser)
        subparser.add_argument("--json", type=Path, metavar="OUT", help="everything that was measured")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
