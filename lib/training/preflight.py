"""What can be known of a training before it starts: whether its cases can be used, what they show, what it takes."""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from tqdm import tqdm

from lib.errors import BadInputError, LiverLoopError
from lib.files import atomic_write
from lib.settings import Settings
from lib.store import versions
from lib.store.comparison import count_voxels
from lib.store.inspection import inspect
from lib.store.layout import FINAL
from lib.store.store import Store
from lib.training.cases import FAR_SLICE_STEP, CaseFiles, check_grid, checked_label, kept_slices, split_cases
from lib.training.estimates import (
    BYTES_PER_PIXEL,
    Disk,
    Duration,
    Memory,
    estimate_duration,
    estimate_memory,
    free_bytes,
    measure_step,
    weight_bytes,
)
from lib.training.split import Side, patient_of
from lib.volume import Volume
from lib.volume_io import read_grid, suffix_of

_THREADS = 4  # each holds one label
_FEW_PATIENTS = 5
_SHOWN_PROGRESS = 8  # cases from which on reading them takes long enough to show a bar


@dataclass(frozen=True)
class CaseCheck:
    """A case that can be used.

    Args:
        name: of the case.
        side: training or validation.
        patient: whose it is, or what stands for that.
        shape: of the axial slices, `(Z, Y, X)`.
        voxel_ml: volume of a voxel in ml.
        voxels: of each class.
        decoded: bytes that it takes decoded, at least and at most.
    """

    name: str
    side: Side
    patient: str
    shape: tuple[int, int, int]
    voxel_ml: float
    voxels: Mapping[str, int]
    decoded: tuple[int, int]


@dataclass(frozen=True)
class Preflight:
    """What `check_cases` found.

    Args:
        device: the training's.
        cases: those that can be used.
        left_out: name of each other one, and why.
        warnings: what a person should know, a sentence each.
        disk: what decoded cases and weights take.
        memory: what a step takes.
        duration: how long it takes.
    """

    device: str
    cases: tuple[CaseCheck, ...]
    left_out: Mapping[str, str]
    warnings: tuple[str, ...]
    disk: Disk
    memory: Memory
    duration: Duration

    def usable(self, files: Sequence[CaseFiles]) -> list[CaseFiles]:
        """Those of some files that were not left out."""
        return [case for case in files if case.name not in self.left_out]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        cases = [
            {
                "name": case.name,
                "side": case.side,
                "shape": list(case.shape),
                "voxels": dict(case.voxels),
                "ml": {name: round(count * case.voxel_ml, 3) for name, count in case.voxels.items()},
            }
            for case in self.cases
        ]
        return {
            "device": self.device,
            "cases": cases,
            "left_out": dict(self.left_out),
            "warnings": list(self.warnings),
            "disk_bytes": asdict(self.disk),
            "memory_bytes": asdict(self.memory),
            "seconds": asdict(self.duration),
        }

    def as_text(self) -> str:
        """A few lines for log and terminal."""
        names = list(self.cases[0].voxels)
        rows = [["", "cases", *(part for name in names for part in (f"with {name}", f"{name} ml"))]]
        for side in ("training", "validation"):
            cases = [case for case in self.cases if case.side == side]
            row = [side, str(len(cases))]
            for name in names:
                ml = sum(case.voxels[name] * case.voxel_ml for case in cases)
                row += [str(sum(case.voxels[name] > 0 for case in cases)), f"{ml:.1f}"]
            rows.append(row)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
        disk, memory, duration = self.disk, self.memory, self.duration
        most = "" if disk.most == disk.least else f" to {_size(disk.most)}"
        lines += [
            f"disk: {_size(disk.least)}{most} for decoded cases and weights, {_size(disk.free)} free",
            f"memory: about {_size(memory.needed)} on {self.device}, {_size(memory.available)} available",
            f"time: about {timedelta(seconds=round(duration.total))} for {duration.epochs} epochs of {duration.steps} "
            f"steps, {duration.per_step:.2g} s each",
            *(f"left out: {name}: {reason}" for name, reason in self.left_out.items()),
            *(f"warning: {warning}" for warning in self.warnings),
        ]
        return "\n".join(lines)

    def save(self, path: Path) -> None:
        """Write `as_dict` as JSON."""
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(self.as_dict(), indent=2, allow_nan=False) + "\n")


