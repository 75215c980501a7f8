"""One campaign: score, choose, label, train, publish or not, judge; round after round, each written down at its end.

A round follows from the rounds before it and from seeds alone. A campaign that was interrupted goes on with the round
that was not finished and ends as it would have ended otherwise.
"""

import json
import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib.activelearning.history import History
from lib.activelearning.patients import in_turn
from lib.activelearning.strategies import STRATEGIES
from lib.activelearning.strategy import BY_NAME, BY_TURN, Choice
from lib.case_scores import CaseScores
from lib.errors import BadInputError
from lib.files import atomic_write
from lib.inference.model import load_model
from lib.simulation.annotator import annotate
from lib.simulation.material import Material, TruthCase, images_of
from lib.simulation.plan import FULL, SLICES_ONLY, Plan, seed_of
from lib.simulation.pool_scores import as_array, as_json, score_cases, scoring_settings
from lib.simulation.test_set import judge_all, overall
from lib.store.pool import Candidate
from lib.training.cases import CaseFiles
from lib.training.preflight import check_cases
from lib.training.registry import Registry
from lib.training.run import run_training
from lib.training.split import Side, divide
from lib.volume_io import read_label, write_label

logger = logging.getLogger(__name__)

_CPU = torch.device("cpu")
_TRAINING: Side = "training"
_ENOUGH = 2  # trainings in a row that were not published, after which the whole pool has nothing more to give
_NO_SCORES: Mapping[str, CaseScores] = {}


@dataclass
class _State:
    """A campaign after some rounds.

    Args:
        rounds: what was written down of each.
        labelled: names of the labelled cases, in the order in which they were labelled.
        slices: how many slices were looked at for that.
        sides: of the patients.
        picked: by part of the strategy.
        embeddings: of labelled cases.
        weights: in force.
        unpublished: how many trainings in a row were not.
        scored: the weights that scored last, and what they gave; computed again where a campaign goes on.
    """

    weights: Path
    rounds: list[dict[str, Any]] = field(default_factory=list)
    labelled: list[str] = field(default_factory=list)
    slices: int = 0
    sides: dict[str, Side] = field(default_factory=dict)
    picked: Counter[str] = field(default_factory=Counter)
    embeddings: list[np.ndarray] = field(default_factory=list)
    unpublished: int = 0
    scored: tuple[Path, Mapping[str, CaseScores]] | None = None


