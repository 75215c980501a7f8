import logging

import pytest
import torch

from lib.inference.model import load_model, new_network
from lib.training.folds import MOST_NETWORKS, FoldEpoch, plan_folds, train_folds
from lib.training.gate import same_weights
from lib.training.publish import describe, publish
from lib.training.registry import Registry

pytestmark = pytest.mark.usefixtures("quick_curves")
CPU = torch.device("cpu")


def each_its_own(*names):
    return {name: name for name in names}


def test_every_training_case_is_left_out_once(tiny):
    recipe = tiny(cross_validate_below=5).training
    assert plan_folds(each_its_own("a", "b", "c"), each_its_own("v"), recipe) == [["a"], ["b"], ["c"]]
    assert plan_folds({"a1": "a", "b": "b", "a2": "a"}, {}, recipe) == [["a1", "a2"], ["b"]]


def test_patients_count_and_not_cases(tiny):
    recipe = tiny(cross_validate_below=3).training
    assert plan_folds({"a1": "a", "a2": "a", "b": "b"}, {}, recipe)
    assert not plan_folds(each_its_own("a", "b"), each_its_own("v"), recipe)


def test_no_cross_validation(tiny):
    assert not plan_folds(each_its_own("a", "b"), {}, tiny(cross_validate_below=0).training)
    assert not plan_folds({"a1": "a", "a2": "a"}, each_its_own("v"), tiny(cross_validate_below=9).training)


def test_many_patients_share_networks(tiny):
    plan = plan_folds(each_its_own(*"abcdefg"), {}, tiny(cross_validate_below=99).training)
    assert len(plan) == MOST_NETWORKS
    assert sorted(name for part in plan for name in part) == list("abcdefg")


@pytest.fixture
def trained(tiny, cases, tmp_path):
    """Trains folds of a training that started from given weights."""

    def train(start, registry, plan, **recipe):
        settings = tiny(**({"learning_rate": 1e-12, "minimum_learning_rate": 0, "slices_per_case": 2} | recipe))
        seen = []
        (tmp_path / "run").mkdir()
        folds = train_folds(
            plan, cases, settings,
            epochs=1, start=start, registry=registry, version="new", folder=tmp_path / "run", device=CPU,
            on_epoch=seen.append,
        )  # fmt: skip
        assert not list((tmp_path / "run").iterdir())  # nothing of them stays
        return folds, seen

    return train


@pytest.fixture
def registry(tiny, tmp_path):
    """Version old, and version newer that has learned from case_0."""
    settings = tiny()
    registry = Registry(tmp_path / "app", settings)
    torch.manual_seed(7)
    registry.add(new_network(settings), describe(settings, "old", training_cases=["other"]))
    registry.add(new_network(settings), describe(settings, "newer", parent="old", training_cases=["case_0"]))
    return registry


def weights_of(registry, version):
    return load_model(registry.settings, registry.get(version).weights, CPU).network


def is_nearly(first, second):
    theirs = second.state_dict()
    return all(torch.allclose(tensor, theirs[name], atol=1e-6) for name, tensor in first.state_dict().items())


def test_a_network_starts_from_weights_that_have_not_seen_its_cases(trained, registry):
    folds, seen = trained(registry.get("newer").weights, registry, [["case_0"], ["case_1", "case_2"]])
    assert [fold.cases for fold in folds] == [["case_0"], ["case_1", "case_2"]]
    assert [fold.model.version for fold in folds] == ["new", "new"]
    # It hardly learns, so that the start shows.
    assert is_nearly(folds[0].model.network, weights_of(registry, "old"))
    assert is_nearly(folds[1].model.network, weights_of(registry, "newer"))
    assert seen == [FoldEpoch(n, 2, epoch, 1) for n in (1, 2) for epoch in (0, 1)]
    assert str(seen[-1]) == "cross-validation: network 2/2, epoch 1/1"


def test_fresh_weights_where_all_others_have_seen_its_cases(trained, tiny, tmp_path, caplog):
    settings = tiny()
    publish(tmp_path / "start.pt", new_network(settings), describe(settings, "first", training_cases=["case_0"]))
    with caplog.at_level(logging.INFO):
        (fold,), _ = trained(tmp_path / "start.pt", None, [["case_0"]])
    torch.manual_seed(settings.training.seed)
    assert is_nearly(fold.model.network, new_network(settings))
    assert "it starts from fresh weights, as all others have learned from its left-out cases" in caplog.text


def test_networks_that_can_not_be_trained_are_left_out(trained, registry, tiny, tmp_path, caplog):
    network = new_network(tiny())
    with torch.no_grad():
        network.head.weight.fill_(1e30)
        network.head.bias.fill_(torch.inf)
    publish(tmp_path / "start.pt", network, {})
    everything = [f"case_{number}" for number in range(4)]
    with caplog.at_level(logging.WARNING):
        folds, _ = trained(tmp_path / "start.pt", registry, [["case_0"], everything])
    assert not folds
    assert "cross-validation 1/2 is left out: the training diverged" in caplog.text
    assert "cross-validation 2/2 is left out: no other training case can be used" in caplog.text


def test_what_a_network_learns_does_not_depend_on_the_cases_left_out(trained, registry, cases, tmp_path, tiny):
    (fold,), _ = trained(registry.get("old").weights, registry, [["case_3"]], learning_rate=0.01)
    settings = tiny(learning_rate=0.01, minimum_learning_rate=0, slices_per_case=2)
    (tmp_path / "second").mkdir()
    (again,) = train_folds(
        [["case_3"]], [case for case in cases if case.name != "case_3"], settings,
        epochs=1, start=registry.get("old").weights, registry=registry, version="new", folder=tmp_path / "second",
        device=CPU,
    )  # fmt: skip
    assert same_weights(fold.model.network, again.model.network)
