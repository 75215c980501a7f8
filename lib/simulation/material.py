"""What all campaigns of one seed begin with: a pool, a test set, and the weights of the first round."""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch

from lib.case_scores import CaseScores
from lib.errors import BadInputError, NotFoundError
from lib.files import atomic_write
from lib.inference.model import load_model, new_network
from lib.networks.checkpoint import save_weights
from lib.simulation.kinds import Grid
from lib.simulation.plan import EASY, PHANTOMS, SCRATCH, Plan, seed_of
from lib.simulation.pool import CaseSpec, draw_pool, draw_test_set, image_file, read_pool, truth_file, write_pool
from lib.simulation.pool_scores import load_scores, save_scores, score_cases, scoring_settings
from lib.simulation.test_set import judge_all
from lib.training.cases import CaseFiles, split_cases
from lib.training.run import run_training

_EASY_KIND, _EASY_CASES = "ordinary", 8
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class TruthCase:
    """An image whose true label is known.

    Args:
        name: of the image.
        image: its file.
        truth: its true label's.
        kind: of patient.
        patient: a key of the patient.
    """

    name: str
    image: Path
    truth: Path
    kind: str
    patient: str

    def as_training(self) -> CaseFiles:
        """To be judged by, or trained on with its true label."""
        return CaseFiles(self.image, self.truth, patient=self.patient)


@dataclass(frozen=True)
class Material:
    """Of one seed.

    Args:
        pool: what can be labelled, by name.
        test: what never trains.
        validation: labelled from the beginning, to judge trainings by; none where the app's split takes some for that.
        known: labelled from the beginning, what the start weights have learned from.
        start: weights.
        start_figures: theirs on `test`, see `lib.simulation.test_set`.
        start_scores: of the whole pool.
    """

    pool: Mapping[str, TruthCase]
    test: tuple[TruthCase, ...]
    validation: tuple[TruthCase, ...]
    known: tuple[TruthCase, ...]
    start: Path
    start_figures: Mapping[str, Any]
    start_scores: Mapping[str, CaseScores]


def seed_folder(folder: Path, seed: int) -> Path:
    """Where a simulation keeps what is of one seed."""
    return folder / f"seed-{seed}"


def prepare(plan: Plan, seed: int, folder: Path, app: Path, progress: Callable[[str], object] | None = None) -> None:
    """Make what isn't there yet of a seed's material.

    Args:
        plan: of the simulation.
        seed: which one.
        folder: of the simulation.
        app: folder of the app, whose starter weights may be asked for.
        progress: told what is being done.

    Raises:
        NotFoundError: a pool's folder holds none.
        BadInputError: it holds another pool, or one that can't be learned from.
    """
    tell = progress or (lambda _: None)
    own = seed_folder(folder, seed)
    if plan.pool == PHANTOMS:
        tell("rendering the pool")
        write_pool(own / "pool", draw_pool(seed, plan.patients, plan.grid))
    start = own / "start.pt"
    if not start.is_file():
        tell("making the start weights")
        _make_start(plan, seed, own, app)
    pool, test = _read(plan, seed, folder)
    model = load_model(plan.settings, start, _CPU)
    figures = own / "start.json"
    if not figures.is_file():
        tell("judging the start weights")
        judged = judge_all((case.as_training() for case in test), model, plan.settings)
        with atomic_write(figures) as path:
            path.write_text(json.dumps(judged, indent=1), encoding="utf-8")
    if not (own / "start_scores.json").is_file():
        tell("scoring the pool")
        save_scores(
            own / "start_scores.json", score_cases(images_of(pool.values()), model, scoring_settings(plan.settings, ""))
        )


def prepare_test_set(plan: Plan, folder: Path, progress: Callable[[], object] | None = None) -> None:
    """Render the cases that all seeds are judged on, and those that their trainings are judged on."""
    if plan.pool != PHANTOMS:
        return
    write_pool(folder / "test", draw_test_set(0, plan.test_cases, plan.grid), progress)
    if plan.validation:
        others = _renamed("v", draw_test_set(1, plan.validation, plan.grid))
        write_pool(folder / "validation", others, progress)


