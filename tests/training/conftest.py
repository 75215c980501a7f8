"""A training so small that a network learns it in seconds: a bright liver in a gray body, a dark tumor in the liver."""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from lib.settings import Settings
from lib.training.cases import CaseFiles
from lib.training.decoded import Case, decode_case
from lib.training.history import Row
from lib.volume import Volume
from lib.volume_io import write_image, write_label

_CHANGES = ("coarse", "elastic", "grid", "affine", "hu", "noise")
AFFINE = np.diag([-2.0, -2.0, 4.0, 1.0])


def make_volumes(seed: int, *, tumor: bool = True) -> tuple[Volume, Volume]:
    """40 x 48 x 10 voxels; the liver is in slices 2 to 7, the tumor in 4 and 5."""
    rng = np.random.default_rng(seed)
    label = np.zeros((40, 48, 10), np.uint8)
    x, y = rng.integers(6, 12, 2)
    label[x : x + 18, y : y + 20, 2:8] = 1
    if tumor:
        label[x + 5 : x + 12, y + 6 : y + 13, 4:6] = 2
    hu = np.full(label.shape, -1000.0)
    hu[3:37, 3:45] = 0
    hu[label == 1] = 100
    hu[label == 2] = 50
    hu += rng.normal(0, 5, hu.shape)
    return Volume(hu.round().clip(-1024).astype(np.int16), AFFINE), Volume(label, AFFINE)


@pytest.fixture(scope="module")
def quick_curves() -> Iterator[None]:
    """No curves to speak of: drawing them takes longer than an epoch of these trainings; their own tests draw them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lib.training.history.draw_curves", lambda _: Figure(figsize=(0.5, 0.5)))
        patch.setattr("lib.training.report.plots_of", lambda *_: [])
        yield


@pytest.fixture(scope="session")
def read_history() -> Callable[[Path], list[Row]]:
    """Reads the rows of a `history.csv`; empty cells become None."""

    def read(path: Path) -> list[Row]:
        with path.open(newline="") as file:
            return [{key: float(cell) if cell else None for key, cell in row.items()} for row in csv.DictReader(file)]

    return read


@pytest.fixture(scope="session")
def make_files() -> Callable[..., CaseFiles]:
    """Writes one labelled case as a studies folder has it."""

    def make(folder: Path, name: str, seed: int, *, tumor: bool = True) -> CaseFiles:
        image, label = make_volumes(seed, tumor=tumor)
        files = CaseFiles(folder / f"{name}.nii.gz", folder / "labels" / "final" / f"{name}.nii.gz")
        write_image(files.image, image)
        write_label(files.label, label)
        return files

    return make


@pytest.fixture(scope="session")
def studies(tmp_path_factory: pytest.TempPathFactory, make_files: Callable[..., CaseFiles]) -> Path:
    """Four labelled cases, one of them without a tumor; read-only."""
    folder = tmp_path_factory.mktemp("studies")
    for seed in range(4):
        make_files(folder, f"case_{seed}", seed, tumor=seed != 3)
    return folder


@pytest.fixture(scope="session")
def cases(studies: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    """The cases of `studies`, decoded; the last has no tumor."""
    folder = tmp_path_factory.mktemp("decoded")
    files = [CaseFiles(path, studies / "labels" / "final" / path.name) for path in sorted(studies.glob("*.nii.gz"))]
    return [decode_case(case, 3, folder / case.name) for case in files]


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Settings]:
    """Settings for a training of seconds; keyword arguments change its recipe, `others` other sections."""

    def make(others: dict[str, Any] | None = None, **recipe: Any) -> Settings:
        arguments = {"filters": [8, 8, 8, 8, 8], "dropout": [0] * 5, "up_dropout": [0] * 4}
        training = {
            "max_epochs": 3, "learning_rate": 0.01, "patch_size": 32, "slices_per_case": 8, "validation_fraction": 0.3,
            "cross_validate_below": 0,
        } | recipe  # fmt: skip
        content = {
            "network": {"arguments": arguments},
            "inference": {"precision": "float32", "int8": False},
            "training": training,
            "augmentation": {f"{name}_probability": 0 for name in _CHANGES},
        }
        return Settings.model_validate(content | (others or {}))

    return make
