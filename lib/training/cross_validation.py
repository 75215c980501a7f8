"""How good a model of few patients is: networks trained without one patient each segment that patient's cases.

With few patients, those kept for validation say little. Each training case is therefore segmented by a network of
`lib.training.folds`, which has never seen it, and by the new model only what was kept from it. The networks are thrown
away.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lib.inference.model import Model
from lib.metrics.lesions import Detection
from lib.settings import Settings
from lib.store.report import table
from lib.training.cases import CaseFiles
from lib.training.comparison import Comparison, Figures, GateReport
from lib.training.folds import Fold
from lib.training.gate import CASE_ERRORS, Compared, Decision, compare_on, decide, judge_on, reason_of, report_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Judged:
    """How a case was segmented by a network that never saw it.

    Args:
        name: of the case.
        network: which of the cross-validation, from 1; None: the new model, of a validation case.
        figures: what it did.
    """

    name: str
    network: int | None
    figures: Figures


@dataclass(frozen=True)
class CrossValidation:
    """What a cross-validation found.

    Args:
        epochs: that each network was trained.
        networks: how many.
        judged: every labelled case that could be segmented, by name.
        left_out: name of each other case, and why.
        known: cases that the published model has learned from, which don't count in a comparison with it.
        comparison: with the published model on all other cases; None where there is nothing to compare with or on.
    """

    epochs: int
    networks: int
    judged: tuple[Judged, ...]
    left_out: Mapping[str, str]
    known: tuple[str, ...]
    comparison: GateReport | None

    @property
    def dice(self) -> dict[str, dict[str, float]]:
        """Of each class: `mean`, `lowest` and `highest` over the cases; empty without cases."""
        names = self.judged[0].figures.dice if self.judged else ()
        columns = {name: [case.figures.dice[name] for case in self.judged] for name in names}
        return {
            name: {"mean": sum(values) / len(values), "lowest": min(values), "highest": max(values)}
            for name, values in columns.items()
        }

    def short(self) -> dict[str, Any]:
        """JSON-ready, with no more than the names of the cases."""
        return {
            "networks": self.networks,
            "epochs": self.epochs,
            "classes": self.dice,
            "lesions": self._lesions(),
            "cases": [case.name for case in self.judged],
            "left_out": dict(self.left_out),
            "known_to_the_published_model": list(self.known),
        }

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, with the figures of each case."""
        published = {case.name: case.published for case in self.comparison.cases} if self.comparison else {}
        cases = [
            {
                "name": case.name,
                "network": case.network,
                "candidate": case.figures.as_dict(),
                "published": published[case.name].as_dict() if case.name in published else None,
            }
            for case in self.judged
        ]
        return {**self.short(), "cases": cases}

    def as_table(self) -> str:
        """Cases below each other, for the log."""
        dice = self.dice
        rows = [
            [case.name, f"network {case.network}" if case.network else "the new model"]
            + [f"{value:.3f}" for value in case.figures.dice.values()]
            for case in self.judged
        ]
        if rows:
            rows.append(["mean", "", *(f"{found['mean']:.3f}" for found in dice.values())])
        lines = [table(("case", "segmented by", *(f"{name} Dice" for name in dice)), rows, "no case could be judged")]
        return "\n".join([*lines, *(f"left out: {name}: {reason}" for name, reason in self.left_out.items())])

    def sentence(self) -> str:
        """The expected quality: each class' mean and range."""
        if not self.judged:
            return "no case could be judged in the cross-validation"
        parts = [
            f"{name} {found['mean']:.3f} ({found['lowest']:.3f} to {found['highest']:.3f})"
            for name, found in reversed(self.dice.items())
        ]
        count = "one case" if len(self.judged) == 1 else f"{len(self.judged)} cases"
        return f"cross-validated Dice on {count}: {', '.join(parts)}"

    def _lesions(self) -> dict[str, int] | None:
        found = [case.figures.found for case in self.judged if case.figures.found is not None]
        if not found:
            return None
        total = sum(found, Detection())
        return {"reference": total.true_positive + total.false_negative, "found": total.true_positive}


def cross_validate(
    candidate: Model,
    published: Model | None,
    validation: Sequence[CaseFiles],
    training: Sequence[CaseFiles],
    folds: Sequence[Fold],
    known: Collection[str],
    settings: Settings,
    *,
    epochs: int,
    progress: Callable[[int, int], object] | None = None,
    on_case: Callable[[Compared], object] | None = None,
) -> CrossValidation:
    """Segment every labelled case with a network that never saw it, and compare it with the published model.

    Args:
        candidate: the new model, which judges the validation cases.
        published: the model in force; None: there is nothing to compare with.
        validation: cases.
        training: those that the networks of `folds` were kept from.
        folds: from `lib.training.folds.train_folds`.
        known: cases that the published model has learned from.
        settings: as for `lib.training.gate.compare_models`.
        epochs: that the networks of `folds` were trained.
        progress: as there.
        on_case: as there, for each case that counts in the comparison.
    """
    files = {case.name: case for case in training}
    turns: list[tuple[CaseFiles, int | None, Model]] = [(case, None, candidate) for case in validation]
    turns += [(files[name], number, fold.model) for number, fold in enumerate(folds, 1) for name in fold.cases]
    judged: list[Judged] = []
    compared: list[Comparison] = []
    left_out: dict[str, str] = {}
    for step, (case, network, model) in enumerate(turns, start=1):
        logger.info("judging by networks that never saw them: case %d/%d", step, len(turns))
        if progress:
            progress(step, len(turns))
        try:
            if published is None or case.name in known:
                figures = judge_on(case, model, settings)
            else:
                seen = compare_on(case, model, published, settings)
                figures = seen.comparison.candidate
                compared.append(seen.comparison)
                if on_case:
                    on_case(seen)
                del seen  # before the next case is read
        except CASE_ERRORS as error:
            left_out[case.name] = reason_of(error)
            logger.warning("%s is left out of the cross-validation: %s", case.name, left_out[case.name])
            continue
        judged.append(Judged(case.name, network, figures))
    names = {case.name for case, _, _ in turns}
    report = None
    if published and not names <= set(known):
        missing = {name: why for name, why in left_out.items() if name not in known}
        report = report_of(candidate, published, compared, missing, settings)
    judged.sort(key=lambda case: case.name)
    known_here = tuple(sorted(names & set(known))) if published else ()
    return CrossValidation(epochs, len(folds), tuple(judged), left_out, known_here, report)


def does_not_count(known: Sequence[str]) -> str:
    """What a reason ends with where the published model has learned from cases; empty without such cases."""
    if not known:
        return ""
    verb, them = ("does", "it") if len(known) == 1 else ("do", "them")
    return f"; {' and '.join(known)} {verb} not count, since the published model has learned from {them}"


def decide_pooled(found: CrossValidation, settings: Settings) -> Decision:
    """The gate's decision on validation cases and left-out ones together, and what they are, in plain words.

    Where the published model has learned from all of them there is nothing to compare on, and it stays.
    """
    known = does_not_count(found.known)
    if found.comparison is None:
        return Decision(False, f"nothing to compare the models on; {found.sentence()}{known}")
    decision = decide(found.comparison, settings.training.gate, "case")
    compared = {case.name for case in found.comparison.cases}
    crossed = sum(case.network is not None for case in found.judged if case.name in compared)
    how = ""
    if crossed:
        which = "it" if len(compared) == 1 else "these"
        how = f"; {crossed} of {which} in cross-validation, by networks trained without the patient"
    return Decision(decision.publish, f"{decision.reason}{how}{known}")
