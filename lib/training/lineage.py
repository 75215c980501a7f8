"""What a model has learned from: its own training cases, and those of the versions that it goes back to."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lib.networks.checkpoint import read_meta
from lib.training.registry import ModelVersion, Registry


class Lineage:
    """A model and the versions that it goes back to, as far as the registry knows them.

    Args:
        weights: the model's file.
        registry: holds the versions; None: nothing is known but what the file says.

    Raises:
        ModelError: the file can't be read.
    """

    def __init__(self, weights: Path, registry: Registry | None) -> None:
        self._manifest = read_meta(weights)
        self._ancestors = list(_ancestors(self._manifest, registry))

    def has_learned_from(self, cases: Iterable[str]) -> bool:
        """Whether any of these was among the training cases of the model or of a version before it."""
        return not self._learned(0).isdisjoint(cases)

    def newest_without(self, cases: Iterable[str]) -> ModelVersion | None:
        """The newest version before the model that has learned from none of these; None: there is none."""
        named = set(cases)
        later = enumerate(self._ancestors, start=1)
        return next((version for number, version in later if self._learned(number).isdisjoint(named)), None)

    def _learned(self, first: int) -> set[str]:
        """From the model (0) or an ancestor (1, ...) on."""
        manifests = [self._manifest, *(version.manifest for version in self._ancestors)]
        return {str(name) for manifest in manifests[first:] for name in manifest.get("training_cases") or ()}


def known_cases(weights: Path, patients: Mapping[str, str], registry: Registry | None) -> set[str]:
    """Cases of patients that a model, or one it goes back to, has learned from.

    Args:
        weights: the model's file.
        patients: whose each case is.
        registry: holds the versions; None: nothing is known but what the file says.

    Raises:
        ModelError: the file can't be read.
    """
    lineage = Lineage(weights, registry)
    learned = {patient for case, patient in patients.items() if lineage.has_learned_from([case])}
    return {case for case, patient in patients.items() if patient in learned}


def _ancestors(manifest: Mapping[str, Any], registry: Registry | None) -> Iterator[ModelVersion]:
    known = {version.id: version for version in registry.list()} if registry else {}
    parent = known.pop(str(manifest.get("parent")), None)
    while parent:
        yield parent
        parent = known.pop(str(parent.manifest.get("parent")), None)
