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
from lib.looked_at import check_looked_at, slices_looked_at
from lib.settings import Settings
from lib.store import versions
from lib.store.comparison import count_voxels
from lib.store.inspection import inspect
from lib.store.layout import FINAL
from lib.store.patients import patient_of
from lib.store.store import Store
from lib.training.cache import CaseCache, size_of
from lib.training.cases import FAR_SLICE_STEP, CaseFiles, check_grid, checked_label, kept_slices, split_cases
from lib.training.distributed import share
from lib.training.estimates import (
    BYTES_PER_PIXEL,
    LEAST_BYTES_PER_PIXEL,
    Disk,
    Duration,
    Memory,
    estimate_duration,
    estimate_memory,
    free_bytes,
    measure_step,
    weight_bytes,
)
from lib.training.folds import plan_folds
from lib.training.split import Side
from lib.volume import Volume
from lib.volume_io import read_grid, suffix_of

_THREADS = 4  # each holds one label
_FEW_PATIENTS = 5
_FEW_SLICES = 5
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
        decoded: bytes that it takes decoded, at least (but for the air around the patient) and at most.
        is_decoded: whether the cache has it from a training before.
        looked_at: how many of its slices somebody looked at; None where it was all of them.
    """

    name: str
    side: Side
    patient: str
    shape: tuple[int, int, int]
    voxel_ml: float
    voxels: Mapping[str, int]
    decoded: tuple[int, int]
    is_decoded: bool
    looked_at: int | None = None


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
                "looked_at_slices": case.looked_at,
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
            f"steps, {duration.per_step:.2g} s each{_networks(duration)}",
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
    cache = CaseCache(cache_folder, settings.classes, settings.training.cache_gb * 1e9)
    cases, left_out = _look(files, settings, cache)
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
        new = [case for case in cases if not case.is_decoded]
        least, most = (sum(case.decoded[end] for case in new) + weights for end in (0, 1))
        disk = Disk(least, most, free)
        _refuse_full_disk(least, free)
        cache.check_room(sum(case.decoded[0] for case in cases))
        memory = estimate_memory(settings, device)
        per_step = measure_step(settings, device)
    shapes = {case.name: case.shape for case in training}
    left_out_shapes = [[shapes[name] for name in names] for names in _plan(training, validation, settings)]
    duration = estimate_duration(
        per_step, len(training), [case.shape for case in validation], settings, left_out_shapes, share().world
    )
    warnings = [*_case_warnings(cases, settings, duration), *_room_warnings(disk, memory)]
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
    pixels = sum(int(np.prod(case.shape)) * case.looked_at for case in counted if case.shape)
    least = int(pixels) * LEAST_BYTES_PER_PIXEL // FAR_SLICE_STEP
    # Some of them may lie in the cache already, which is told by what is in their files.
    _refuse_full_disk(least, free_bytes(cache_folder) + size_of(cache_folder))


def _look(files: Sequence[CaseFiles], settings: Settings, cache: CaseCache) -> tuple[list[CaseCheck], dict[str, str]]:
    """The cases that can be used, by sides, and why the others can't."""
    with ThreadPoolExecutor(_THREADS, "preflight") as pool:
        results = pool.map(lambda case: _look_at(case, settings, cache), files)
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


_Looked = tuple[tuple[int, int, int], float, Mapping[str, int], tuple[int, int], bool, int | None]


def _look_at(files: CaseFiles, settings: Settings, cache: CaseCache) -> _Looked | str:
    """What `CaseCheck` holds behind the patient; why a case can't be used."""
    names = settings.label_indices()
    seen = None
    try:
        grid = inspect(files.image, suffix_of(files.image)).grid
        # Its axial shape is that of a volume whose voxels take no memory.
        z, y, x = Volume(np.broadcast_to(np.uint8(0), grid.shape), grid.affine).axial().shape
        if _has_all(files.voxels, settings):
            check_grid(files.name, grid, read_grid(files.label))
            voxels, decoded = {name: files.voxels[name] for name in names}, (-(-z // FAR_SLICE_STEP), z)
        else:
            label = checked_label(files, grid, settings.classes)
            check_looked_at(label, named=True)
            voxels, decoded = count_voxels(label.array, names), (len(kept_slices(label.axial())),) * 2
            seen = slices_looked_at(label)
        is_decoded = cache.holds(files)
    except (LiverLoopError, OSError, MemoryError) as error:
        return " ".join(str(error).split()) or type(error).__name__
    least, most = (
        slices * y * x * size for slices, size in zip(decoded, (LEAST_BYTES_PER_PIXEL, BYTES_PER_PIXEL), strict=True)
    )
    return (z, y, x), grid.voxel_ml, voxels, (int(least), int(most)), is_decoded, seen and seen[0]


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


def _refuse_full_disk(needed: float, free: int) -> None:
    if needed > free:
        msg = f"the disk has {_size(free)} free and the training needs {_size(needed)}; free space"
        raise BadInputError(msg)


def _plan(training: Sequence[CaseCheck], validation: Sequence[CaseCheck], settings: Settings) -> list[list[str]]:
    trained, validated = ({case.name: case.patient for case in side} for side in (training, validation))
    return plan_folds(trained, validated, settings.training)


def _case_warnings(cases: Sequence[CaseCheck], settings: Settings, duration: Duration) -> list[str]:
    training, validation = ([case for case in cases if case.side == side] for side in ("training", "validation"))
    warnings = []
    patients, validated = (len({case.patient for case in some}) for some in (cases, validation))
    if duration.networks:
        warnings.append(
            f"{patients} patients are labelled, too few for validation cases alone to tell how good the new model is: "
            f"cross-validation trains {duration.networks} more networks, each without some of them, in "
            f"{_roughly(duration.cross_validation)}; label more"
        )
    elif not validation:
        remedy = "label more" if settings.training.validation_fraction else "set training.validation_fraction"
        warnings.append(
            f"no case is kept for validation, so nothing will show whether the new model is better; {remedy}"
        )
    elif patients < _FEW_PATIENTS or validated == 1:
        labelled = "1 patient is" if patients == 1 else f"{patients} patients are"
        warnings.append(
            f"{labelled} labelled, {validated} of them for validation, so the score will say little; label more"
        )
    few = [case.name for case in validation if case.looked_at is not None and case.looked_at < _FEW_SLICES]
    if few:
        named = few[0] if len(few) == 1 else f"{few[0]} and {len(few) - 1} more validation cases"
        warnings.append(f"fewer than {_FEW_SLICES} slices of {named} were looked at, so the score says little there")
    for name in _missing([case.voxels for case in training], settings):
        if _paints(settings) and name == _last(settings):
            warnings.append(f"no training case shows a {name}; synthetic ones alone will be learned")
        else:
            warnings.append(f"no training case shows a {name}, so the new model will hardly find any")
    if validation and not duration.networks:
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


def _networks(duration: Duration) -> str:
    if not duration.networks:
        return ""
    took = timedelta(seconds=round(duration.cross_validation))
    return f"; {took} of it for {duration.networks} networks of the cross-validation"


def _roughly(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return "less than two minutes"
    return f"about {minutes} minutes" if minutes < 120 else f"about {round(minutes / 60)} hours"


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
