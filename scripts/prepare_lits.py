#!/usr/bin/env python3
"""Turn the LiTS training set, or its Kaggle copy, into a studies folder with labels."""

import argparse
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.venv import enter_environment

enter_environment()

from tqdm import tqdm

from lib.console import Parser, check_output_folder, run
from lib.datasets.lits import Pair, Prepared, find_pairs, prepare_pair
from lib.datasets.lits_slices import write_slices
from lib.errors import BadInputError


def main() -> int:
    """Prepare every pair; 1 if any was refused."""
    arguments = _parser().parse_args()
    if arguments.all_slices and arguments.slices is None:
        msg = "--all-slices needs --slices OUT"
        raise BadInputError(msg)
    if arguments.destination.is_file():
        msg = f"{arguments.destination} is a file; name a folder for the studies"
        raise BadInputError(msg)
    for folder in (arguments.destination, arguments.slices):
        if folder is not None:
            check_output_folder(folder)
    found = find_pairs(arguments.source, arguments.destination)
    refused = [f"{name}: found {len(paths)} times: {', '.join(map(str, paths))}; keep one"
               for name, paths in found.doubled.items()]  # fmt: skip
    counts: Counter[str] = Counter()
    for pair in tqdm(found.pairs, desc="LiTS", unit="case"):
        try:
            prepared = prepare_pair(pair, arguments.destination, by_voxel=arguments.by_voxel)
            _count(prepared, counts)
            if arguments.slices is not None:
                counts["slices"] += _slices(pair, prepared, arguments.slices, every=arguments.all_slices)
        except BadInputError as error:
            refused.append(str(error))
            tqdm.write(f"refused: {error}", file=sys.stderr)
    _summarize(found.unpaired, refused, counts, arguments.destination)
    return 1 if refused else 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        description=(
            "Turn the LiTS training set (volume-N.nii, segmentation-N.nii, also .nii.gz, in any folders, so the Kaggle "
            "copy too) into a MONAI Label studies folder: images at its top, labels in labels/final. Files are linked, "
            "not copied, where the file system can. Run it again after a stop or with more data: what is done is "
            "skipped, and labels that are there are never replaced. Exit code 1 if a case was refused."
        )
    )
    parser.add_argument("source", type=Path, metavar="SRC", help="folder with the LiTS files")
    parser.add_argument("destination", type=Path, metavar="DST", help="studies folder to fill")
    parser.add_argument(
        "--by-voxel",
        action="store_true",
        help="accept segmentations whose header lies more than one voxel's diagonal away from the volume's, and give "
        "them the volume's header",
    )
    parser.add_argument(
        "--slices",
        type=Path,
        metavar="OUT",
        help="also write axial slices holding background, liver and tumor: window-blended 8-bit PNG, 8-bit TIFF mask",
    )
    parser.add_argument("--all-slices", action="store_true", help="with --slices: every slice")
    return parser


def _count(prepared: Prepared, counts: Counter[str]) -> None:
    if prepared.note:
        counts["rewritten"] += 1
        tqdm.write(f"note: {prepared.note}", file=sys.stderr)
    counts["done before" if prepared.done_before else prepared.how] += 1


def _slices(pair: Pair, prepared: Prepared, output: Path, *, every: bool) -> int:
    """Write a case's slices, unless a finished earlier run wrote the same choice of them."""
    name = prepared.image.name
    marker = output / ".done" / f"{name}.{'all' if every else 'liver-and-tumor'}"
    if marker.is_file():
        return 0
    written = write_slices(pair.image, pair.label, output, every=every)
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()
    return written


def _summarize(unpaired: list[Path], refused: list[str], counts: Counter[str], destination: Path) -> None:
    for path in unpaired:
        print(f"no partner for {path}")
    for reason in refused:
        print(f"refused: {reason}")
    kinds = ("hard link", "symbolic link", "copy", "label added", "done before")
    parts = [f"{counts[kind]} {kind}" for kind in kinds if counts[kind]]
    total = sum(counts[kind] for kind in kinds)
    print(f"{destination}: {total} cases ({', '.join(parts) or 'none'}), {counts['rewritten']} labels with a corrected "
          f"header, {len(refused)} refused, {len(unpaired)} without a partner")  # fmt: skip
    if counts["slices"]:
        print(f"{counts['slices']} slices written")


if __name__ == "__main__":
    run(main)
