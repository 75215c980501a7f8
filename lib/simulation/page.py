"""The report of a simulation as one HTML file, and as a table for a page of the documentation."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib.files import atomic_write
from lib.metrics.page import page_template
from lib.simulation.drawings import as_png, draw_curves, draw_differences, draw_kinds, titled
from lib.simulation.report import BASELINE, DEFAULT, GOAL, OF_FULL, X_AXES
from lib.simulation.test_set import FALSE

_NONE = "–"
PICTURES = {"curves": draw_curves, "differences": draw_differences}


def pictures_of(summary: Mapping[str, Any], pool: Mapping[str, int]) -> dict[str, bytes]:
    """PNG of each picture, by its name."""
    drawn = {name: as_png(draw(summary)) for name, draw in PICTURES.items()}
    return {**drawn, "kinds": as_png(draw_kinds(summary, pool))}


def write_page(path: Path, result: Mapping[str, Any], pictures: Mapping[str, bytes]) -> None:
    """Write the page; it needs no other file and no script.

    Args:
        path: of the page.
        result: what `scripts/simulate.py` writes as JSON.
        pictures: from `pictures_of`.
    """
    template = page_template(Path(__file__).with_name("page.html.j2"), {"number": number, "interval": interval})
    page = template.render(
        result=result, summary=result["summary"], plan=result["plan"], baseline=BASELINE, default=DEFAULT, goal=GOAL,
        of_full=OF_FULL, tables=tables(result["summary"]),
        pictures={name: base64.b64encode(png).decode() for name, png in pictures.items()},
    )  # fmt: skip
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def tables(summary: Mapping[str, Any]) -> dict[str, list[list[str]]]:
    """Rows of cells of each table, the head first: `end`, `area`, and as far as there are figures `needed`, `goals`."""
    measures = summary["measures"]
    goals = [measure for measure in measures if measure != FALSE]
    end = [["strategy", "seeds", "labels", *map(titled, measures)]]
    areas = [["strategy", *map(titled, goals), *(f"{titled(m)}, less {BASELINE}" for m in goals)]]
    need = [["to reach", "strategy", "seeds", *(f"{titled(m)}: {axis}" for axis in X_AXES for m in goals)]]
    for name, told in summary["strategies"].items():
        last = {measure: told["curves"][measure][-1] for measure in measures}
        seeds, labels = str(last[measures[0]]["seeds"]), number(last[measures[0]]["labels"], 0)
        end.append([name, seeds, labels, *(interval(last[measure]) for measure in measures)])
        against = told["against_baseline"] or {}
        differences = [interval(against[m]["area"], signed=True) if m in against else _NONE for m in goals]
        areas.append([name, *(interval(told["area"].get(m)) for m in goals), *differences])
        for target, found in told["needed"].items():
            figures = (number(found[axis][m], 0) for axis in X_AXES for m in goals)
            need.append([_named(target), name, str(len(told["seeds"])), *figures])
    need[1:] = sorted(need[1:], key=lambda row: row[0])
    if summary["full"]:
        seeds = str(len(summary["full_seeds"]))
        end.append(["the whole pool", seeds, _NONE, *(interval(summary["full"][measure]) for measure in measures)])
    some = {"needed": need} if len(need) > 1 else {}
    return {"end": end, "area": areas, **some, **({"goals": _goals(summary["goals"])} if summary["goals"] else {})}


def _goals(goals: Mapping[str, Any]) -> list[list[str]]:
    rows = [["to reach", "measure", f"labels, {DEFAULT}", f"labels, {BASELINE}", "ratio"]]
    for target, measures in goals["labels_needed"].items():
        for measure, found in measures.items():
            ratio = number(found["ratio"], 2)
            ratio = f"below {ratio}" if found["is_bound"] and found["ratio"] is not None else ratio
            labels = (number(found[key], 1) for key in ("ours", "baseline"))
            rows.append([_named(target), titled(measure), *labels, ratio])
    return rows


def _named(target: str) -> str:
    return f"{100 * OF_FULL:g} % of the whole pool's" if target == "full" else f"what {BASELINE} has at its end"


def as_markdown(rows: list[list[str]]) -> str:
    """A table for a page of the documentation."""
    head, *others = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, f"|{'---|' * len(rows[0])}", *others])


def as_text(rows: list[list[str]]) -> str:
    """A table for a terminal."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def number(value: float | None, digits: int = 3) -> str:
    """A figure, or a dash where there is none."""
    return _NONE if value is None else f"{value:.{digits}f}"


def interval(found: Mapping[str, float | None] | None, *, signed: bool = False) -> str:
    """A mean and its interval."""
    if found is None or found["mean"] is None:
        return _NONE
    form = "+.3f" if signed else ".3f"
    ends = "" if found["low"] is None else f" ({found['low']:{form}} to {found['high']:{form}})"
    return f"{found['mean']:{form}}{ends}"
