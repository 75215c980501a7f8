import numpy as np
import pytest

from lib.training.comparison import Comparison, Figures, GateReport
from lib.training.gate_history import gate_history
from lib.training.registry import ModelVersion


def report(against, cases, seed=0):
    """The new model has a Dice of 0.8 in the mean, and differs from the other by 0.1, more or less."""
    rng = np.random.default_rng(seed)
    gain = rng.normal(0, 1, len(cases))
    gain = 0.1 + 0.05 * (gain - gain.mean()) / (gain.std(ddof=1) if len(cases) > 1 else 1)
    figures = [(Figures({"liver": 0.8}, {"liver": 0.0}), Figures({"liver": 0.8 - one}, {"liver": 0.0})) for one in gain]
    return GateReport("new", against, tuple(map(Comparison, cases, *zip(*figures, strict=True))), {}).short()


def version(name, learned, tmp_path, **manifest):
    facts = {"training_cases": [f"t{number}" for number in range(learned)], **manifest}
    return ModelVersion(name, tmp_path / "model.pt", facts, "0" * 64, is_starter=name == "starter")


CASES = [f"v{number}" for number in range(20)]


def test_versions_from_the_first_on(tmp_path):
    found = gate_history([
        version("v2", 24, tmp_path, gate=report("v1", CASES), validation_cases=CASES[:6]),
        version("v1", 12, tmp_path, gate=report("starter", CASES[:10]), validation_cases=CASES[:3]),
        version("v0", 5, tmp_path, gate=None),  # there was nothing to compare it with
        version("starter", 500, tmp_path, gate=report("older", CASES)),  # learned from other labels
    ])  # fmt: skip
    first, second = found.judged
    assert (first.version, first.against, first.labels, first.against_labels) == ("v1", "starter", 12, None)
    assert (second.version, second.against, second.labels, second.against_labels) == ("v2", "v1", 24, 12)
    assert second.dice == {"liver": (pytest.approx(0.8), pytest.approx(0.7))}
    assert (first.cases, second.cases) == (frozenset(CASES[:10]), frozenset(CASES))
    # The standard error of a mean of 20 differences that are spread by 0.05.
    assert second.errors["liver"] == pytest.approx(0.05 / 20**0.5, rel=0.1)
    assert found.training_share == pytest.approx(24 / 30)


def test_what_networks_of_a_cross_validation_learned_from(tmp_path):
    training = [f"t{number}" for number in range(10)]
    crossed = {"networks": 5}
    whole = version("v1", 10, tmp_path, gate=report("starter", training), cross_validation=crossed)
    half = version("v1", 10, tmp_path, gate=report("starter", training[:5] + CASES[:5]), cross_validation=crossed)
    assert [gate_history([one]).judged[0].labels for one in (whole, half)] == [8, 9]
    assert gate_history([whole]).training_share == 1


@pytest.mark.parametrize(
    "gate",
    [report("v0", CASES[:1]), {"classes": {"liver": {"candidate": 0.7, "published": 0.6}}, "cases": CASES}, {}],
    ids=["one case", "no interval", "nothing compared"],
)
def test_what_says_nothing_of_chance_is_left_out(gate, tmp_path):
    assert gate_history([version("v1", 5, tmp_path, gate=gate)]).judged == ()


def test_no_version():
    assert (gate_history([]).judged, gate_history([]).training_share) == ((), 1)
