"""MONAI Label's train task: a thin shell around `lib.training.run`."""

import json
import logging
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
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

from lib.errors import BadInputError, BusyError, NotFoundError
from lib.files import atomic_write
from lib.inference.device import choose_device, set_threads
from lib.inference.model import ModelSource, new_network
from lib.settings import Settings, TrainingSettings
from lib.supervision import end_with_parent
from lib.training.cases import find_cases
from lib.training.distributed import joined, share
from lib.training.fit import build_optimizer
from lib.training.folds import FoldEpoch
from lib.training.history import Row
from lib.training.loss import build_loss
from lib.training.recording import BY_ITSELF, recorded
from lib.training.registry import PUBLISHED, SCRATCH, STARTER, Registry
from lib.training.run import Outcome, run_training
from lib.training.sides import with_sides
from lib.training.state import clear_left_overs, interrupted_runs

logger = logging.getLogger(__name__)

_MEETING = "distributed_url"  # MONAI Label's key

# MONAI Label's names for what a client may set -> ours.
_REQUEST = {
    "max_epochs": "max_epochs",
    "train_batch_size": "batch_size",
    "val_split": "validation_fraction",
    "early_stop_patience": "early_stop_patience",
}


class LiverTumorTrainTask(BasicTrainTask):
    """Trains on the submitted labels and publishes the result.

    Clients may set `max_epochs`, `train_batch_size`, `val_split`, `early_stop_patience`, `device`, `start` (the
    weights to start from: "published", "scratch", "starter" or the id of a version), `pretrained` (false is MONAI
    Label's word for "scratch") and `resume` (true: go on with the last training that was interrupted, or the name of
    its run), `multi_gpu` and `gpus` (train on several, "all" or such as "0,1"; each takes a batch of
    `train_batch_size`). While it runs, `train_stats.json` in the model folder holds what 3D Slicer's progress bar
    reads.

    Args:
        settings: the app's settings.
        source: the model in force; new ones are published to `source.published`.
        model_dir: gets one folder per run.
        note: called with facts about a training that begins: `training`, its number in the ledger, and `run`, the name
            of its folder. It must go to other processes by pickling.
    """

    def __init__(
        self,
        settings: Settings,
        source: ModelSource,
        model_dir: str | Path,
        note: Callable[..., object] | None = None,
    ) -> None:
        self.settings = settings
        self.source = source
        self._note = note
        self.registry = Registry(Path(model_dir).parent, settings)
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
            "start": PUBLISHED,
            "resume": False,
            "device": devices if "cpu" in devices else [*devices, "cpu"],
            "val_split": recipe.validation_fraction,
            "train_batch_size": recipe.batch_size,
            "early_stop_patience": recipe.early_stop_patience,
            "multi_gpu": False,
            "gpus": "all",
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

    def config(self) -> dict[str, Any]:
        """What clients may set; the versions to start from as a list, which 3D Slicer shows as a choice."""
        versions = [version.id for version in self.registry.list() if not version.is_starter]
        return {**self._config, "start": [PUBLISHED, SCRATCH, STARTER, *versions]}

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train, and let the datastore's ledger know what was learned from and what came of it."""
        if "local_rank" in request:  # MONAI Label's word to a process that only trains; a server's own stays urgent
            _let_others_go_first(self.settings.training.by_itself.niceness)
        store = getattr(datastore, "store", None)
        with tempfile.TemporaryDirectory(prefix="liverloop-") as meeting:
            # Where the processes of a training on several GPUs, which MONAI Label starts, find each other.
            request = {**request, _MEETING: f"file://{meeting}/processes"}
            if store is None:
                unrecorded: dict[str, Any] = super().__call__(request, datastore)
                return unrecorded
            with recorded(store, request.get(BY_ITSELF), self._note_number) as outcome:
                result: dict[str, Any] = super().__call__(request, datastore)
                outcome.update(result)
        Registry(Path(self._model_dir).parent, self.settings, store.ledger).follow()
        return result

    def _note_number(self, number: int) -> None:
        if self._note:
            self._note(training=number)

    def get_cache_dir(self, request: dict[str, Any]) -> str:
        """What MONAI Label removes after training; decoded cases lie elsewhere and stay for the next one."""
        return str(self._run_folder(request) / "cache")

    def train(self, rank: int, world_size: int, request: dict[str, Any], datalist: list[dict]) -> dict[str, Any]:
        """Train in this process, which may be one of several, and return the statistics.

        Args:
            rank: number of this process; that of its GPU in the request's `gpus`.
            world_size: how many processes MONAI Label started, where the request asks for `multi_gpu`.
            request: what clients may set, and what MONAI Label adds.
            datalist: the labelled cases.

        Raises:
            BadInputError: a wrong value in the request, no usable case, or the training to resume began with others.
            NotFoundError: there is no interrupted training to resume.
        """
        settings = self.settings.model_copy(update={"training": self._recipe(request)})
        if not request.get("multi_gpu"):
            return self._train(settings, choose_device(request["device"]), request, datalist)
        first = multiprocessing.parent_process()
        if first and first.pid:  # PyTorch only interrupts this process when the one that started it ends
            end_with_parent(first.pid)
        device = choose_device(f"cuda:{_gpus(request, world_size)[rank]}")
        if device.type == "cuda":
            torch.cuda.set_device(device)
        os.environ["LOCAL_RANK"] = str(rank)
        with joined(device, rank, world_size, request[_MEETING]):
            return self._train(settings, device, request, datalist)

    def _train(
        self, settings: Settings, device: torch.device, request: dict[str, Any], datalist: list[dict]
    ) -> dict[str, Any]:
        part = share()
        if settings.training.threads or device.type == "cpu":
            set_threads(settings.training.threads, part.world)
        interrupted = self._interrupted(request)
        if interrupted:
            request["run_id"] = interrupted.name
        folder = self._run_folder(request)
        if self._note and part.rank == 0:
            self._note(run=folder.name)
        for run in folder.parent.glob("*/") if part.rank == 0 else ():
            with suppress(BusyError):  # of a server that was killed and left it running
                clear_left_overs(run)
        logger.info("training on %s in %s", device, folder)
        rows: list[Row] = []

        def on_epoch(row: Row) -> None:
            rows.append(row)
            self._write_stats(rows, settings.training.max_epochs, folder, None)

        def on_fold(position: FoldEpoch) -> None:
            self._write_stats(rows, settings.training.max_epochs, folder, None, position)

        def on_int8(doing: str) -> None:
            self._write_stats(rows, settings.training.max_epochs, folder, None, int8=doing)

        outcome = run_training(
            find_cases(datalist),
            settings,
            folder,
            device,
            start=None if interrupted else self.registry.start_weights(_start(request)),
            registry=self.registry,
            cache_folder=Path(self._model_dir) / "cache",
            resume=interrupted is not None,
            on_epoch=on_epoch,
            on_fold=on_fold,
            on_int8=on_int8,
        )
        if part.rank:
            return {}
        return self._write_stats(outcome.fit.rows, settings.training.max_epochs, folder, outcome)

    def check(self, request: Mapping[str, Any]) -> None:
        """Refuse a request at once that would only fail in the training's own process.

        Raises:
            BadInputError: a value that can't be used.
            NotFoundError: there is no such version to start from, or no such training to resume.
            ModelError: there are no weights to start from, or they are damaged.
        """
        self._recipe(request)
        if self._interrupted(request) is None:
            self.registry.start_weights(_start(request))

    def _run_folder(self, request: dict[str, Any]) -> Path:
        return Path(self._model_dir) / "runs" / str(request["run_id"])

    def _interrupted(self, request: Mapping[str, Any]) -> Path | None:
        """The run that a request asks to go on with; None: it asks for a new one."""
        asked = request.get("resume", False)
        if asked is False:
            return None
        if asked is not True and not isinstance(asked, str):
            msg = f"resume = {asked!r}: expected true, false or the name of an interrupted training"
            raise BadInputError(msg)
        runs = {run.name: run for run in interrupted_runs(Path(self._model_dir) / "runs")}
        name = next(reversed(runs), None) if asked is True else asked
        if name not in runs:
            which = "interrupted training" if asked is True else f"interrupted training {str(asked)[:80]!r}"
            others = f"choose one of {', '.join(runs)} or start a new one" if runs else "start a new one"
            msg = f"there is no {which} to go on with; {others}"
            raise NotFoundError(msg)
        return runs[name]

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

    def _write_stats(
        self,
        rows: list[Row],
        epochs: int,
        folder: Path,
        outcome: Outcome | None,
        fold: FoldEpoch | None = None,
        int8: str | None = None,
    ) -> dict[str, Any]:
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
        if fold:  # the epochs above are done, and the end is not near
            stats["cross_validation"] = fold._asdict()
        if int8 or (outcome and outcome.int8):
            stats["int8"] = int8 or outcome.int8  # type: ignore[union-attr]
        if outcome:
            stats |= {"version": outcome.version, "published": outcome.published, "reason": outcome.reason}
        with atomic_write(self._stats_path) as path:
            path.write_text(json.dumps(stats, indent=2))
        return stats


