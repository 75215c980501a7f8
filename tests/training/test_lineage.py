import pytest

from lib.errors import ModelError
from lib.inference.model import new_network
from lib.training.lineage import Lineage, known_cases
from lib.training.publish import describe
from lib.training.registry import Registry


@pytest.fixture
def registry(tiny, tmp_path):
    """The versions a <- b <- c, made of the cases 1, 2, and 3."""
    settings = tiny()
    registry = Registry(tmp_path / "app", settings)
    for version, parent, case in (("a", None, "1"), ("b", "a", "2"), ("c", "b", "3")):
        facts = {"parent": parent, "training_cases": [case]}
        registry.add(new_network(settings), describe(settings, version, **facts))
    return registry


def test_a_model_has_learned_what_those_before_it_have(registry):
    lineage = Lineage(registry.get("c").weights, registry)
    assert all(lineage.has_learned_from([case]) for case in "123")
    assert lineage.has_learned_from(["4", "1"])
    assert not lineage.has_learned_from(["4"])
    assert not lineage.has_learned_from([])
    assert not Lineage(registry.get("a").weights, registry).has_learned_from(["2", "3"])


def test_without_a_registry_only_the_file_tells(registry):
    lineage = Lineage(registry.get("c").weights, None)
    assert lineage.has_learned_from(["3"])
    assert not lineage.has_learned_from(["1", "2"])
    assert lineage.newest_without(["3"]) is None


@pytest.mark.parametrize(("cases", "newest"), [("3", "b"), ("23", "a"), ("2", "a"), ("1", None), ("4", "b")])
def test_the_newest_version_before_that_has_not_learned_from_cases(registry, cases, newest):
    found = Lineage(registry.get("c").weights, registry).newest_without(cases)
    assert (found and found.id) == newest


def test_versions_in_a_circle_end(registry, tiny):
    settings = tiny()
    for version, parent in (("x", "y"), ("y", "x")):
        registry.add(new_network(settings), describe(settings, version, parent=parent, training_cases=[version]))
    assert Lineage(registry.get("x").weights, registry).newest_without(["x", "y"]) is None


def test_cases_of_a_patient_that_was_learned_from_are_known(registry):
    patients = {"1": "anna", "1b": "anna", "4": "berta"}
    assert known_cases(registry.get("c").weights, patients, registry) == {"1", "1b"}
    assert known_cases(registry.get("c").weights, patients, None) == set()


def test_weights_that_are_not_there(tmp_path):
    with pytest.raises(ModelError, match="there is no weights file"):
        Lineage(tmp_path / "none.pt", None)
