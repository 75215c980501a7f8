"""Strategies are found by themselves, and the way to add one that the README shows works."""

import importlib
import re
import sys
from pathlib import Path

import pytest

from lib.activelearning import strategies
from lib.activelearning.strategies import STRATEGIES, find

README = Path(strategies.__file__).parents[1] / "README.md"
ONE = "from lib.activelearning.strategy import Strategy\nSTRATEGY = Strategy({!r}, 'for a test', lambda *_: [])\n"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An empty package, to put modules in; its name."""
    (tmp_path / "added_here").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield tmp_path / "added_here"
    for name in [name for name in sys.modules if name.split(".")[0] == "added_here"]:
        del sys.modules[name]


def test_all_files_are_strategies_of_their_own_name():
    files = {path.stem for path in Path(strategies.__file__).parent.glob("*.py")} - {"__init__"}
    assert set(STRATEGIES) == files
    with pytest.raises(TypeError):
        STRATEGIES["mine"] = STRATEGIES["random"]


def test_strategies_are_found_sorted_by_name(package):
    for file, name in (("one", "zebra"), ("two", "ant")):
        (package / f"{file}.py").write_text(ONE.format(name))
    assert list(find([str(package)], "added_here")) == ["ant", "zebra"]


@pytest.mark.parametrize("text", ["", "STRATEGY = 'random'\n"], ids=["nothing", "another thing"])
def test_a_file_without_a_strategy_is_an_error(package, text):
    (package / "helpers.py").write_text(text)
    with pytest.raises(ImportError) as caught:
        find([str(package)], "added_here")
    assert str(caught.value) == (
        "added_here.helpers has no STRATEGY, a lib.activelearning.strategy.Strategy; "
        "helpers belong in lib.activelearning"
    )


def test_two_of_one_name_are_an_error(package):
    for file in "ba":
        (package / f"{file}.py").write_text(ONE.format("mine"))
    with pytest.raises(ImportError) as caught:
        find([str(package)], "added_here")
    assert str(caught.value) == ("the strategies of added_here.a and added_here.b are both named mine; rename one")


def test_the_strategy_of_the_readme_works(package, monkeypatch):
    strategy, test = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (package / "most_lesions.py").write_text(strategy)
    monkeypatch.setattr(strategies, "STRATEGIES", {**STRATEGIES, **find([str(package)], "added_here")})
    names: dict = {}
    exec(compile(test, README, "exec"), names)
    tests = [value for name, value in names.items() if name.startswith("test_")]
    assert len(tests) == 1
    tests[0]()
    assert len(strategy.splitlines()) <= 20


def test_the_readme_names_all_strategies_and_their_figures():
    table = README.read_text(encoding="utf-8").split("## The strategies")[1]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == sorted(set(STRATEGIES))
    assert f"at least {strategies.hybrid.DIVERSE_LABELS} are there" in table
    assert (strategies.hybrid.DIVERSE_SHARE, "until a tenth of the planned labels" in table) == (0.1, True)
