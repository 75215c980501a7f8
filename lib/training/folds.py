"""The networks of a cross-validation: each is trained as the new model was, but without some of the patients.

Source: Stone, Cross-validatory choice and assessment of statistical predictions, 1974,
doi:10.1111/j.2517-6161.1974.tb00994.x.
"""

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from lib.errors import BadInputError, ModelError
from lib.inference.model import Model, load_model, new_network
from lib.networks.checkpoint import load_weights
from lib.settings import Settings, TrainingSettings
from lib.training.decoded import Case
from lib.training.fit import fit
from lib.training.history import Row
from lib.training.lineage import Lineage
from lib.training.registry import Registry
from lib.training.split import left_out_in_turn
from lib.training.state import CACHE_PREFIX

logger = logging.getLogger(__name__)

MOST_NETWORKS = 5  # more patients share networks, so that it never takes more than five times as long


class FoldEpoch(NamedTuple):
    """Where a cross-validation is: an epoch (0: it begins) of one of its networks, counted from 1."""

    network: int
    networks: int
    epoch: int
    epochs: int

    def __str__(self) -> str:
        return f"cross-validation: network {self.network}/{self.networks}, epoch {self.epoch}/{self.epochs}"


@dataclass(frozen=True)
class Fold:
    """A network and the names of the cases that were kept from it."""

    model: Model
    cases: Sequence[str]


def plan_folds(training: Mapping[str, str], validation: Mapping[str, str], recipe: TrainingSettings) -> list[list[str]]:
    """Which training cases each network of the cross-validation shall not see.

    Args:
        training: whose each training case is.
        validation: whose each validation case is.
        recipe: `cross_validate_below`.

    Returns:
        Names of cases; empty where there are patients enough, or fewer than two to train on.
    """
    if len({*training.values(), *validation.values()}) >= recipe.cross_validate_below:
        return []
    return left_out_in_turn(training, MOST_NETWORKS)


def train_folds(
    plan: Sequence[Sequence[str]],
    training: Sequence[Case],
    settings: Settings,
    *,
    epochs: int,
    start: Path,
    registry: Registry | None,
    version: str,
    folder: Path,
    device: torch.device,
    on_epoch: Callable[[FoldEpoch], object] | None = None,
) -> list[Fold]:
    """Train a network without each part of the training cases, as the new model was trained.

    There is nothing to choose an epoch by, so each is trained for as many as the new model was. A network that can't be
    trained is left out with a warning.

    Args:
        plan: names of the cases that each network shall not see.
        training: all training cases.
        settings: the recipe.
        epochs: of the new model's weights.
        start: the weights that it started from, with the manifest that came with them. A network whose left-out cases
            these have learned from starts from the newest version before them that has not, or from fresh weights.
        registry: holds the versions before.
        version: of the new model.
        folder: of the run; what the networks leave there is removed.
        device: to train on.
        on_epoch: called when a network begins and after each of its epochs.

    Raises:
        ModelError: the start weights can't be read.
    """
    recipe = settings.training.model_copy(update={"max_epochs": epochs})
    settings = settings.model_copy(update={"training": recipe})
    folds = []
    for number, cases in enumerate(plan, start=1):

        def told(row: Row, number: int = number) -> None:
            if on_epoch:
                on_epoch(FoldEpoch(number, len(plan), int(row["epoch"] or 0), epochs))

        name = f"cross-validation {number}/{len(plan)}"
        logger.info("%s: training without %s", name, ", ".join(cases))
        seen = [case for case in training if case.name not in cases]
        if not seen:  # the others could not be decoded
            logger.warning("%s is left out: no other training case can be used", name)
            continue
        network = _start_without(cases, start, registry, settings).to(device).to(memory_format=torch.channels_last)
        with tempfile.TemporaryDirectory(dir=folder, prefix=CACHE_PREFIX) as temporary:
            try:
                result = fit(network, seen, [], settings, Path(temporary), on_epoch=told, name=f"{name}, ")
            except (BadInputError, ModelError) as error:  # the other cases can't be learned from, or it diverged
                logger.warning("%s is left out: %s", name, error)
                continue
        folds.append(Fold(Model(result.network, version), cases))
    return folds


def _start_without(cases: Sequence[str], start: Path, registry: Registry | None, settings: Settings) -> nn.Module:
    """The start weights, or older ones if these have learned from the cases."""
    lineage = Lineage(start, registry)
    if not lineage.has_learned_from(cases):
        network = new_network(settings)
        load_weights(start, network)
        return network
    version = lineage.newest_without(cases)
    if version:
        try:
            network = load_model(settings, version.weights, torch.device("cpu")).network
            logger.info("it starts from %s, as the weights after that have learned from its left-out cases", version.id)
            return network
        except ModelError as error:  # made for other labels or another network
            logger.info("the version %s can't be started from: %s", version.id, error)
    logger.info("it starts from fresh weights, as all others have learned from its left-out cases")
    torch.manual_seed(settings.training.seed)
    return new_network(settings)
