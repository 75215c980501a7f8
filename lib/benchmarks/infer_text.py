"""The report of `scripts/benchmark.py infer` as text."""

from collections.abc import Iterable, Mapping
from typing import Any

STAGES = ("wait", "read", "unpack", "locate", "windows", "network", "postprocessing", "centroids", "write")
_LAST = ("other", "total")
_WIDTH = 18


def as_text(result: Mapping[str, Any]) -> str:
    """The result of `lib.benchmarks.infer.measure` as tables and sentences."""
    machine, volume, ours = result["machine"], result["volume"], result["ours"]
    lines = [
        f"{volume['file']}: {_by(volume['shape'])} voxels of "
        f"{' x '.join(f'{step:.2f}' for step in volume['spacing_mm'])} mm",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, load {machine['load']}; "
        f"device {machine['device_name']}; torch {machine['torch']}",
        f"model {result['model_version']} on {result['engine']}, {result['batch_slices']} slices at once",
        "",
        *_table(ours, _ordered(stage for side in ours.values() for stage in side["seconds"])),
    ]
    if "baseline" in result:
        baseline = result["baseline"]
        lines += [
            "",
            f"{baseline['title']}:",
            *_table({"baseline": baseline}, list(baseline["seconds"])),
            "",
            f"ratio: the baseline takes {result['ratio']:.1f} times as long as LiverLoop, cold.",
        ]
    lines += ["", *_limit(result["limit"], ours["cold"]["seconds"])]
    if "agreement" in result:
        agreement = result["agreement"]
        dice = ", ".join(f"{name} {value:.4f}" for name, value in agreement["dice"].items())
        lines += [
            "",
            f"Dice with PyTorch float32 on the whole volume, which took {agreement['plain_seconds']:.1f} s: {dice}; "
            f"{agreement['different_voxels']} voxels differ.",
        ]
    return "\n".join(line.rstrip() for line in lines)


def _ordered(stages: Iterable[str]) -> list[str]:
    """Each stage once, in the order of the work; those that nobody foresaw before the last."""
    found = dict.fromkeys(stages)
    unknown = [stage for stage in found if stage not in STAGES and stage not in _LAST]
    return [stage for stage in (*STAGES, *unknown, *_LAST) if stage in found]


def _table(sides: Mapping[str, Mapping[str, Any]], stages: Iterable[str]) -> list[str]:
    lines = [f"{'stage':<{_WIDTH}}" + "".join(f"{name + ' ms':>{_WIDTH}}{'share':>8}" for name in sides)]
    for stage in stages:
        cells = ""
        for side in sides.values():
            seconds, total = side["seconds"].get(stage), side["seconds"]["total"]
            cells += (
                f"{'':>{_WIDTH + 8}}" if seconds is None else f"{seconds * 1000:>{_WIDTH}.1f}{seconds / total:>8.1%}"
            )
        lines.append(f"{stage:<{_WIDTH}}{cells}")
    rows = {
        "slices/s": [side["slices_per_second"] for side in sides.values()],
        "peak memory MB": [side["peak_memory_mb"] for side in sides.values()],
        "above loaded MB": [side["peak_memory_mb"] - side["loaded_memory_mb"] for side in sides.values()],
        "peak GPU MB": [side["peak_gpu_memory_mb"] for side in sides.values()],
    }
    if not any(rows["peak GPU MB"]):
        del rows["peak GPU MB"]
    return lines + [
        f"{title:<{_WIDTH}}" + "".join(f"{value:>{_WIDTH}.1f}{'':>8}" for value in values)
        for title, values in rows.items()
    ]


def _limit(limit: Mapping[str, Any], cold: Mapping[str, float]) -> list[str]:
    flop = limit["gflop"]
    lines = [
        f"The network takes {limit['gflop_per_slice']:.1f} GFLOP for a slice of 512 x 512: {flop['must']:.0f} GFLOP "
        f"for the box of the label, which must be seen, {flop['seen']:.0f} for what was seen, {flop['whole']:.0f} for "
        "the whole volume.",
    ]
    working = cold.get("locate", 0.0) + cold.get("network", 0.0)
    for kind, seconds in limit["seconds"].items():
        lines.append(
            f"At this machine's fastest matrix product in {kind}, {limit['peak_gflops'][kind]:.0f} GFLOP/s: "
            f"{seconds['must']:.2f} s, {seconds['seen']:.2f} s, {seconds['whole']:.2f} s. The cold request took "
            f"{cold['total'] / seconds['must']:.1f} times the first, its network {_times(working, seconds['seen'])} "
            "the second."
        )
    return lines


def _times(seconds: float, limit: float) -> str:
    return f"{seconds / limit:.1f} times" if limit else "-"


def _by(sizes: Iterable[int]) -> str:
    return " x ".join(map(str, sizes))
