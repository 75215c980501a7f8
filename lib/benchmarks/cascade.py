"""What the cascade leaves out, and whether anything is lost by it: many phantoms beside their whole slices."""

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lib.benchmarks.counts import check_counts
from lib.benchmarks.engine_limit import Counted
from lib.benchmarks.machine import describe_machine
from lib.errors import NotFoundError
from lib.inference.command_line import add_app_arguments, device_from, settings_from
from lib.inference.model import Model, ModelSource, load_model
from lib.inference.segment import segment
from lib.labels import LIVER, TUMOR
from lib.metrics.overlap import Overlap
from lib.phantom import draw_spec, render
from lib.settings import Settings
from lib.transforms.components import FACES_EDGES_CORNERS, label_components
from lib.volume import Volume
from lib.volume_io import read_image

SUMMARY = "the cascade beside whole slices: pixels seen, Dice and lesions lost"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `scripts/benchmark.py cascade`."""
    parser.add_argument("--phantoms", type=int, default=20, metavar="N", help="how many (default: %(default)s)")
    parser.add_argument(
        "--first", type=int, default=7000, metavar="SEED", help="of the phantoms (default: %(default)s)"
    )
    parser.add_argument(
        "--size", type=int, default=512, metavar="N", help="columns and rows of the phantoms (default: %(default)s)"
    )
    parser.add_argument("--slices", type=int, default=45, metavar="N", help="of each phantom (default: %(default)s)")
    parser.add_argument(
        "--ct", type=Path, nargs="*", default=[], metavar="FILE", help="images or DICOM folders as well"
    )
    parser.add_argument("--weights", type=Path, metavar="FILE", help="weights instead of the app's model in force")
    add_app_arguments(parser)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Segment each case with the cascade and without, post-processing included.

    Returns:
        `machine`, `model_version`, `engine`; `cases`, each with `name`, `shape`, `spacing_mm`, `seen` (share of the
        pixels that the network was given), `dice` of the whole liver with tumors and of tumors against whole slices
        (None where neither has any), `lesions` of the whole slices' label (26 neighbors, as post-processing counts
        them), the voxels of each that the cascade `lost` altogether, and `seconds` of both; of phantoms also `true`:
        how many of their lesions whole slices find, how many of these the cascade loses, and the Dice of both ways
        with the truth; `total`: the same of all.

    Raises:
        LiverLoopError: a wrong argument, or an image or weights that can't be used.
    """
    check_counts(arguments, "size", "slices", *(() if arguments.ct else ("phantoms",)))
    missing = next((path for path in arguments.ct if not path.exists()), None)
    if missing:
        msg = f"--ct {missing} does not exist"
        raise NotFoundError(msg)
    settings, device = settings_from(arguments), device_from(arguments)
    weights = arguments.weights or ModelSource.of_app(settings, arguments.app).path
    model = load_model(settings, weights, device)
    model = model if device.type == "cuda" else model.hastened(settings)
    cases = [
        _case(path.name, read_image(path), None, model, settings)
        for path in tqdm(arguments.ct, desc="CTs", unit="case", leave=False, disable=not arguments.ct)
    ]
    for seed in tqdm(
        range(arguments.first, arguments.first + arguments.phantoms), desc="phantoms", unit="case", leave=False
    ):
        spec = draw_spec(seed, shape=(arguments.size, arguments.size, arguments.slices))
        phantom = render(spec)
        cases.append(_case(f"phantom {seed}", phantom.image, phantom.label, model, settings))
    return {
        "benchmark": "cascade",
        "machine": describe_machine(device),
        "model_version": model.version,
        "engine": model.engine(settings).name,
        "cases": [{key: value for key, value in case.items() if not key.startswith("overlaps")} for case in cases],
        "total": _total(cases),
    }


def _case(name: str, image: Volume, truth: Volume | None, model: Model, settings: Settings) -> dict[str, Any]:
    pixels = 0

    def see(count: int) -> None:
        nonlocal pixels
        pixels += count

    counted = replace(model, chosen=Counted(model.engine(settings), see))
    labels, seconds, seen = {}, {}, {}
    for cascade in (True, False):
        chosen = settings.model_copy(update={"inference": settings.inference.model_copy(update={"cascade": cascade})})
        pixels, start = 0, time.perf_counter()
        labels[cascade] = segment(image, counted, chosen).label.axial()
        seconds[cascade], seen[cascade] = time.perf_counter() - start, pixels
    lesions, lost = _lost(labels[False] == TUMOR.index, labels[True] == TUMOR.index)
    overlaps = _overlaps(labels[False], labels[True])
    case: dict[str, Any] = {
        "name": name,
        "shape": list(image.shape),
        "spacing_mm": list(image.spacing),
        "seen": seen[True] / seen[False],
        "lesions": lesions,
        "lost": lost,
        "seconds": [seconds[True], seconds[False]],
        "overlaps": overlaps,
        "dice": [_dice(overlap) for overlap in overlaps],
    }
    if truth is not None:
        true = truth.axial()
        ways = [_overlaps(true, labels[cascade]) for cascade in (True, False)]
        case["overlaps_true"] = ways
        case["true"] = {
            "dice": [[_dice(overlap) for overlap in way] for way in ways],
            **_true_lesions(true == TUMOR.index, labels[False] == TUMOR.index, labels[True] == TUMOR.index),
        }
    return case