def check_cases(
    files: Sequence[CaseFiles], settings: Settings, *, device: torch.device, cache_folder: Path
) -> Preflight:
    """Look at the cases of a training, and at what it will take, before any work of it starts.

    Every header is read, and every label whose voxels the ledger has not counted. A case that can't be used is left out
    and named. The time is measured by a few training steps with noise.

    Args:
        files: labelled cases.
        settings: labels, network, recipe.
        device: to train on.
        cache_folder: where cases will be decoded; need not exist yet.

    Raises:
        BadInputError: there is no case, or none that can be used or trained on; no case shows a class; the disk is too
            full; or a training step does not fit the memory.
    """
    if not files:
        msg = "there are no labelled cases to train on; submit at least one corrected segmentation first"
        raise BadInputError(msg)
    cases, left_out = _look(files, settings)
    training = [case for case in cases if case.side == "training"]
    validation = [case for case in cases if case.side == "validation"]
    _refuse_missing([case.voxels for case in cases], settings)
    if not training:
        msg = f"all {len(cases)} labelled cases are kept for validation, so none is left to train on; label another"
        raise BadInputError(msg)
    if not any(count for case in training for count in case.voxels.values()):
        msg = f"no label of the {len(training)} training cases holds {' or '.join(settings.labels)}; nothing to learn"
        raise BadInputError(msg)
    # A check changes no random number of what follows.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        weights, free = weight_bytes(settings), free_bytes(cache_folder)
        least, most = (sum(case.decoded[end] for case in cases) + weights for end in (0, 1))
        disk = Disk(least, most, free)
        _refuse_full_disk(least, free)
        memory = estimate_memory(settings, device)
        duration = estimate_duration(
            measure_step(settings, device), len(training), [case.shape for case in validation], settings
        )
    warnings = [*_case_warnings(cases, settings), *_room_warnings(disk, memory)]
    return Preflight(str(device), tuple(cases), left_out, tuple(warnings), disk, memory, duration)


