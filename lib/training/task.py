"""MONAI Label's train task: a thin shell around `lib.training.run`."""

import json
import logging
import shutil
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from monai.inferers import SimpleInferer
from monailabel.interfaces.datastore import Datastore
from monailabel.tasks.train.basic_train import BasicTrainTask, Context
from monailabel.utils.others.generic import device_list
from pydantic import ValidationError
from torch import nn

from lib.errors import BadInputError
from lib.files import atomic_write
from lib.inference.device import choose_device, set_threads
from lib.inference.model import ModelSource, new_network
from lib.settings import Settings, TrainingSettings
from lib.training.cases import find_cases
from lib.training.fit import build_optimizer
from lib.training.history import Row
from lib.training.loss import build_loss
from lib.training.run import CACHE_PREFIX, Outcome, run_training
from lib.training.sides import with_sides

logger = logging.getLogger(__name__)

# MONAI Label's names for what a client may set -> ours.
_REQUEST = {
    "max_epochs": "max_epochs",
    "train_batch_size": "batch_size",
    "val_split": "validation_fraction",
    "early_stop_patience": "early_stop_patience",
}


class LiverTumorTrainTask(BasicTrainTask):
    """Trains on the submitted labels and publishes the result.

    Clients may set `max_epochs`, `train_batch_size`, `val_split`, `early_stop_patience`, `device` and `pretrained`
    (start from the model in force, or from fresh weights). While it runs, `train_stats.json` in the model folder
    holds what 3D Slicer's progress bar reads.

    Args:
        settings: the app's settings.
        source: the model in force; new ones are published to `source.published`.
        model_dir: gets one folder per run.
    """

    def __init__(self, settings: Settings, source: ModelSource, model_dir: str | Path) -> None:
        self.settings = settings
        self.source = source
        recipe = settings.training
        devices = device_list()
        super().__init__(
            str(model_dir),
            "Liver and tumor U-Net, trained on the submitted labels",
            publish_path=str(source.published),
            labels=settings.label_indices(),
            tracking=None,
        )
        # MONAI Label's own defaults name data sets, loaders and GPUs that this task does not use.
        self._config = {
            "max_epochs": recipe.max_epochs,
            "pretrained": True,
            "device": devices if "cpu" in devices else [*devices, "cpu"],
            "val_split": recipe.validation_fraction,
            "train_batch_size": recipe.batch_size,
            "early_stop_patience": recipe.early_stop_patience,
            "multi_gpu": False,
        }

    # `BasicTrainTask` asks for the parts of MONAI's trainer. `train` below runs `lib.training.fit` in its place, which
    # builds the same parts by the same functions; whoever drives this task through MONAI Label's hooks gets them here.

    def network(self, context: Context) -> nn.Module:
        """The network of `app.yaml`."""
        return new_network(self.settings)

    def optimizer(self, context: Context) -> torch.optim.Optimizer:
        """The recipe's optimizer."""
        return build_optimizer(context.network, self.settings.training)

    def loss_function(self, context: Context) -> nn.Module:
        """The recipe's loss."""
        return build_loss(self.settings.training, context.device)

    def train_pre_transforms(self, context: Context) -> list:
        """None: `lib.training.batches` draws, augments and windows slices, not volumes."""
        return []

    def train_post_transforms(self, context: Context) -> list:
        """None: figures are taken from the logits."""
        return []

    def val_inferer(self, context: Context) -> SimpleInferer:
        """Whole slices, no sliding window."""
        return SimpleInferer()

    def pre_process(self, request: dict[str, Any], datastore: Datastore) -> list[dict[str, Any]]:
        """The labelled cases, each with its side; a datastore without a ledger leaves that to the names."""
        pairs: list[dict[str, Any]] = datastore.datalist()
        store = getattr(datastore, "store", None)
        if store is None:
            return pairs
        return with_sides(store, pairs, self.settings, self._recipe(request).validation_fraction)

    def get_cache_dir(self, request: dict[str, Any]) -> str:
        """Removed by MONAI Label after training."""
        return str(self._run_folder(request) / "cache")

    def train(self, rank: int, world_size: int, request: dict[str, Any], datalist: list[dict]) -> dict[str, Any]:
        """Train in this process and return the statistics.

        Raises:
            BadInputError: a wrong value in the request, or no usable case.
        """
        settings = self.settings.model_copy(update={"training": self._recipe(request)})
        device = choose_device(request["device"])
        if settings.training.threads or device.type == "cpu":
            set_threads(settings.training.threads)
        folder = self._run_folder(request)
        for left_over in folder.parent.glob(f"*/{CACHE_PREFIX}*"):  # of a training that was killed; one runs at a time
            shutil.rmtree(left_over, ignore_errors=True)
        logger.info("training on %s in %s", device, folder)
        rows: list[Row] = []

        def on_epoch(row: Row) -> None:
            rows.append(row)
            self._write_stats(rows, settings.training.max_epochs, folder, None)

        outcome = run_training(
            find_cases(datalist),
            settings,
            folder,
            device,
            start=self.source.path if request.get("pretrained", True) else None,
            in_force=self.source.path,
            publish_to=self.source.published,
            on_epoch=on_epoch,
        )
        return self._write_stats(outcome.fit.rows, settings.training.max_epochs, folder, outcome)

    def check(self, request: Mapping[str, Any]) -> None:
        """Refuse a request at once that would only fail in the training's own process.

        Raises:
            BadInputError: a value that can't be used.
        """
        self._recipe(request)

    def _run_folder(self, request: dict[str, Any]) -> Path:
        return Path(self._model_dir) / "runs" / str(request["run_id"])

    def _recipe(self, request: Mapping[str, Any]) -> TrainingSettings:
        chosen = {ours: request[theirs] for theirs, ours in _REQUEST.items() if theirs in request}
        if chosen.get("early_stop_patience") == -1:  # MONAI Label's way to say off
            chosen["early_stop_patience"] = 0
        try:
            return TrainingSettings.model_validate(self.settings.training.model_dump() | chosen)
        except ValidationError as error:
            problem = error.errors()[0]
            theirs = {ours: name for name, ours in _REQUEST.items()}
            key = str(problem["loc"][0]) if problem["loc"] else "training"
            msg = f"{theirs.get(key, key)} = {problem['input']!r}: {problem['msg']}"
            raise BadInputError(msg) from error

    def _write_stats(self, rows: list[Row], epochs: int, folder: Path, outcome: Outcome | None) -> dict[str, Any]:
        """What clients show; the keys are those that MONAI Label's own trainers write."""
        last = rows[-1]
        scores = [(score, row["epoch"]) for row in rows if (score := _score(row)) is not None]
        best, best_epoch = max(
            scores, key=lambda pair: pair[0], default=(0.0, 0)
        )  # the first of equals, as `fit` keeps
        clock = str(timedelta(seconds=int(last["seconds"] or 0)))
        stats = {
            "epoch": int(last["epoch"] or 0),
            "total_epochs": epochs,
            "best_metric": best,
            "best_metric_epoch": best_epoch,
            ("total_time" if outcome else "current_time"): clock,
            "eval": {"metrics": last, "key_metric_name": "mean foreground Dice"},
            "run": folder.name,
        }
        if outcome:
            stats |= {"version": outcome.version, "published": outcome.published, "reason": outcome.reason}
        with atomic_write(self._stats_path) as path:
            path.write_text(json.dumps(stats, indent=2))
        return stats


def _score(row: Row) -> float | None:
    values = [value for key, value in row.items() if key.startswith("dice_") and value is not None]
    return sum(values) / len(values) if values else None