def load(plan: Plan, seed: int, folder: Path) -> Material:
    """What `prepare` has made."""
    own = seed_folder(folder, seed)
    pool, test = _read(plan, seed, folder)
    figures = json.loads((own / "start.json").read_text(encoding="utf-8"))
    places = (folder / "validation", own / "easy")
    validation, known = (tuple(read_cases(place).values()) if place.is_dir() else () for place in places)
    scores = load_scores(own / "start_scores.json")
    return Material(pool, test, validation, known, own / "start.pt", figures, scores)


def read_cases(folder: Path) -> dict[str, TruthCase]:
    """The cases of a folder that `lib.simulation.pool.write_pool` wrote, by name.

    Raises:
        NotFoundError: it holds none.
    """
    return {
        name: TruthCase(name, image_file(folder, name), truth_file(folder, name), case["kind"], case["patient"])
        for name, case in sorted(read_pool(folder).items())
    }


def images_of(cases: Iterable[TruthCase]) -> dict[str, Path]:
    """Their files by name."""
    return {case.name: case.image for case in cases}


def _read(plan: Plan, seed: int, folder: Path) -> tuple[dict[str, TruthCase], tuple[TruthCase, ...]]:
    if plan.pool == PHANTOMS:
        places = seed_folder(folder, seed) / "pool", folder / "test"
    else:
        places = Path(plan.pool), Path(plan.test)
    pool, test = map(read_cases, places)
    both = {case.patient for case in pool.values()} & {case.patient for case in test.values()}
    if both:
        msg = f"{places[1]} holds patients of the pool, such as {min(both)}: a test set must have others"
        raise BadInputError(msg)
    return pool, tuple(test.values())


def _make_start(plan: Plan, seed: int, own: Path, app: Path) -> None:
    """Weights for the first round, the same for all strategies."""
    target = own / "start.pt"
    if plan.start == EASY:
        _train_on_easy(plan, seed, own)
    elif plan.start == SCRATCH:
        torch.manual_seed(seed_of("scratch", seed))
        save_weights(target, new_network(plan.settings), {"version": f"scratch-{seed}"})
    else:
        starter = app / "starter.pt"
        if not starter.is_file():
            msg = f"{app} has no starter.pt to start from; choose --start {EASY} or {SCRATCH}"
            raise NotFoundError(msg)
        load_model(plan.settings, starter, _CPU)
        with atomic_write(target) as path:
            shutil.copyfile(starter, path)


def easy_cases(seed: int, grid: Grid) -> list[CaseSpec]:
    """A handful of ordinary patients with lesions, one image of each, from other hospitals than that of the pool."""
    found = (
        case
        for number in count()
        for case in draw_pool(seed_of("easy", seed, number), 10, grid)
        if case.kind == _EASY_KIND and case.lesions and not case.series
    )
    return _renamed("e", islice(found, _EASY_CASES))


def _renamed(letter: str, cases: Iterable[CaseSpec]) -> list[CaseSpec]:
    """One case of each patient, under a name that no pool has."""
    names = (f"{letter}{number:03d}" for number in count())
    return [replace(case, image_id=name, patient=name) for name, case in zip(names, cases, strict=False)]


def _train_on_easy(plan: Plan, seed: int, own: Path) -> None:
    easy = own / "easy"
    write_pool(easy, easy_cases(seed, plan.grid))
    run = own / "start-run"
    shutil.rmtree(run, ignore_errors=True)
    cases = [case.as_training() for case in read_cases(easy).values()]
    trained_on, _ = split_cases(cases, plan.settings.training.validation_fraction)
    settings = plan.training(seed_of("start", seed) % 2**31, len(trained_on), plan.start_steps)
    # Fresh weights bear larger steps than those that shall not forget.
    recipe = settings.training.model_copy(update={"learning_rate": 4 * settings.training.learning_rate})
    settings = settings.model_copy(update={"training": recipe})
    run_training(cases, settings, run, _CPU, start=None, draw=False)
    (run / "model.pt").replace(own / "start.pt")
    shutil.rmtree(run)
