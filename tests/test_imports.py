"""The collector is off while a script imports, and on again when it works."""

import gc
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from lib.imports import begin_imports, end_imports

REPOSITORY = Path(__file__).resolve().parents[1]
SCRIPTS = sorted((REPOSITORY / "scripts").glob("*.py"))


@pytest.fixture(autouse=True)
def as_it_was():
    yield
    gc.enable()
    gc.unfreeze()


def test_what_was_imported_is_never_looked_at_again(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    gc.unfreeze()
    begin_imports()
    assert not gc.isenabled()
    end_imports()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 10_000


def test_where_everything_is_imported_the_collector_stays_on(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", pytest)
    gc.unfreeze()
    begin_imports()
    assert gc.isenabled()
    end_imports()
    assert gc.get_freeze_count() == 0


def test_what_torch_says_about_monai_is_not_shown_and_other_warnings_are():
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        begin_imports()
        warnings.warn("`torch.jit.interface` is deprecated.", FutureWarning, stacklevel=1)
        warnings.warn("another", FutureWarning, stacklevel=1)
    assert [str(warning.message) for warning in shown] == ["another"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_that_begins_also_ends(script):
    text = script.read_text(encoding="utf-8")
    assert text.index("enter_environment()") < text.index("\n    run(main)")


def test_a_script_and_the_processes_of_its_pool_work_with_the_collector_on(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(f"""
import gc, sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
sys.path.insert(0, {str(REPOSITORY)!r})
from lib.venv import enter_environment
enter_environment()
while_importing = gc.isenabled()
from lib.console import run

def main():
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        print(while_importing, gc.isenabled(), pool.submit(gc.isenabled).result())

if __name__ == "__main__":
    run(main)
""")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout == "False True True\n"
