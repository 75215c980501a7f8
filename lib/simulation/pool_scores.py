"""Scores of a pool by one model, from the pass that segments each case."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lib.activelearning.scoring import CaseObserver
from lib.case_scores import CaseScores
from lib.files import atomic_write
from lib.inference.model import Model
from lib.inference.segment import finish, predict
from lib.inference.stopwatch import Stopwatch
from lib.settings import Settings
from lib.volume_io import read_image


def score_cases(
    images: Mapping[str, Path], model: Model, settings: Settings, progress: Callable[[], object] | None = None
) -> dict[str, CaseScores]:
    """Scores of each case by its name, as a ledger would give them back.

    Args:
        images: files by name.
        model: that segments them.
        settings: labels, channels, post-processing, `active_learning`.
        progress: called after each case.
    """
    result = {}
    for name, path in images.items():
        result[name] = _score(path, model, settings)
        if progress:
            progress()
    return result


def scoring_settings(settings: Settings, strategy: str) -> Settings:
    """Those by which only what a strategy needs is scored: dropout passes take longer than all the rest."""
    chosen = settings.active_learning.model_copy(update={"strategies": (strategy,)})
    return settings.model_copy(update={"active_learning": chosen})


def save_scores(path: Path, scores: Mapping[str, CaseScores]) -> None:
    """Write scores as JSON; the embeddings, which are of half precision, are kept exactly."""
    content = {name: {"figures": one.figures(), "embedding": as_json(one.embedding)} for name, one in scores.items()}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


def load_scores(path: Path) -> dict[str, CaseScores]:
    """What `save_scores` wrote."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return {name: CaseScores.from_figures(one["figures"], as_array(one["embedding"])) for name, one in content.items()}


def as_json(embedding: NDArray[np.float32] | None) -> list[float] | None:
    """An embedding as numbers."""
    return None if embedding is None else [float(value) for value in embedding]


def as_array(numbers: Iterable[float] | None) -> NDArray[np.float32] | None:
    """An embedding of what `as_json` gave."""
    return None if numbers is None else np.array(list(numbers), np.float32)


def _score(path: Path, model: Model, settings: Settings) -> CaseScores:
    image, told = read_image(path), []
    observer = CaseObserver(image, model, settings, lambda scores, _: told.append(scores))
    raw = predict(image, model, settings, Stopwatch(), observer=observer)
    label, summary = finish(raw, image, settings, settings.postprocessing)
    observer.finished(label.axial(), summary["lesion_count"], lambda: None)
    scores = told[0]
    kept = None if scores.embedding is None else scores.embedding.astype(np.float16).astype(np.float32)
    return CaseScores.from_figures(scores.figures(), kept)