@dataclass(frozen=True)
class Campaign:
    """A strategy on the material of a seed.

    Args:
        plan: of the simulation.
        strategy: a name of `STRATEGIES`, perhaps with "+slices" after it, or "full".
        seed: of the material and of all that is drawn.
        material: of the seed.
        folder: of this campaign: `round-00.json` and so on, labels, and the weights in force.
    """

    plan: Plan
    strategy: str
    seed: int
    material: Material
    folder: Path

    @property
    def _slices_only(self) -> bool:
        return self.strategy.endswith(SLICES_ONLY)

    @property
    def _chooser(self) -> str:
        """The name of the strategy alone."""
        return self.strategy.removesuffix(SLICES_ONLY)

    def run(self, on_round: Callable[[Mapping[str, Any]], object] | None = None) -> list[dict[str, Any]]:
        """Do the rounds that are not done yet.

        Args:
            on_round: called with each round that was done now.

        Returns:
            All rounds.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        state = self._remembered()
        while not self._ended(state):
            done = self._round(state) if state.rounds else self._first()
            with atomic_write(_round_file(self.folder, done["round"])) as path:
                path.write_text(json.dumps(done, indent=1), encoding="utf-8")
            self._apply(state, done)
            for old in self.folder.glob("weights-*.pt"):
                if old != state.weights:
                    old.unlink()
            if on_round:
                on_round(done)
        return state.rounds

    def _ended(self, state: _State) -> bool:
        if len(state.rounds) > self.plan.rounds_of(self.strategy):
            return True
        if self.strategy == FULL:
            return state.unpublished >= _ENOUGH
        return len(state.rounds) > 0 and not self._open(state)

    def _remembered(self) -> _State:
        state = _State(self.material.start)
        for done in read_rounds(self.folder):
            self._apply(state, done)
        return state

    def _apply(self, state: _State, done: dict[str, Any]) -> None:
        """Take over what a round has changed."""
        state.rounds.append(done)
        state.labelled += [one["image"] for one in done["chosen"]]
        state.slices = done["slices"]
        state.picked.update(one["part"] for one in done["chosen"])
        embeddings = (as_array(one["embedding"]) for one in done["chosen"])
        state.embeddings += [one for one in embeddings if one is not None]
        state.sides = self._sides(state.labelled, state.sides)
        state.unpublished = 0 if done["published"] else state.unpublished + 1
        if done["published"] and done["round"]:
            state.weights = _weights_file(self.folder, done["round"])

    def _first(self) -> dict[str, Any]:
        return self._told(0, 0, [], 0, True, "the start weights", self.material.start_figures, {})

    def _open(self, state: _State) -> list[TruthCase]:
        labelled = set(state.labelled)
        return [case for name, case in self.material.pool.items() if name not in labelled]

    def _told(
        self,
        number: int,
        labels: int,
        chosen: Sequence[Mapping[str, Any]],
        slices: int,
        published: bool,
        reason: str,
        cases: Mapping[str, Any],
        seconds: Mapping[str, float],
    ) -> dict[str, Any]:
        names = list(self.plan.settings.label_indices())
        return {
            "round": number, "labels": labels, "slices": slices, "published": published, "reason": reason,
            "figures": overall(cases, names), "chosen": list(chosen), "cases": cases,
            "seconds": {key: round(value, 2) for key, value in seconds.items()},
        }  # fmt: skip

    def _round(self, state: _State) -> dict[str, Any]:
        number, begin = len(state.rounds), time.perf_counter()
        model = load_model(self.plan.settings, state.weights, _CPU)
        scores = self._scores(state, model)
        scored = time.perf_counter()
        chosen = self._choose(state, model.version, scores)
        told = [self._label(choice, scores.get(choice.image_id)) for choice in chosen]
        slices = state.slices + sum(one["slices"] for one in told)
        labelled = [*state.labelled, *(choice.image_id for choice in chosen)]
        chosen_at = time.perf_counter()
        published, reason = self._train(number, labelled, self._sides(labelled, state.sides), state.weights)
        trained = time.perf_counter()
        cases = state.rounds[-1]["cases"]
        if published:
            new = load_model(self.plan.settings, _weights_file(self.folder, number), _CPU)
            cases = judge_all((case.as_training() for case in self.material.test), new, self.plan.settings)
        seconds = {
            "score": scored - begin, "choose": chosen_at - scored, "train": trained - chosen_at,
            "test": time.perf_counter() - trained,
        }  # fmt: skip
        return self._told(number, len(labelled), told, slices, published, reason, cases, seconds)

    def _scores(self, state: _State, model: Any) -> Mapping[str, CaseScores]:
        """Of the cases without a label, by the model in force; none where nobody looks at them."""
        if self.strategy == FULL or not (self._slices_only or needs_scores(self._chooser)):
            return _NO_SCORES
        open_cases = self._open(state)
        if state.weights == self.material.start and self._chooser != "bald":
            return {case.name: self.material.start_scores[case.name] for case in open_cases}
        if state.scored is None or state.scored[0] != state.weights:
            settings = scoring_settings(self.plan.settings, self._chooser)
            state.scored = state.weights, score_cases(images_of(open_cases), model, settings)
        return {case.name: state.scored[1][case.name] for case in open_cases}

    def _choose(self, state: _State, version: str, scores: Mapping[str, CaseScores]) -> list[Choice]:
        """The cases of this round, one after the other, as if each was asked for when the one before was handed in."""
        pool = self.material.pool
        open_names = [case.name for case in self._open(state)]
        if self.strategy == FULL:
            return [Choice(name, "the whole pool") for name in open_names]
        rng = np.random.default_rng(seed_of("choose", self.seed, len(state.rounds)))
        patients = {name: case.patient for name, case in pool.items()}
        chosen: list[Choice] = []
        picked, embeddings = Counter(state.picked), list(state.embeddings)
        for _ in range(min(self.plan.per_round, len(open_names))):
            taken = [choice.image_id for choice in chosen]
            candidates = [
                Candidate(name, scores=scores.get(name), model_version=version, patient=patients[name])
                for name in open_names
                if name not in taken
            ]
            history = History(
                version, len(state.labelled) + len(chosen), self.plan.planned, dict(picked),
                np.stack(embeddings) if embeddings else None,
            )  # fmt: skip
            ranking = STRATEGIES[self._chooser].rank(candidates, history, rng)
            choice = in_turn(ranking, patients, [patients[name] for name in [*state.labelled, *taken]])[0]
            chosen.append(choice)
            picked[choice.part] += 1
            seen = scores.get(choice.image_id)
            if seen is not None and seen.embedding is not None:
                embeddings.append(seen.embedding)
        return chosen

    def _label(self, choice: Choice, scores: CaseScores | None) -> dict[str, Any]:
        """Have a case labelled, and tell all that later rounds need to know of it."""
        case, plan = self.material.pool[choice.image_id], self.plan
        hand = np.random.default_rng(seed_of("annotate", self.seed, case.name))
        only = scores if self._slices_only else None
        done = annotate(read_label(case.truth), plan.settings.label_indices(), plan.annotator, hand, only)
        write_label(_label_file(self.folder, case.name), done.label)
        return {
            "image": case.name, "kind": case.kind, "part": choice.part, "score": choice.score,
            "reason": choice.reason, "slices": done.slices, "embedding": as_json(scores.embedding) if scores else None,
        }  # fmt: skip

    def _sides(self, labelled: Sequence[str], before: Mapping[str, Side]) -> dict[str, Side]:
        """Of the patients, as a studies folder decides them: who has a side keeps it."""
        patients = {self.material.pool[name].patient for name in labelled}
        if self.material.validation:
            return dict.fromkeys(patients, _TRAINING)
        fraction = self.plan.settings.training.validation_fraction
        return {**before, **divide(patients, fraction, str(self.seed), before)}

    def _train(
        self, number: int, labelled: Sequence[str], sides: Mapping[str, Side], weights: Path
    ) -> tuple[bool, str]:
        """Train from the model in force, as the app does, in an app folder of its own that is gone afterwards."""
        work = self.folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        app = work / "app"
        app.mkdir(parents=True)
        shutil.copyfile(weights, app / "starter.pt")
        files = [
            *(self._files(self.material.pool[name], sides) for name in sorted(labelled)),
            *(replace(case.as_training(), side="training") for case in self.material.known),
            *(replace(case.as_training(), side="validation") for case in self.material.validation),
        ]
        trained_on = sum(file.side == "training" for file in files)
        settings = self.plan.training(
            seed_of("train", self.seed, number) % 2**31, trained_on, self.plan.steps_of(self.strategy)
        )
        try:
            preflight = check_cases(files, settings, device=_CPU, cache_folder=work)
        except BadInputError as error:  # no label shows a tumor: the app would not train either
            return False, f"not trained: {error}"
        registry = Registry(app, settings)
        outcome = run_training(
            files,
            settings,
            work / "run",
            _CPU,
            start=app / "starter.pt",
            registry=registry,
            preflight=preflight,
            draw=False,
        )
        if outcome.published:
            registry.source.path.replace(_weights_file(self.folder, number))
        shutil.rmtree(work)
        return outcome.published, outcome.reason

    def _files(self, case: TruthCase, sides: Mapping[str, Side]) -> CaseFiles:
        return CaseFiles(case.image, _label_file(self.folder, case.name), sides[case.patient], case.patient)


def needs_scores(strategy: str) -> bool:
    """Whether a strategy looks at anything that a model has told."""
    return not {BY_NAME, BY_TURN}.issuperset(STRATEGIES[strategy].walks)


def rounds_done(folder: Path) -> int:
    """How many rounds of a campaign are written down."""
    return next(number for number in count() if not _round_file(folder, number).is_file())


def read_rounds(folder: Path) -> list[dict[str, Any]]:
    """What is written down of a campaign, in order."""
    files = (_round_file(folder, number) for number in range(rounds_done(folder)))
    return [json.loads(path.read_text(encoding="utf-8")) for path in files]


def _round_file(folder: Path, number: int) -> Path:
    return folder / f"round-{number:02d}.json"


def _weights_file(folder: Path, number: int) -> Path:
    return folder / f"weights-{number:02d}.pt"


def _label_file(folder: Path, name: str) -> Path:
    return folder / "labels" / f"{name}.nii.gz"