def _let_others_go_first(niceness: int) -> None:
    """Make this process nicer; Linux counts that by thread, and those that run already inherit nothing."""
    for thread in os.listdir("/proc/self/task"):
        with suppress(ProcessLookupError):  # it has ended
            os.setpriority(os.PRIO_PROCESS, int(thread), os.getpriority(os.PRIO_PROCESS, int(thread)) + niceness)


def _gpus(request: Mapping[str, Any], count: int) -> Sequence[int]:
    """The numbers of the GPUs to train on, as MONAI Label counts them."""
    asked = request.get("gpus") or "all"
    return range(count) if asked == "all" else [int(number) for number in asked.split(",")]


def _start(request: Mapping[str, Any]) -> str:
    """What to start from.

    Raises:
        BadInputError: no text, or fresh weights and a version at once.
    """
    start = request.get("start", PUBLISHED)
    if not isinstance(start, str):
        msg = f"start = {start!r}: expected {PUBLISHED}, {SCRATCH}, {STARTER} or the id of a model version"
        raise BadInputError(msg)
    if request.get("pretrained", True):
        return start
    if start not in {PUBLISHED, SCRATCH}:  # "published" is what clients send whose user chose nothing
        msg = f"start = {start!r} and pretrained = false, which is fresh weights, can't both be; leave one out"
        raise BadInputError(msg)
    return SCRATCH


def _score(row: Row) -> float | None:
    values = [value for key, value in row.items() if key.startswith("dice_") and value is not None]
    return sum(values) / len(values) if values else None
