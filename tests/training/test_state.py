"""The state on disk: what is saved is what is loaded, or nothing is."""

import os
import re

import pytest
import torch
from torch import nn

from lib.errors import BusyError, ModelError, NotFoundError
from lib.training.cases import CaseFiles
from lib.training.state import (
    CACHE_PREFIX,
    STATE_FILE,
    FitState,
    RunState,
    alone_in,
    clear_left_overs,
    first_difference,
    interrupted_runs,
    load_state,
    origin_of,
    prepare_to_resume,
    save_state,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def sides(studies):
    files = [CaseFiles(path, studies / "labels" / "final" / path.name) for path in sorted(studies.glob("*.nii.gz"))]
    return files[:3], files[3:]


@pytest.fixture
def state(tiny, sides):
    """After a step of a real optimizer."""
    network = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    plateau.step(0.5)
    parts = {name: part.state_dict() for name, part in
             {"network": network, "optimizer": optimizer, "plateau": plateau}.items()}  # fmt: skip
    rows = [{"epoch": 0, "train_loss": None, "seconds": 0.5}, {"epoch": 1, "train_loss": 0.25, "seconds": 1.5}]
    facts = {"started_from": None, "training_cases": ["a", "b"]}
    return RunState("v1", origin_of(tiny(), *sides), facts, FitState(1, False, rows, parts))


def same(first, second):
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return type(first) is type(second) and first == second


def test_what_is_saved_is_loaded(state, tmp_path):
    save_state(tmp_path, state)
    loaded = load_state(tmp_path, state.origin)
    assert same(vars(loaded.fit), vars(state.fit))
    assert (loaded.version, loaded.origin, loaded.facts) == ("v1", state.origin, state.facts)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: os.truncate(path, path.stat().st_size // 2),
        lambda path: torch.save({"version": "v1"}, path),
        lambda path: torch.save([1, 2], path),
        lambda path: torch.save({**torch.load(path, weights_only=True), "more": 1}, path),
        lambda path: torch.save({"fit": nn.Linear(1, 1)}, path),  # would run code
    ],
)
def test_a_damaged_state_is_named(state, tmp_path, damage):
    save_state(tmp_path, state)
    damage(tmp_path / STATE_FILE)
    path = re.escape(str(tmp_path / STATE_FILE))
    with pytest.raises(ModelError, match=rf"^{path} is damaged \(.+\), so that the training can't go on; start a new"):
        load_state(tmp_path, state.origin)


def test_equal_origins(tiny, sides):
    assert first_difference(origin_of(tiny(), *sides), origin_of(tiny(), *sides)) is None


@pytest.mark.parametrize(
    ("others", "recipe", "expected"),
    [
        (None, {"seed": 5}, "training.seed was 0 when it began and is 5 now"),
        (None, {"class_weights": [1, 2, 3]},
         "training.class_weights was None when it began and is [1.0, 2.0, 3.0] now"),
        ({"network": {"name": "UNet"}}, {}, "network.name was MulticlassUNet when it began and is UNet now"),
        ({"windows": {"custom": {"width": 300, "level": 40}}}, {},
         "windows.custom was None when it began and is {'width': 300, 'level': 40} now"),
        ({"labels": {"tumor": {"index": 1}, "liver": {"index": 2}}}, {},
         "labels.liver was 1 when it began and is 2 now"),
    ],
)  # fmt: skip
def test_settings_that_differ_are_named_as_in_app_yaml(tiny, sides, others, recipe, expected):
    assert first_difference(origin_of(tiny(), *sides), origin_of(tiny(others, **recipe), *sides)) == expected


def test_cases_that_differ_are_named(tiny, sides):
    training, validation = sides
    settings = tiny()
    before = origin_of(settings, training, validation)

    def difference(*now):
        return first_difference(before, origin_of(settings, *now))

    assert difference(training[1:], validation) == "case_0 was among its cases and is not now"
    assert difference(training[:2], [training[2], *validation]) == (
        "case_2 was a training case and is a validation case now"
    )
    swapped = CaseFiles(training[0].image, training[1].label)
    assert difference([swapped, *training[1:]], validation) == "the label of case_0 has changed"
    assert first_difference(origin_of(settings, training[1:], validation), before) == (
        "case_0 was not among its cases and is now"
    )


def test_a_label_that_was_withdrawn_meanwhile_is_of_no_content(tiny, sides, tmp_path):
    training, validation = sides
    before = origin_of(tiny(), training, validation)
    gone = CaseFiles(training[0].image, tmp_path / training[0].label.name)
    now = origin_of(tiny(), [gone, *training[1:]], validation)
    assert now["cases"]["case_0"] == {"side": "training", "label": None}
    assert first_difference(before, now) == "the label of case_0 has changed"


def test_runs_that_can_go_on(state, tmp_path):
    for name in ("20240102_030405", "20240101_000000", "20240103_000000"):
        (tmp_path / name).mkdir()
    assert interrupted_runs(tmp_path) == []
    for name in ("20240102_030405", "20240101_000000"):
        save_state(tmp_path / name, state)
    assert [run.name for run in interrupted_runs(tmp_path)] == ["20240101_000000", "20240102_030405"]
    assert interrupted_runs(tmp_path / "nowhere") == []


def test_only_one_at_a_time(state, tmp_path):
    save_state(tmp_path, state)
    with alone_in(tmp_path):
        with pytest.raises(BusyError, match="is still running; wait for its end or stop it"):
            prepare_to_resume(tmp_path)
        with pytest.raises(BusyError):
            clear_left_overs(tmp_path)
    prepare_to_resume(tmp_path)


def test_a_file_system_that_locks_no_folders_is_used_all_the_same(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr("lib.training.state.fcntl.flock", refuse)
    with alone_in(tmp_path):
        assert "can't be locked (Bad file descriptor); don't train in it twice at a time" in caplog.text
    (tmp_path / f"{CACHE_PREFIX}of-one-that-may-run").mkdir()
    clear_left_overs(tmp_path)
    assert (tmp_path / f"{CACHE_PREFIX}of-one-that-may-run").is_dir()


def test_nothing_there(tmp_path):
    for function in (prepare_to_resume, lambda folder: load_state(folder, {})):
        with pytest.raises(NotFoundError, match=r"no interrupted training in .*nowhere: it has no state\.pt, since it"):
            function(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