def _overlaps(reference: NDArray[np.uint8], found: NDArray[np.uint8]) -> list[Overlap]:
    """Of the whole liver, of which tumors are a part, and of tumors."""
    return [Overlap.of(reference >= least, found >= least) for least in (LIVER.index, TUMOR.index)]


def _true_lesions(true: NDArray[np.bool_], whole: NDArray[np.bool_], fast: NDArray[np.bool_]) -> dict[str, int]:
    """How many lesions that are there the one way finds, and how many of these the other doesn't."""
    lesions, count = label_components(true, FACES_EDGES_CORNERS)
    of_whole, of_fast = (np.bincount(lesions[found], minlength=count + 1)[1:] > 0 for found in (whole, fast))
    return {"found": int(of_whole.sum()), "lost": int((of_whole & ~of_fast).sum())}


def _lost(whole: NDArray[np.bool_], fast: NDArray[np.bool_]) -> tuple[int, list[int]]:
    """How many lesions there are, and the voxels of each that has none in the second."""
    lesions, count = label_components(whole, FACES_EDGES_CORNERS)
    sizes = np.bincount(lesions.ravel(), minlength=count + 1)
    found = np.bincount(lesions[fast], minlength=count + 1)
    return count, [int(size) for size in sizes[1:][found[1:] == 0]]


def _dice(overlap: Overlap) -> float | None:
    return overlap.dice if overlap.reference or overlap.prediction else None


def _total(cases: list[dict[str, Any]]) -> dict[str, Any]:
    overlaps = [_sum([case["overlaps"][each] for case in cases]) for each in (0, 1)]
    known = [[case["dice"][each] for case in cases if case["dice"][each] is not None] for each in (0, 1)]
    phantoms = [case for case in cases if "true" in case]
    true: dict[str, Any] = {}
    if phantoms:
        true["dice"] = [
            [_dice(_sum([case["overlaps_true"][way][each] for case in phantoms])) for each in (0, 1)] for way in (0, 1)
        ]
        true |= {key: sum(case["true"][key] for case in phantoms) for key in ("found", "lost")}
    return {
        "seen": float(np.mean([case["seen"] for case in cases])),
        "dice": [_dice(overlap) for overlap in overlaps],
        "least_dice": [min(found, default=None) for found in known],
        "lesions": sum(case["lesions"] for case in cases),
        "lost": [size for case in cases for size in case["lost"]],
        "seconds": [sum(case["seconds"][each] for case in cases) for each in (0, 1)],
        **({"true": true} if true else {}),
    }


def _sum(overlaps: Sequence[Overlap]) -> Overlap:
    return sum(overlaps[1:], overlaps[0])


def as_text(result: Mapping[str, Any]) -> str:
    """The result as a table."""
    machine, total = result["machine"], result["total"]
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads; torch {machine['torch']}",
        f"model {result['model_version']} on {result['engine']}; against whole slices by the same engine",
        "",
        f"{'case':<24}{'voxels':>14}{'mm':>14}{'seen':>8}{'liver':>9}{'tumor':>9}{'lesions':>9}  lost",
    ]
    for case in result["cases"]:
        voxels = " x ".join(map(str, case["shape"]))
        mm = " x ".join(f"{step:.2g}" for step in case["spacing_mm"])
        lines.append(f"{case['name']:<24.23}{voxels:>14}{mm:>14}{_row(case, case['dice'])}")
    lines += [f"{'all':<52}{_row(total, total['dice'])}", f"{'least':<60}{_shown(total['least_dice'])}"]
    fast, whole = total["seconds"]
    lines += ["", f"{fast:.1f} s with the cascade, {whole:.1f} s without"]
    if "true" in total:
        true = total["true"]
        ways = [" and ".join(_shown([one]).strip() for one in way) for way in true["dice"]]
        lines.append(
            f"Of {true['found']} lesions of the phantoms that whole slices find, the cascade loses {true['lost']}; "
            f"Dice with the truth, liver and tumor: {ways[0]} with the cascade, {ways[1]} without"
        )
    return "\n".join(lines)


def _row(case: Mapping[str, Any], dice: list[float | None]) -> str:
    lost = f"{len(case['lost'])} ({', '.join(map(str, case['lost']))} voxels)" if case["lost"] else "0"
    return f"{case['seen']:>8.1%}{_shown(dice)}{case['lesions']:>9}  {lost}"


def _shown(dice: list[float | None]) -> str:
    return "".join(f"{'-' if one is None else f'{one:.4f}':>9}" for one in dice)
