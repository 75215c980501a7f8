"""Where a training is after an epoch, kept on disk so that one that was killed goes on, and what it belongs to.

A training goes on only with what it began with: the weights would otherwise follow from neither the old labels and
settings nor the new ones.
"""

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lib.errors import BadInputError, BusyError, ModelError, NotFoundError
from lib.files import atomic_write, file_sha256
from lib.inference.model import made_for
from lib.settings import Settings
from lib.store.findings import TEMPORARY
from lib.training.cases import CaseFiles
from lib.training.history import Row

logger = logging.getLogger(__name__)

STATE_FILE = "state.pt"  # in the run's folder, until the training has ended
CACHE_PREFIX = "cache-"  # of folders in the run's folder that are removed at the end
_SHOWN = 60  # characters of a value
# What decides the end of a training or who is compared how, but not which weights an epoch gives; who is on which side
# is kept case by case.
_NOT_IN_WEIGHTS = {
    "gate",
    "threads",
    "validation_fraction",
    "patient_pattern",
    "cross_validate_below",
    "by_itself",
    "cache_gb",
}


@dataclass(frozen=True)
class FitState:
    """A training between two epochs.

    Args:
        epoch: the last one done; 0: none yet.
        done: whether no epoch follows.
        rows: the history up to it.
        parts: a state dict for each part, such as network and optimizer.
    """

    epoch: int
    done: bool
    rows: list[Row]
    parts: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class RunState:
    """What `state.pt` holds.

    Args:
        version: of the weights in the making.
        origin: what the training belongs to, see `origin_of`.
        facts: what else the manifest of the weights tells of how the training began: text, lists and None.
        fit: where it is.
    """

    version: str
    origin: dict[str, Any]
    facts: dict[str, Any]
    fit: FitState


def origin_of(
    settings: Settings, training: Sequence[CaseFiles], validation: Sequence[CaseFiles], processes: int = 1
) -> dict[str, Any]:
    """What the weights of a training follow from: settings by their names in `app.yaml`, the cases, and how many
    processes take a batch each at a time.

    Raises:
        BadInputError: a label can't be read.
    """
    sections = settings.model_dump(mode="json", include={"network", "augmentation", "synthetic_tumors"})
    recipe = settings.training.model_dump(mode="json", exclude=_NOT_IN_WEIGHTS)
    sides = {"training": training, "validation": validation}
    cases = {case.name: {"side": side, "label": _label_sha256(case)} for side, files in sides.items() for case in files}
    return {**made_for(settings), **sections, "training": recipe, "processes": processes, "cases": cases}


def first_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """In what two origins differ first, in words; None if they are equal."""
    settings = (key for key in dict.fromkeys([*before, *now]) if key != "cases")
    found = (_setting_difference(key, before.get(key), now.get(key)) for key in settings)
    return next(filter(None, found), None) or _case_difference(before["cases"], now["cases"])


def save_state(folder: Path, state: RunState) -> None:
    """Write `state.pt` of a run, whole or not at all.

    Raises:
        StorageError: the disk refused the write.
    """
    with atomic_write(folder / STATE_FILE) as temporary:
        torch.save({**vars(state), "fit": vars(state.fit)}, temporary)


def load_state(folder: Path, origin: Mapping[str, Any]) -> RunState:
    """Read `state.pt` of a run that was interrupted.

    Args:
        folder: of the run.
        origin: what it would go on with, see `origin_of`.

    Raises:
        NotFoundError: there is none.
        ModelError: the file is damaged.
        BadInputError: the training began with something else.
    """
    _check_interrupted(folder)
    state = _read(folder / STATE_FILE)
    difference = first_difference(state.origin, origin)
    if difference:
        raise cannot_go_on(folder, difference)
    return state


def cannot_go_on(folder: Path, why: str) -> BadInputError:
    """The refusal to resume a run."""
    return BadInputError(f"the training {folder.name} can't go on, since {why}; start a new one")


def prepare_to_resume(folder: Path) -> None:
    """Make sure that a run was interrupted, and clear it.

    Raises:
        NotFoundError: there is no such run, or it has ended.
        BusyError: it is still running.
    """
    _check_interrupted(folder)
    clear_left_overs(folder)


def clear_left_overs(folder: Path) -> None:
    """Remove what a run left that was killed: what only it needed, and files that are not whole.

    Where folders can't be locked, so that nobody knows whether it still runs, all stays.

    Raises:
        BusyError: it is still running.
    """
    with alone_in(folder) as is_certain:
        if not is_certain:
            return
        for cache in folder.glob(f"{CACHE_PREFIX}*"):
            shutil.rmtree(cache, ignore_errors=True)
        for unfinished in folder.glob(f"{TEMPORARY}*"):
            unfinished.unlink(missing_ok=True)


def interrupted_runs(runs: Path) -> list[Path]:
    """The runs of a folder that can go on, the last one started at the end."""
    return sorted(path.parent for path in runs.glob(f"*/{STATE_FILE}"))


@contextmanager
def alone_in(folder: Path) -> Iterator[bool]:
    """Hold a run's folder, so that a training that still runs is not resumed beside itself.

    The system lets go of it when the process ends, however that happens.

    Yields:
        False where the file system locks no folders, so that another process of this run may be there.

    Raises:
        BusyError: another process holds it.
    """
    handle = os.open(folder, os.O_RDONLY)
    is_certain = True
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            msg = f"the training in {folder} is still running; wait for its end or stop it"
            raise BusyError(msg) from error
        except OSError as error:  # such as some network file systems
            logger.warning("%s can't be locked (%s); don't train in it twice at a time", folder, error.strerror)
            is_certain = False
        yield is_certain
    finally:
        os.close(handle)


def _check_interrupted(folder: Path) -> None:
    if not (folder / STATE_FILE).is_file():
        msg = (
            f"there is no interrupted training in {folder}: it has no {STATE_FILE}, since it has ended or was "
            "interrupted before its first epoch; start a new one"
        )
        raise NotFoundError(msg)


def _read(path: Path) -> RunState:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        return RunState(**content | {"fit": FitState(**content["fit"])})
    except Exception as error:  # a damaged pickle or zip can raise almost anything
        reason = (str(error).splitlines() or [""])[0][:120]
        msg = f"{path} is damaged ({type(error).__name__}: {reason}), so that the training can't go on; start a new one"
        raise ModelError(msg) from error


def _label_sha256(case: CaseFiles) -> str | None:
    try:
        return file_sha256(case.label)
    except FileNotFoundError:  # withdrawn since the cases were listed: decoding leaves it out if it was not done before
        return None
    except OSError as error:
        msg = f"{case.name}: can't read its label {case.label}: {error.strerror}"
        raise BadInputError(msg) from error


def _setting_difference(key: str, before: Any, now: Any) -> str | None:
    if isinstance(before, dict) and isinstance(now, dict):
        parts = dict.fromkeys([*before, *now])
        found = (_setting_difference(f"{key}.{part}", before.get(part), now.get(part)) for part in parts)
        return next(filter(None, found), None)
    return None if before == now else f"{key} was {_shown(before)} when it began and is {_shown(now)} now"


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _case_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if old is None or new is None:
            return (
                f"{name} was {'not ' if old is None else ''}among its cases and is {'not ' if new is None else ''}now"
            )
        if old["side"] != new["side"]:
            return f"{name} was a {old['side']} case and is a {new['side']} case now"
        if old["label"] != new["label"]:
            return f"the label of {name} has changed"
    return None
