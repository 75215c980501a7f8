"""The page of a training: what it was trained on, how it went, why it was published or not, and where it is wrong.

`report.html` is one file that needs no other, no network and no script, for people who do not read logs.
"""

import base64
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Template

from lib.errors import LiverLoopError
from lib.files import atomic_write
from lib.metrics.page import page_template
from lib.settings import Settings
from lib.training.curves import plots_of
from lib.training.history import Row
from lib.training.preflight import CaseCheck, Preflight
from lib.training.registry import REPORT_FILE
from lib.training.state import STATE_FILE
from lib.training.worst_cases import WorstCases

logger = logging.getLogger(__name__)

# For whoever serves the page: no script, nothing from elsewhere. The page itself says the same.
CONTENT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_MINUS = "\N{MINUS SIGN}"
_NO_VALUE = "\N{EN DASH}"
_SECTIONS = ("labels", "channels", "windows", "network", "training", "augmentation", "synthetic_tumors",
             "postprocessing")  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """What became of a training.

    Args:
        kind: "running", "failed", "published" or "kept".
        sentence: the headline.
        reason: why; empty while it is running.
        explanation: what else one should know.
    """

    kind: str
    sentence: str
    reason: str
    explanation: str

    @property
    def ended(self) -> bool:
        """Whether there is a new model."""
        return self.kind in {"published", "kept"}


@dataclass
class RunPage:
    """Writes the page of a training, again and again as it goes on.

    A page that can't be written is logged and stops nothing: the model is worth more than its page.

    Args:
        folder: of the run.
        settings: recipe, labels and their colors.
        preflight: what was found about the cases.
        version: of the weights in the making.
        facts: `started_from`, `parent`, `training_cases`, `validation_cases`, as far as they are known.
        rows: of the history.
        draw: False: there is no page.
        worst: the pictures.
    """

    folder: Path
    settings: Settings
    preflight: Preflight
    version: str
    facts: Mapping[str, Any]
    rows: list[Row] = field(default_factory=list)
    draw: bool = True
    worst: WorstCases = field(init=False)

    def __post_init__(self) -> None:
        self.worst = WorstCases(self.settings)

    @property
    def path(self) -> Path:
        """The page's file."""
        return self.folder / REPORT_FILE

    def epoch_done(self, row: Row) -> None:
        """Show one more epoch; a training that goes on may tell of those before once more."""
        if row in self.rows:
            return
        self.rows.append(row)
        done, epochs = int(row["epoch"] or 0), self.settings.training.max_epochs
        self._write(
            Verdict(
                "running",
                f"Not ended: {done} of {epochs} epochs were done on {_now()}.",
                "",
                "This page is written anew after each epoch and at the end. If no training is running, this one was "
                "interrupted and can be resumed. Annotators still get the model that they had.",
            )
        )

    @contextmanager
    def on_failure(self) -> Iterator[None]:
        """Say on the page why the block failed; the error goes on."""
        try:
            yield
        except BaseException as error:
            failed = isinstance(error, Exception)
            reason = str(error) if isinstance(error, LiverLoopError) else f"{type(error).__name__}: {error}"
            explanation = f"That was on {_now()}. Annotators still get the model that they had."
            if (self.folder / STATE_FILE).is_file():
                explanation += " The training can be resumed after its last whole epoch."
            self._write(
                Verdict(
                    "failed",
                    f"{'Failed' if failed else 'Stopped before its end'}: there is no new model.",
                    _sentence(reason) if failed else "",
                    explanation,
                )
            )
            raise

    def ended(self, *, published: bool, reason: str, best_epoch: int) -> None:
        """Show the result.

        Args:
            published: whether annotators get the model.
            reason: why, or why not.
            best_epoch: whose weights were kept.
        """
        kind, sentence = (
            ("published", "Published: annotators get this model.")
            if published
            else ("kept", "Kept, not published: annotators still get the model that they had.")
        )
        when = f"That was decided on {_now()}; somebody may have published another version since."
        verdict = Verdict(kind, sentence, _sentence(reason), when)
        self._write(verdict, best_epoch)

    def _write(self, verdict: Verdict, best_epoch: int | None = None) -> None:
        if not self.draw:
            return
        try:
            text = render(self, verdict, best_epoch)
            with atomic_write(self.path) as temporary:
                temporary.write_text(text, encoding="utf-8")
        except Exception as error:
            logger.warning("%s is not written: %s", self.path, str(error) or type(error).__name__, exc_info=True)


def render(page: RunPage, verdict: Verdict, best_epoch: int | None = None) -> str:
    """The page as HTML; what runs leave in their folder (`gate.json`, `cross_validation.json`) is shown if it is there.

    Args:
        page: of the run.
        verdict: what became of it so far.
        best_epoch: whose weights were kept; None: not known yet.
    """
    names = list(page.settings.label_indices())
    gate = _read(page.folder / "gate.json") if verdict.ended else None
    cross = _read(page.folder / "cross_validation.json") if verdict.ended else None
    return _template().render(
        policy=CONTENT_POLICY,
        run=page.folder.name,
        verdict=verdict,
        names=names,
        colors={name: f"rgb{page.settings.labels[name].color}" for name in names},
        preflight=page.preflight,
        sides=[_side(page.preflight.cases, side, names) for side in ("training", "validation")],
        undecoded=_undecoded(page),
        recipe=_recipe(page, best_epoch),
        all_settings=list(_flat(page.settings.model_dump(mode="json", include=set(_SECTIONS)))),
        plots=plots_of(page.rows, best_epoch),
        epochs=_epochs(page.rows, best_epoch),
        gate=gate,
        cross=cross,
        networks={case["name"]: case["network"] for case in cross["cases"]} if cross else {},
        pictures=page.worst.pictures(),
    )


