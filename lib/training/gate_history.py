"""What the gate has found of one version after another, for the learning curve of `lib.activelearning.gain`."""

from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import norm

from lib.activelearning.gain import GateHistory, Judged
from lib.training.registry import ModelVersion


def gate_history(versions: Sequence[ModelVersion]) -> GateHistory:
    """The comparisons that the versions' manifests hold.

    Left out are those on a single case, which say nothing of how far chance goes.

    Args:
        versions: of `lib.training.registry.Registry.list`, the newest first.
    """
    learned = {version.id: float(_count(version.manifest, "training_cases")) or None
               for version in versions if not version.is_starter}  # fmt: skip
    judged = [_judged(version, learned) for version in reversed(versions) if learned.get(version.id)]
    newest = next((version.manifest for version in versions if learned.get(version.id)), {})
    training = _count(newest, "training_cases")
    labels = training + _count(newest, "validation_cases")
    share = training / labels if labels else 1.0
    return GateHistory(tuple(one for one in judged if one is not None), share)


def _judged(version: ModelVersion, learned: Mapping[str, float | None]) -> Judged | None:
    gate = version.manifest.get("gate") or {}
    cases, classes = gate.get("cases") or (), gate.get("classes") or {}
    if len(cases) < 2 or not all("interval" in paired for paired in classes.values()):
        return None
    against = str(gate["published"])
    # The interval is that of means of cases drawn again, which are less spread by this factor.
    width = 2 * float(norm.ppf((1 + gate["confidence"]) / 2)) * ((len(cases) - 1) / len(cases)) ** 0.5
    return Judged(
        version.id,
        against,
        _learned_by_judged(version.manifest, cases),
        learned.get(against),
        frozenset(cases),
        {name: (paired["candidate"], paired["published"]) for name, paired in classes.items()},
        {name: (paired["interval"][1] - paired["interval"][0]) / width for name, paired in classes.items()},
    )


def _learned_by_judged(manifest: Mapping[str, Any], cases: Sequence[str]) -> float:
    """Labels that the networks which segmented the cases had, in the mean.

    In a cross-validation a training case is segmented by a network that was trained without its part of the cases.
    """
    training = manifest["training_cases"]
    networks = (manifest.get("cross_validation") or {}).get("networks") or 0
    if not networks:
        return float(len(training))
    left_out = len(set(training) & set(cases)) / len(cases) * len(training) / networks
    return len(training) - left_out


def _count(manifest: Mapping[str, Any], key: str) -> int:
    names = manifest.get(key)
    return len(names) if isinstance(names, list | tuple) else 0
