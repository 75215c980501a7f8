"""A pool of phantom patients as a hospital's is: most of them alike, and a long tail of kinds that are rare.

A pool's folder has `images/<id>.nii.gz`, the true labels `truth/<id>.nii.gz`, and `pool.json`.
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from lib.anatomy.spec import PhantomSpec, Phase
from lib.errors import BadInputError, NotFoundError
from lib.files import atomic_write
from lib.labels import TUMOR
from lib.metrics.lesions import label_lesions
from lib.phantom import render
from lib.simulation.kinds import KINDS, Further, Grid, Kind, phantom_of
from lib.volume_io import read_label, write_image, write_label

_FURTHER = (0.64, 0.32, 0.04)  # shares of patients with none, one and two further series
_LIKELIEST = 0.75  # of further series are of the first sort that a kind has
_MAX_SEED = 2**40
_POOL, _TEST = 0, 1  # parity of patients' seeds: no patient can be of both
_RENDERER = 1  # counted up when the same case becomes other voxels: folders of before are not gone on with


@dataclass(frozen=True)
class CaseSpec:
    """One image of one patient.

    Args:
        image_id: `<patient>_<phase>`, and `_thin` if its slices lie closer together.
        patient: such as `p012`, or `t012` in a test set.
        kind: of `KIND_NAMES`, what the image counts as.
        patient_kind: what the patient is drawn as; another one where a further series counts as another kind.
        phase: of contrast medium.
        seed: of the patient.
        lesions: how many the patient has.
        series: number of the patient's series, from 0.
        thin: whether its slices lie closer together than those of the first series.
        grid: the voxels of the patient's first series.
    """

    image_id: str
    patient: str
    kind: str
    patient_kind: str
    phase: Phase
    seed: int
    lesions: int
    series: int
    thin: bool = False
    grid: Grid = field(default_factory=Grid)

    def phantom(self) -> PhantomSpec:
        """All that is drawn about the image; takes some hundredths of a second."""
        kind = next(kind for kind in KINDS if kind.name == self.patient_kind)
        return phantom_of(kind, self.seed, self.lesions, self.phase, self.grid, thin=self.thin, series=self.series)


def draw_pool(seed: int, patients: int, grid: Grid | None = None) -> list[CaseSpec]:
    """The cases of a pool, patient by patient, about 1.4 of each.

    The kinds have their shares of the patients to within one, and each kind has at least one where there are as many
    patients as kinds; chance decides which patient is of which kind.

    Args:
        seed: the same one gives the same pool.
        patients: how many.
        grid: of first series; by default `Grid()`.

    Raises:
        BadInputError: a negative seed, or no patient.
    """
    _check(seed, patients, "patients")
    rng = np.random.default_rng([seed, _POOL])
    kinds = [kind for kind, count in zip(KINDS, allotted(patients), strict=True) for _ in range(count)]
    order = rng.permutation(patients)
    # dealt out evenly over the whole pool, so that the number of series hardly depends on the seed
    further = rng.permutation(np.searchsorted(np.cumsum(_FURTHER), (np.arange(patients) + 0.5) / patients))
    cases: list[CaseSpec] = []
    for number in range(patients):
        cases += _patient(rng, kinds[order[number]], f"p{number:03d}", int(further[number]), grid or Grid())
    return cases


def draw_test_set(seed: int, cases: int, grid: Grid | None = None) -> list[CaseSpec]:
    """Cases of patients who are in no pool, all kinds equally often, one case of each patient and none without lesions.

    The kinds take turns, so that rare ones count as much as the common one, and the first cases of a larger set are
    those of a smaller one.

    Args:
        seed: the same one gives the same cases.
        cases: how many.
        grid: of all; by default `Grid()`.

    Raises:
        BadInputError: a negative seed, or fewer cases than kinds.
    """
    _check(seed, cases, "test cases")
    if cases < len(KINDS):
        msg = f"a test set needs a case of each of the {len(KINDS)} kinds, not {cases} cases"
        raise BadInputError(msg)
    rng = np.random.default_rng([seed, _TEST])
    drawn = []
    for number, kind in enumerate(islice(cycle(KINDS), cases)):
        name, own = f"t{number:03d}", _own_seed(rng, _TEST)
        drawn.append(_case(kind, name, own, _count(rng, kind), 0, Further(kind.phase, thin=False), grid or Grid()))
    return drawn


def allotted(patients: int) -> tuple[int, ...]:
    """How many patients are of each of `KINDS`: by their shares, and at least one of each where that is possible."""
    exact = [kind.share * patients for kind in KINDS]
    counts = [max(1, math.floor(share)) if patients >= len(KINDS) else math.floor(share) for share in exact]
    while sum(counts) != patients:
        step = 1 if sum(counts) < patients else -1
        spare = [step * (share - count) for share, count in zip(exact, counts, strict=True)]
        if step < 0:
            spare = [gap if count > 1 else -math.inf for gap, count in zip(spare, counts, strict=True)]
        counts[int(np.argmax(spare))] += step
    return tuple(counts)


def image_file(folder: Path, image_id: str) -> Path:
    """Where a pool has an image."""
    return folder / "images" / f"{image_id}.nii.gz"


def truth_file(folder: Path, image_id: str) -> Path:
    """Where a pool has the true label of an image."""
    return folder / "truth" / f"{image_id}.nii.gz"


def write_pool(folder: Path, cases: Sequence[CaseSpec], progress: Callable[[], object] | None = None) -> None:
    """Render the cases of a pool, or those of them that a run before this one has not finished.

    Args:
        folder: of the pool, or one that isn't there yet.
        cases: from `draw_pool` or `draw_test_set`.
        progress: called after each case, found or made.

    Raises:
        BadInputError: the folder holds another pool.
        StorageError: it can't be written.
    """
    index = folder / "pool.json"
    described = {case.image_id: _described(case) for case in cases}
    before = _known(index, described)
    for case in cases:
        known, image, truth = before.get(case.image_id), *(at(folder, case.image_id) for at in (image_file, truth_file))
        if not (image.is_file() and truth.is_file()):
            phantom = render(case.phantom())
            write_label(truth, phantom.label)
            write_image(image, phantom.image)
            known = None
        described[case.image_id] |= known if known else _measured(truth)
        if progress:
            progress()
    _write_index(index, described)


def read_pool(folder: Path) -> dict[str, dict[str, Any]]:
    """What `pool.json` tells of each image, by its id.

    Returns:
        For each: `kind`, `patient`, `phase`, `liver_ml` (with the lesions), `tumor_ml`, `lesions` (as many as are
        apart in the true label), and what it was drawn from.

    Raises:
        NotFoundError: there is no complete pool in the folder.
    """
    index = folder / "pool.json"
    cases = json.loads(index.read_text(encoding="utf-8"))["cases"] if index.is_file() else {}
    if not cases or any("liver_ml" not in case for case in cases.values()):
        msg = f"{folder} holds no complete pool; write it with write_pool"
        raise NotFoundError(msg)
    return cases


def _patient(rng: np.random.Generator, kind: Kind, name: str, further: int, grid: Grid) -> list[CaseSpec]:
    seed = _own_seed(rng, _POOL)
    lesions = 0 if rng.random() < kind.healthy else _count(rng, kind)
    options = list(kind.further) if rng.random() < _LIKELIEST else list(reversed(kind.further))
    series = [Further(kind.phase, thin=False), *options[:further]]
    return [_case(kind, name, seed, lesions, number, sort, grid) for number, sort in enumerate(series)]


def _case(kind: Kind, patient: str, seed: int, lesions: int, series: int, sort: Further, grid: Grid) -> CaseSpec:
    return CaseSpec(
        image_id=f"{patient}_{sort.phase}{'_thin' if sort.thin else ''}", patient=patient, kind=sort.kind or kind.name,
        patient_kind=kind.name, phase=sort.phase, seed=seed, lesions=lesions, series=series,
        thin=sort.thin, grid=grid,
    )  # fmt: skip


def _own_seed(rng: np.random.Generator, parity: int) -> int:
    return 2 * int(rng.integers(_MAX_SEED)) + parity


def _count(rng: np.random.Generator, kind: Kind) -> int:
    return int(rng.integers(kind.lesions[0], kind.lesions[1] + 1))


def _check(seed: int, count: int, what: str) -> None:
    if seed < 0:
        msg = f"the seed must be 0 or more, not {seed}"
        raise BadInputError(msg)
    if count < 1:
        msg = f"there must be at least 1 of the {what}, not {count}"
        raise BadInputError(msg)


def _described(case: CaseSpec) -> dict[str, Any]:
    drawn = {**asdict(case), "renderer": _RENDERER}
    digest = hashlib.sha256(json.dumps(drawn, sort_keys=True).encode()).hexdigest()
    return {name: getattr(case, name) for name in ("kind", "patient", "phase", "seed", "series")} | {"drawn": digest}


def _known(index: Path, described: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What was measured before, of the same pool; a pool that isn't there yet is begun."""
    if not index.is_file():
        if any(index.parent.glob("*/*.nii.gz")):
            msg = f"{index.parent} holds images, but no pool.json; choose another folder"
            raise BadInputError(msg)
        _write_index(index, described)
        return {}
    before = json.loads(index.read_text(encoding="utf-8"))["cases"]
    if {name: case["drawn"] for name, case in before.items()} != {n: case["drawn"] for n, case in described.items()}:
        msg = f"{index.parent} holds a pool of another seed, size or version; choose another folder"
        raise BadInputError(msg)
    return {name: case for name, case in before.items() if "liver_ml" in case}


def _measured(truth: Path) -> dict[str, Any]:
    label = read_label(truth)
    tumor = label.array == TUMOR.index
    return {
        "liver_ml": round(float((label.array > 0).sum()) * label.voxel_ml, 1),
        "tumor_ml": round(float(tumor.sum()) * label.voxel_ml, 2),
        "lesions": label_lesions(tumor)[1],
    }


def _write_index(index: Path, cases: dict[str, dict[str, Any]]) -> None:
    with atomic_write(index) as temporary:
        temporary.write_text(json.dumps({"cases": cases}, indent=1) + "\n", encoding="utf-8")
