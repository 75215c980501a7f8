"""Model versions as text for people."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lib.store.report import table
from lib.training.registry import VALIDATION_DICE, ModelVersion, figures_of

_WIDEST = 100  # characters of a reason


def list_text(versions: Sequence[ModelVersion]) -> str:
    """One line per version; the star is the one that annotators get."""
    headers = ("", "version", "made", "started from", "Dice on whole cases", "reason")
    return table(headers, map(_line, versions), "there is no model version yet; scripts/train.py makes one")


def show_text(version: ModelVersion) -> str:
    """What is known of one version; names of cases are counted, not listed."""
    told = {**version.as_dict(), "weights": str(version.weights), "report": version.report and str(version.report)}
    metrics, _ = told.pop("metrics"), told.pop("has_report")
    facts = {key: version.manifest[key] for key in ("labels", "channels", "windows", "network", "recipe", "software")
             if key in version.manifest}  # fmt: skip
    rows = [(key, _cell(value)) for key, value in {**told, **metrics, **facts}.items() if value not in (None, "")]
    width = max(len(key) for key, _ in rows)
    return "\n".join(f"{key:<{width}}  {value}" for key, value in rows)


def compare_text(comparison: Mapping[str, Any]) -> str:
    """Two versions beside each other, see `lib.training.registry.Registry.compare`."""
    first, second = comparison["first"], comparison["second"]
    rows = [(name, *map(_cell, values)) for name, values in comparison["figures"].items()]
    lines = [table(("", first, second), rows, f"nothing is known of how good {first} and {second} are")]
    if not comparison["same_validation_cases"]:
        lines.append("not on the same validation cases: the figures can't be compared with each other")
    for key, values in comparison["different"].items():
        lines += [
            f"{key}:",
            *(f"  {name}: {_cell(value)}" for name, value in zip((first, second), values, strict=True)),
        ]
    return "\n".join(lines)


def _line(version: ModelVersion) -> tuple[object, ...]:
    dice = ", ".join(
        f"{name.removesuffix(' Dice')} {value:.3f}"
        for name, value in figures_of(version.manifest).items()
        if name.endswith(" Dice") and name != VALIDATION_DICE
    )
    reason = version.reason or ""
    name = f"{version.id} (starter)" if version.is_starter else version.id
    return (
        "*" if version.is_published else "",
        name,
        f"{version.made_at.astimezone():%Y-%m-%d %H:%M}",
        version.manifest.get("parent"),
        dice,
        reason if len(reason) <= _WIDEST else f"{reason[:_WIDEST]}...",
    )


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
