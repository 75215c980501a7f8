"""What scores cost beside a segmentation, and how many cases an hour has beside MONAI Label's epistemic scoring."""

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tqdm import tqdm

from lib.activelearning.scoring import ScoringWatch
from lib.benchmarks.counts import check_counts
from lib.benchmarks.infer import small_image, volume_file
from lib.benchmarks.machine import describe_machine
from lib.case_scores import CaseScores
from lib.errors import BadInputError
from lib.inference.command_line import add_app_arguments, device_from, settings_from
from lib.inference.device import set_threads
from lib.inference.model import Model, ModelSource
from lib.inference.shared import SharedSegmenter
from lib.settings import Settings
from lib.volume_io import read_image, write_image

SUMMARY = "what scores cost beside a segmentation, and the cases per hour beside MONAI Label's epistemic scoring"
ALONE, SCORES, BALD = "alone", "with scores", "with scores and BALD"
_STRATEGIES = {SCORES: ("entropy",), BALD: ("entropy", "bald")}  # BALD is computed where its strategy is offered
_GOALS = {SCORES: 1.3, BALD: 2.0}
_GOAL_PER_HOUR = 20.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `scripts/benchmark.py score`."""
    parser.add_argument(
        "--volume",
        nargs="+",
        default=["60", "100"],
        metavar="SLICES|FILE",
        help="the cases: slices of a phantom, rendered once and kept, or an image or DICOM folder (default: 60 100)",
    )
    parser.add_argument(
        "--size", type=int, default=512, metavar="N", help="columns and rows of phantoms (default: %(default)s)"
    )
    parser.add_argument(
        "--repeat", type=int, default=3, metavar="N", help="rounds of all ways in turn (default: %(default)s)"
    )
    parser.add_argument("--weights", type=Path, metavar="FILE", help="weights instead of the app's model in force")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores)")
    parser.add_argument(
        "--no-baseline", action="store_true", help="leave out MONAI Label's scoring, which takes minutes for each case"
    )
    add_app_arguments(parser)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the benchmark.

    Each case is segmented as a batch does it, from the file to the finished label, in the three ways in turn.

    Returns:
        `machine`, `model_version`, `engine`; `cases`, each with `file`, `shape`, by way the median `seconds`, its
        `steps` and the `ratio` to the segmentation alone, and `scores`; `ratio` of all cases together and
        `cases_per_hour` by way; unless left out, `baseline` with `seconds`, `cases_per_hour` and `scores`, and
        `per_hour_ratio` by way to it.

    Raises:
        LiverLoopError: a wrong argument, an image or weights that can't be used.
    """
    check_counts(arguments, "size", "repeat", "threads")
    settings, device = settings_from(arguments), device_from(arguments)
    if arguments.threads:
        set_threads(arguments.threads)
    weights = arguments.weights or ModelSource.of_app(settings, arguments.app).path
    source = ModelSource(settings, weights, weights)
    source.get(device)
    source.wait()
    model = source.get(device)
    paths = [volume_file(volume, arguments.size, None) for volume in arguments.volume]
    with tempfile.TemporaryDirectory() as folder:
        cases = _measured(paths, small_image(Path(folder)), settings, source, device, arguments.repeat)
    totals = {way: sum(case["seconds"][way] for case in cases) for way in (ALONE, *_STRATEGIES)}
    result: dict[str, Any] = {
        "benchmark": "score",
        "machine": describe_machine(device),
        "model_version": model.version,
        "engine": model.engine(settings).name,
        "repeat": arguments.repeat,
        "cases": cases,
        "ratio": {way: totals[way] / totals[ALONE] for way in _STRATEGIES},
        "cases_per_hour": {way: 3600 * len(cases) / seconds for way, seconds in totals.items()},
    }
    if not arguments.no_baseline:
        result["baseline"] = baseline = _baseline(paths, model, settings)
        result["per_hour_ratio"] = {
            way: result["cases_per_hour"][way] / baseline["cases_per_hour"] for way in _STRATEGIES
        }
    return result