def check_ledger(store: Store, settings: Settings, *, cache_folder: Path) -> None:
    """Refuse at once, by what the ledger holds and without opening a file, what `check_cases` would refuse later.

    Args:
        store: of the studies folder.
        settings: labels, recipe.
        cache_folder: where cases will be decoded; need not exist yet.

    Raises:
        BadInputError: no labelled image can be used, no label shows a class, or the disk is too full.
    """
    with store.ledger.reading() as connection:
        counted = versions.counted(connection, FINAL)
        waiting = versions.pending(connection, FINAL)
    if waiting:  # labels that lie in the folder and are read when the training starts
        return
    if not counted:
        msg = "none of the labelled images can be trained on: scripts/ledger.py check says why"
        raise BadInputError(msg)
    if all(_has_all(case.voxels, settings) for case in counted):
        _refuse_missing([case.voxels or {} for case in counted], settings)
    least = sum(int(np.prod(case.shape)) * BYTES_PER_PIXEL // FAR_SLICE_STEP for case in counted if case.shape)
    _refuse_full_disk(least, free_bytes(cache_folder))


def _look(files: Sequence[CaseFiles], settings: Settings) -> tuple[list[CaseCheck], dict[str, str]]:
    """The cases that can be used, by sides, and why the others can't."""
    with ThreadPoolExecutor(_THREADS, "preflight") as pool:
        results = pool.map(lambda case: _look_at(case, settings), files)
        seen = list(tqdm(results, "checking cases", len(files), disable=len(files) < _SHOWN_PROGRESS))
    left_out = {case.name: found for case, found in zip(files, seen, strict=True) if isinstance(found, str)}
    if len(left_out) == len(files):
        (name, reason), *others = left_out.items()
        msg = f"the only labelled case {name!r} can't be used: {reason}"
        if others:
            msg = f"none of the {len(files)} labelled cases can be used: {reason} (and {len(others)} more)"
        raise BadInputError(msg)
    looked = {case.name: found for case, found in zip(files, seen, strict=True) if not isinstance(found, str)}
    usable = [case for case in files if case.name in looked]
    training, validation = split_cases(usable, settings.training.validation_fraction)
    pattern = settings.training.patient_pattern

    def checked(case: CaseFiles, side: Side) -> CaseCheck:
        return CaseCheck(case.name, side, case.patient or patient_of(case.name, pattern), *looked[case.name])

    return [checked(c, "training") for c in training] + [checked(c, "validation") for c in validation], left_out


_Looked = tuple[tuple[int, int, int], float, Mapping[str, int], tuple[int, int]]


def _look_at(files: CaseFiles, settings: Settings) -> _Looked | str:
    """What `CaseCheck` holds behind the patient; why a case can't be used."""
    names = settings.label_indices()
    try:
        grid = inspect(files.image, suffix_of(files.image)).grid
        # Its axial shape is that of a volume whose voxels take no memory.
        z, y, x = Volume(np.broadcast_to(np.uint8(0), grid.shape), grid.affine).axial().shape
        if _has_all(files.voxels, settings):
            check_grid(files.name, grid, read_grid(files.label))
            voxels, decoded = {name: files.voxels[name] for name in names}, (-(-z // FAR_SLICE_STEP), z)
        else:
            label = checked_label(files, grid, settings.classes)
            voxels, decoded = count_voxels(label.array, names), (len(kept_slices(label.axial())),) * 2
    except (LiverLoopError, OSError, MemoryError) as error:
        return " ".join(str(error).split()) or type(error).__name__
    least, most = (slices * y * x * BYTES_PER_PIXEL for slices in decoded)
    return (z, y, x), grid.voxel_ml, voxels, (least, most)


def _has_all(voxels: Mapping[str, int] | None, settings: Settings) -> TypeGuard[Mapping[str, int]]:
    """Whether the ledger has counted every class; those of an adopted label may be unknown."""
    return voxels is not None and voxels.keys() >= settings.labels.keys()


def _refuse_missing(counts: Sequence[Mapping[str, int]], settings: Settings) -> None:
    """A class that no label shows can't be learned, and what the network knew of it would be unlearned."""
    missing = _missing(counts, settings)
    if missing and not (_paints(settings) and missing == [_last(settings)]):
        shown, learned = (f"a {' or a '.join(missing)}", f"{'s and '.join(missing)}s")
        msg = f"no labelled case shows {shown}, so {learned} can't be learned; label at least one"
        if settings.has_liver_and_tumor and missing == [_last(settings)]:
            msg += ", or let the training paint some (synthetic_tumors.probability in app.yaml)"
        raise BadInputError(msg)


def _missing(counts: Sequence[Mapping[str, int]], settings: Settings) -> list[str]:
    return [name for name in settings.label_indices() if not any(voxels[name] for voxels in counts)]


def _paints(settings: Settings) -> bool:
    """Whether synthetic tumors will be painted into healthy livers."""
    return settings.synthetic_tumors.probability > 0 and settings.has_liver_and_tumor


def _last(settings: Settings) -> str:
    return list(settings.label_indices())[-1]


def _refuse_full_disk(needed: int, free: int) -> None:
    if needed > free:
        msg = f"the disk has {_size(free)} free and the training needs {_size(needed)}; free space"
        raise BadInputError(msg)


def _case_warnings(cases: Sequence[CaseCheck], settings: Settings) -> list[str]:
    training, validation = ([case for case in cases if case.side == side] for side in ("training", "validation"))
    warnings = []
    patients, validated = (len({case.patient for case in some}) for some in (cases, validation))
    if not validation:
        remedy = "label more" if settings.training.validation_fraction else "set training.validation_fraction"
        warnings.append(
            f"no case is kept for validation, so nothing will show whether the new model is better; {remedy}"
        )
    elif patients < _FEW_PATIENTS or validated == 1:
        labelled = "1 patient is" if patients == 1 else f"{patients} patients are"
        warnings.append(
            f"{labelled} labelled, {validated} of them for validation, so the score will say little; label more"
        )
    for name in _missing([case.voxels for case in training], settings):
        if _paints(settings) and name == _last(settings):
            warnings.append(f"no training case shows a {name}; synthetic ones alone will be learned")
        else:
            warnings.append(f"no training case shows a {name}, so the new model will hardly find any")
    if validation:
        warnings += [
            f"no validation case shows a {name}, so the score says nothing about {name}s"
            for name in _missing([case.voxels for case in validation], settings)
        ]
    return warnings


def _room_warnings(disk: Disk, memory: Memory) -> list[str]:
    warnings = []
    if disk.most > disk.free:
        warnings.append(
            f"the disk has {_size(disk.free)} free and the training may need {_size(disk.most)}; free space"
        )
    if memory.needed > memory.available:
        warnings.append(
            f"the training needs about {_size(memory.needed)} of memory and {_size(memory.available)} are available; "
            "lower training.batch_size or training.patch_size"
        )
    return warnings


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