@lru_cache(maxsize=1)
def _template() -> Template:
    return page_template(
        Path(__file__).with_name("report.html.j2"),
        {
            "number": _number,
            "signed": _signed,
            "interval": _interval,
            "png": _png,
            "svg": _svg,
            "sentence": _sentence,
        },
    )


def _side(cases: Sequence[CaseCheck], side: str, names: Sequence[str]) -> dict[str, Any]:
    """A row of the table of the split."""
    own = [case for case in cases if case.side == side]
    return {
        "side": side,
        "patients": len({case.patient for case in own}),
        "cases": len(own),
        "classes": [
            {
                "shown_in": sum(case.voxels[name] > 0 for case in own),
                "ml": sum(case.voxels[name] * case.voxel_ml for case in own),
            }
            for name in names
        ],
    }


def _undecoded(page: RunPage) -> list[str]:
    """Cases that passed the first look, but not the reading of all their voxels."""
    if "training_cases" not in page.facts:
        return []
    used = {*page.facts["training_cases"], *page.facts["validation_cases"]}
    return [case.name for case in page.preflight.cases if case.name not in used]


def _recipe(page: RunPage, best_epoch: int | None) -> list[tuple[str, str]]:
    """The training in a few lines for people."""
    settings, recipe = page.settings, page.settings.training
    parent, file = page.facts.get("parent"), page.facts.get("started_from")
    start = f"the version {parent} ({file})" if file else "fresh weights, which know nothing yet"
    paints = settings.synthetic_tumors.probability if settings.has_liver_and_tumor else 0
    lines = [
        ("Version of the new model", page.version),
        ("Started from", start),
        ("Epochs", _epochs_done(page, best_epoch)),
        ("Network", f"{settings.network.name} on axial slices; input: {', '.join(settings.channels)}"),
        ("Slices per epoch", f"{recipe.slices_per_case} of each case, cut to {recipe.patch_size} pixels"),
        ("Learning", f"{recipe.loss.replace('_', ' ')} loss, learning rate {recipe.learning_rate:g}, "
                     f"{recipe.batch_size} slices per step, random seed {recipe.seed}"),
        ("Synthetic tumors", f"painted into {paints:.0%} of the cases without tumors" if paints else "none"),
        ("Computed on", page.preflight.device),
    ]  # fmt: skip
    if page.rows:
        lines.append(("Time", str(timedelta(seconds=round(float(page.rows[-1]["seconds"] or 0))))))
    return lines


def _epochs_done(page: RunPage, best_epoch: int | None) -> str:
    recipe = page.settings.training
    done = int(page.rows[-1]["epoch"] or 0) if page.rows else 0
    parts = [f"{done} of {recipe.max_epochs}"]
    if best_epoch is not None and done < recipe.max_epochs and recipe.early_stop_patience:
        parts.append(f"stopped early, as {recipe.early_stop_patience} epochs in a row brought no better Dice")
    if best_epoch is not None:
        parts.append(f"kept are the weights after epoch {best_epoch}")
    return "; ".join(parts)


def _epochs(rows: Sequence[Row], best_epoch: int | None) -> dict[str, Any] | None:
    """Figures before the training, at the epoch whose weights were kept, and at the end."""
    if not rows:
        return None
    last = int(rows[-1]["epoch"] or 0)
    wanted = {0: "before", best_epoch: "kept", last: "last"} | ({last: "kept, last"} if last == best_epoch else {})
    if best_epoch == 0:
        wanted[0] = "before, kept"
    chosen = [(wanted[int(row["epoch"] or 0)], row) for row in rows if int(row["epoch"] or 0) in wanted]
    figures = {"train_loss": "training loss", "validation_loss": "validation loss"}
    figures |= {key: f"{key.removeprefix('dice_')} Dice" for key in rows[-1] if key.startswith("dice_")}
    return {
        "heads": [f"epoch {row['epoch']} ({what})" for what, row in chosen],
        "rows": [(name, [row.get(key) for _, row in chosen]) for key, name in figures.items()],
    }


def _flat(content: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Settings by their names in `app.yaml`."""
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d at %H:%M} UTC"


def _sentence(text: str) -> str:
    """A message as a sentence on one line."""
    text = " ".join(text.split()).removesuffix(".")
    return f"{text[:1].upper()}{text[1:]}."


def _png(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode('ascii')}"


def _svg(drawing: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(drawing).decode('ascii')}"


def _number(value: float | None, digits: int = 3) -> str:
    return _NO_VALUE if value is None else f"{value:,.{digits}f}".replace("-", _MINUS)


def _signed(value: float, digits: int = 3) -> str:
    """With its sign; without that of a zero."""
    return f"{round(value, digits) + 0.0:+,.{digits}f}".replace("-", _MINUS)


def _interval(ends: Sequence[float]) -> str:
    return f"{_signed(ends[0])} to {_signed(ends[1])}"