def _measured(
    paths: Sequence[Path], small: Path, settings: Settings, source: ModelSource, device: torch.device, rounds: int
) -> list[dict[str, Any]]:
    """The cases, each by way."""
    scored: dict[tuple[str, str], CaseScores] = {}
    segmenters = {ALONE: SharedSegmenter(settings, source)}
    for way, strategies in _STRATEGIES.items():
        chosen = settings.active_learning.model_copy(update={"strategies": strategies})

        def note(path: str, version: str, scores: CaseScores, seconds: float, way: str = way) -> None:
            scored[way, path] = scores

        own = settings.model_copy(update={"active_learning": chosen})
        segmenters[way] = SharedSegmenter(own, source, ScoringWatch(own, note, lambda path, version: True))
    runs: dict[tuple[str, Path], list[dict[str, float]]] = {(way, path): [] for path in paths for way in segmenters}
    try:
        for segmenter in segmenters.values():  # what a process prepares once is no part of a case
            segmenter.segment(small, settings.postprocessing, device, background=True)
        for way, path in tqdm(list(runs) * rounds, unit="case", leave=False):
            begin = time.perf_counter()
            served = segmenters[way].segment(path, settings.postprocessing, device, background=True)
            total = time.perf_counter() - begin
            runs[way, path].append({**served.segmentation.seconds, "total": total})
            if way != ALONE and (way, str(path)) not in scored:
                msg = f"{path}: it was not scored; the log says why"
                raise BadInputError(msg)
    finally:
        for segmenter in segmenters.values():
            segmenter.close()
    cases = []
    for path in paths:
        middle = {way: sorted(runs[way, path], key=lambda run: run["total"])[rounds // 2] for way in segmenters}
        seconds = {way: median(run["total"] for run in runs[way, path]) for way in segmenters}
        cases.append(
            {
                "file": str(path),
                "shape": list(read_image(path).shape),
                "seconds": seconds,
                "steps": {way: {step: run[step] for step in run if step != "total"} for way, run in middle.items()},
                "ratio": {way: seconds[way] / seconds[ALONE] for way in _STRATEGIES},
                "scores": {
                    way: {"entropy": scored[way, str(path)].entropy, "bald": scored[way, str(path)].bald}
                    for way in _STRATEGIES
                },
            }
        )
    return cases


def _baseline(paths: Sequence[Path], model: Model, settings: Settings) -> dict[str, Any]:
    from lib.benchmarks.monai_scoring import epistemic_seconds  # MONAI Label takes seconds and memory

    with tempfile.TemporaryDirectory() as folder:
        for number, path in enumerate(paths):
            image = Path(folder) / f"case_{number}.nii.gz"
            if path.name.endswith(".nii.gz"):
                image.symlink_to(path.resolve())
            else:
                write_image(image, read_image(path))
        scores, seconds = epistemic_seconds(Path(folder), model, settings)
    return {
        "title": "MONAI Label's epistemic scoring, 5 dropout passes of each case, our network in float32",
        "seconds": seconds,
        "cases_per_hour": 3600 * len(paths) / seconds,
        "scores": scores,
    }


def as_text(result: Mapping[str, Any]) -> str:
    """The result as a table."""
    machine, ways = result["machine"], (ALONE, *_STRATEGIES)
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, load {machine['load']}; "
        f"device {machine['device_name']}; torch {machine['torch']}",
        f"model {result['model_version']} on {result['engine']}; medians of {result['repeat']}",
        "",
        f"{'voxels':<20}{'step':<16}" + "".join(f"{way + ', s':>26}" for way in ways),
    ]
    for case in result["cases"]:
        steps = dict.fromkeys(step for way in ways for step in case["steps"][way])
        name = " x ".join(map(str, case["shape"]))
        for step in steps:
            cells = [case["steps"][way].get(step) for way in ways]
            lines.append(f"{name:<20}{step:<16}" + "".join(f"{'' if v is None else f'{v:.2f}':>26}" for v in cells))
            name = ""
        lines.append(f"{'':<20}{'total':<16}" + "".join(f"{case['seconds'][way]:>26.2f}" for way in ways))
    per_hour = "".join(f"{result['cases_per_hour'][way]:>26.0f}" for way in ways)
    lines += [f"{'cases per hour':<36}{per_hour}", ""]
    for way, ratio in result["ratio"].items():
        lines.append(f"Segmenting {way} takes {ratio:.2f} times as long as alone (goal: {_GOALS[way]}).")
    if "baseline" in result:
        baseline = result["baseline"]
        lines += ["", f"{baseline['title']}: {baseline['seconds']:.0f} s, {baseline['cases_per_hour']:.1f} per hour."]
        for way, ratio in result["per_hour_ratio"].items():
            lines.append(f"{way[0].upper()}{way[1:]} there are {ratio:.0f} times as many (goal: {_GOAL_PER_HOUR:.0f}).")
    return "\n".join(line.rstrip() for line in lines)
