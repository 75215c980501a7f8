import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "simulate.py"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--strategies", "oracle"), "there is no strategy 'oracle' to simulate; choose among bald, class_balanced, "),
        (("--strategies", "full+slices"), "there is no strategy 'full+slices' to simulate; choose among bald, "),
        (("--strategies", "oracle"), ", each also with +slices after it, and full"),
        (("--planned", "0"), "--planned must be 1 or more, not 0"),
        (("--rounds", "0"), "--rounds must be 1 or more, not 0"),
        (
            ("--pool", "mine"),
            "--pool mine needs --test with a folder of cases of other patients, to judge the models on",
        ),
        (("--report-only",), "holds no round of these strategies and seeds yet"),
        (
            ("--start", "nowhere"),
            "argument --start: invalid choice: 'nowhere' (choose from 'easy', 'starter', 'scratch')",
        ),
        (("--seeds", "-1"), "--seeds must be 0 or more, not -1"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, expected, monkeypatch, capsys, tmp_path):
    usual = ["--pool", "phantoms", "--folder", str(tmp_path / "simulation")]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *usual, *arguments])
    with pytest.raises(SystemExit) as exited:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    error = capsys.readouterr().err
    assert exited.value.code == 2
    assert error.startswith("error: ")
    assert expected in error
    assert error.count("\n") == 1
    assert not (tmp_path / "simulation").exists()
