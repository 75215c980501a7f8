import subprocess
import sys
from pathlib import Path

import pytest

from lib import venv

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def started(monkeypatch):
    """What would replace this process."""
    calls = []
    monkeypatch.setattr(venv, "begin_imports", lambda: None)
    monkeypatch.setattr(venv.os, "execv", lambda path, arguments: calls.append((path, arguments)))
    monkeypatch.setattr(sys, "argv", ["scripts/x.py", "--flag"])
    return calls


def test_inside_the_environment_nothing_happens(started):
    venv.enter_environment(Path(sys.prefix))
    assert started == []


def test_no_library_reports_to_its_maker(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); import lib.venv; lib.venv.enter_environment(); "
    code += "import onnxruntime; onnxruntime.InferenceSession"
    environment = {"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []  # where it would note its sessions


def test_another_python_hands_over_with_all_arguments(started, tmp_path):
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.touch()
    venv.enter_environment(tmp_path)
    assert started == [(python, [str(python), "scripts/x.py", "--flag"])]


def test_without_an_environment_a_python_that_has_everything_goes_on(started, tmp_path):
    venv.enter_environment(tmp_path / "missing")
    assert started == []


def test_without_anything_one_line_says_what_to_do(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); from pathlib import Path; import lib.venv as v; "
    code += f"v.find_spec = lambda name: None; v.enter_environment(Path({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path} is missing; run scripts/setup, which makes it\n"


def test_a_half_made_environment_is_told_from_a_missing_one(tmp_path, started, monkeypatch, capsys):
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.touch()
    monkeypatch.setattr(sys, "executable", str(python))  # entered, but its settings are missing: another prefix
    monkeypatch.setattr(venv, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stop:
        venv.enter_environment(tmp_path)
    assert (stop.value.code, started) == (2, [])
    assert capsys.readouterr().err == f"error: {tmp_path} is incomplete; run scripts/setup, which makes it\n"
