"""The result of a soak as tables."""

from collections.abc import Mapping
from typing import Any

from lib.store.report import table


def as_text(result: Mapping[str, Any]) -> str:
    """The result as tables."""
    machine, shape = result["machine"], " x ".join(map(str, result["shape"]))
    login = "logged in" if result["login"] else "without login"
    models, samples = result["models"], result["samples"]
    runs = [runs for _, runs in models["training"]]
    rows = [
        (
            kind, row["done"], _ms(row["p50_s"]), _ms(row["p95_s"]), _ms(row["max_s"]), row["error"],
            row["later"], row["late"], row["dropped"],
        )
        for kind, row in result["requests"].items()
    ]  # fmt: skip
    headers = ("request", "done", "p50 ms", "p95 ms", "max ms", "errors", "later", "too late", "dropped")
    memory, app = (samples[key] or [0.0] for key in ("memory_mb", "app_mb"))
    lines = [
        f"{result['clients']} annotators for {result['minutes']:g} minutes, {login}; {result['images']} phantoms of "
        f"{shape}; they think {result['pause_s']:g} s twice for each",
        f"{machine['cpu']}, {machine['cores']} cores, load {machine['load']}; torch {machine['torch']}; "
        f"{result['date']}",
        "",
        table(headers, rows, "nothing was asked"),
        "later: asked to come back, and did; too late: others had taken it; dropped: the client went away, on purpose",
        "",
        f"memory {memory[0]:.0f} MB at first, {max(memory):.0f} MB at most, {memory[-1]:.0f} MB at the end; "
        f"{result['labels']['ledger_kb']:.1f} KB of ledger for each label version",
        f"app folder {app[0]:.0f} MB at first, {app[-1]:.0f} MB at the end: models and runs of trainings are kept",
        f"a training ran {sum(runs) / max(1, len(runs)):.0%} of the time: "
        + (", ".join(f"{count} {name}" for name, count in models["trainings"].items()) or "none ended"),
        f"model versions that annotators got: {len(models['versions'])}",
        "",
        table(
            ("promise", "kept", "found"),
            [(one["promise"], "yes" if one["kept"] else "NO", one["told"]) for one in result["promises"]],
            "",
        ),
    ]
    return "\n".join([*lines, *(f"error: {told}" for told in result["errors"])])


def _ms(seconds: float | None) -> str | None:
    return None if seconds is None else f"{1000 * seconds:.0f}"
