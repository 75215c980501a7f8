import pickle

import numpy as np
import pytest
import torch
from torch import nn

from lib.errors import BadInputError, ModelError
from lib.networks.checkpoint import load_weights, save_weights


def network(seed=0, channels=4):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, channels, 3), nn.BatchNorm2d(channels), nn.Conv2d(channels, 2, 1))


def same(first, second):
    return all(torch.equal(first.state_dict()[key], value) for key, value in second.state_dict().items())


def test_weights_and_meta_come_back(tmp_path):
    meta = {
        "labels": {"liver": 1, "tumor": 2},
        "windows": ["liver", [200, 60]],
        "dice": 0.9,
        "parent": None,
        "ok": True,
    }
    path = tmp_path / "new folder" / "model.pt"
    saved, loaded = network(0), network(1)
    save_weights(path, saved, meta)
    assert load_weights(path, loaded) == meta
    assert same(saved, loaded)
    assert [file.name for file in path.parent.iterdir()] == ["model.pt"]


def test_a_view_does_not_take_its_whole_storage_along(tmp_path):
    small = nn.Linear(2, 2, bias=False)
    small.weight = nn.Parameter(torch.zeros(100_000)[:4].view(2, 2))
    save_weights(tmp_path / "model.pt", small)
    assert (tmp_path / "model.pt").stat().st_size < 10_000


def test_other_precision_is_converted(tmp_path):
    saved, loaded = network(0), network(1)
    half = {key: value.half() if value.is_floating_point() else value for key, value in saved.state_dict().items()}
    torch.save({"model": half}, tmp_path / "model.pt")
    assert load_weights(tmp_path / "model.pt", loaded) == {}
    assert all(parameter.dtype == torch.float32 for parameter in loaded.parameters())
    for key, value in loaded.state_dict().items():
        torch.testing.assert_close(value, saved.state_dict()[key], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("wrap", [dict, lambda state: {"model": state}, lambda state: {"model": state, "epoch": 3}])
def test_checkpoints_of_others(tmp_path, wrap):
    saved, loaded = network(0), network(1)
    torch.save(wrap(saved.state_dict()), tmp_path / "model.pt")
    assert load_weights(tmp_path / "model.pt", loaded) == {}
    assert same(saved, loaded)


def test_a_network_of_another_shape_is_refused_and_left_alone(tmp_path):
    save_weights(tmp_path / "model.pt", network(0, channels=5))
    loaded = network(1)
    with pytest.raises(
        ModelError, match=r"model\.pt do not fit Sequential: 7 of another shape \(0\.weight is"
    ) as caught:
        load_weights(tmp_path / "model.pt", loaded)
    assert "0.weight is (5, 3, 3, 3), not (4, 3, 3, 3)" in str(caught.value)
    assert same(loaded, network(1))


def test_missing_and_unexpected_tensors_are_named(tmp_path):
    state = network(0).state_dict()
    state["extra.weight"] = state.pop("0.weight")
    torch.save(state, tmp_path / "model.pt")
    loaded = network(1)
    with pytest.raises(ModelError, match=r"1 missing \(0\.weight\); 1 unexpected \(extra\.weight\)$"):
        load_weights(tmp_path / "model.pt", loaded)
    assert same(loaded, network(1))


def test_only_the_first_names_are_listed(tmp_path):
    torch.save(nn.Linear(1, 1).state_dict(), tmp_path / "model.pt")
    with pytest.raises(ModelError, match=r"9 missing \(0\.weight, 0\.bias, 1\.weight, \.\.\.\); 2 unexpected"):
        load_weights(tmp_path / "model.pt", network())


def _pickled_code(path):
    torch.save(network(), path)  # a whole module: loading it would run code


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_text("version https://git-lfs"), "is no checkpoint that can be read safely"),
        (lambda path: path.write_bytes(b""), "is no checkpoint that can be read safely"),
        (lambda path: path.write_bytes(pickle.dumps([1])), "is no checkpoint"),
        (_pickled_code, "is no checkpoint that can be read safely"),
        (lambda path: torch.save(torch.zeros(3), path), "is no checkpoint: it holds a Tensor, not a dict"),
        (lambda path: torch.save({"epoch": 3}, path), "is no checkpoint: it holds neither a state dict"),
        (lambda path: torch.save({"model": {}}, path), "is no checkpoint: it holds neither a state dict"),
        (lambda path: path.mkdir(), "there is no weights file"),
    ],
)
def test_files_that_are_no_checkpoint(tmp_path, write, message):
    path = tmp_path / "model.pt"
    write(path)
    with pytest.raises(ModelError, match=message) as caught:
        load_weights(path, network())
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_cut_off_file_is_refused(tmp_path):
    path = tmp_path / "model.pt"
    save_weights(path, network())
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ModelError, match="is no checkpoint that can be read safely"):
        load_weights(path, network())


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"there is no weights file .*absent\.pt"):
        load_weights(tmp_path / "absent.pt", network())


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"dice": np.float64(0.9)}, r"meta\['dice'\] is a float64"),
        ({"cases": ["a", {"b": {1, 2}}]}, r"meta\['cases'\]\[1\]\['b'\] is a set"),
        ({"labels": {1: "liver"}}, r"meta\['labels'\] has the key 1; keys must be text"),
    ],
)
def test_meta_that_could_not_be_read_back_is_refused(tmp_path, meta, message):
    with pytest.raises(BadInputError, match=message):
        save_weights(tmp_path / "model.pt", network(), meta)
    assert not any(tmp_path.iterdir())
