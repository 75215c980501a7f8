"""A small network with its weights on disk, and a small CT in any orientation."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

from lib.inference.model import Model, load_model, new_network
from lib.inference.observer import Seen
from lib.inference.stopwatch import Stopwatch
from lib.networks.checkpoint import save_weights
from lib.settings import Settings
from lib.transforms.windowing import gray_levels
from lib.volume import Volume


@pytest.fixture(scope="session")
def settings() -> Settings:
    return Settings.model_validate(
        {
            "network": {"arguments": {"filters": [4, 4, 8, 8, 8]}},
            "inference": {"precision": "float32", "engine": "pytorch"},
        }
    )


@pytest.fixture(scope="session")
def weights(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights that give every class somewhere."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    save_weights(path, new_network(settings), {"version": "v-test"})
    return path


@pytest.fixture
def model(settings: Settings, weights: Path) -> Model:
    return load_model(settings, weights, torch.device("cpu"))


@pytest.fixture
def small_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choosing an engine by slices of a few pixels, which takes milliseconds."""
    hu = np.random.default_rng(5).integers(-150, 250, (3, 64, 80)).astype(np.int16)
    levels = np.stack([gray_levels(one) for one in hu])
    cases = (hu, levels), (np.ascontiguousarray(hu[:2, :48, :64]), levels[:2])
    for module in ("choice", "agreement"):
        monkeypatch.setattr(f"lib.inference.{module}.probe_cases", lambda: cases)


@pytest.fixture(scope="session")
def ct() -> Volume:
    """40 x 36 x 5 voxels in LPS: air, a body, something bright in it, nothing symmetric."""
    rng = np.random.default_rng(0)
    hu = np.full((40, 36, 5), -1000.0)
    hu[4:36, 6:30] = 40
    hu[8:22, 10:26, 1:] = 110
    hu[12:16, 14:20, 2:4] = 20
    hu += rng.normal(0, 8, hu.shape)
    affine = np.array([[-0.9, 0, 0, 12.0], [0, -0.9, 0, 7.0], [0, 0, 3.0, -50.0], [0, 0, 0, 1.0]])
    return Volume(hu.round().clip(-1024).astype(np.int16), affine)


@pytest.fixture(scope="session")
def turned() -> Callable[[Volume, str], Volume]:
    """The same volume with its voxel axes in another order and direction; every voxel stays where it is."""

    def turn_volume(volume: Volume, codes: str) -> Volume:
        turn = ornt_transform(axcodes2ornt(("L", "P", "S")), axcodes2ornt(tuple(codes)))
        array = np.ascontiguousarray(apply_orientation(volume.array, turn))
        return Volume(array, volume.affine @ inv_ornt_aff(turn, volume.shape))

    return turn_volume


class Told:
    """Puts together what an observer is told."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.classes = np.zeros(shape, np.uint8)
        self.parts: list[tuple[int, slice, slice]] = []
        self.began_again = 0
        self.cleaned: np.ndarray | None = None
        self.lesions: int | None = None

    def saw(self, first: int, rows: slice, columns: slice, seen: Seen) -> None:
        there = slice(first, first + len(seen.classes))
        self.classes[there] = 0
        assert self.classes[there, rows, columns].shape == seen.classes.shape  # nothing lies outside of the volume
        self.classes[there, rows, columns] = seen.classes
        is_softmax(seen)
        self.parts.append((first, rows, columns))

    def begin_again(self) -> None:
        self.classes[:] = 9
        self.began_again += 1

    def finished(self, cleaned: np.ndarray, lesions: int, give_way: Callable[[], None]) -> None:
        give_way()
        self.cleaned, self.lesions = cleaned, lesions


def is_softmax(seen: Seen) -> None:
    """The probabilities are some, of the classes."""
    assert seen.probabilities.dtype == np.float32
    np.testing.assert_allclose(seen.probabilities.sum(1), 1, atol=1e-5)
    of_chosen = np.take_along_axis(seen.probabilities, seen.classes[:, None].astype(np.intp), 1)
    np.testing.assert_array_equal(of_chosen[:, 0], seen.probabilities.max(1))


@pytest.fixture
def told() -> type[Told]:
    """An observer by the shape of the axial volume, which it also checks."""
    return Told


@pytest.fixture
def sees_the_same() -> Callable:
    """Checks that an engine tells the labels that it gives, with their softmax; returns what it told."""

    def check(engine: Any, hu: np.ndarray) -> Seen:
        inputs = hu, np.stack([gray_levels(one) for one in hu]), Stopwatch()
        seen = engine.seen(*inputs)
        np.testing.assert_array_equal(seen.classes, engine(*inputs))
        assert len(np.unique(seen.classes)) > 1
        is_softmax(seen)
        return seen

    return check


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Which engines there are to choose among depends on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
