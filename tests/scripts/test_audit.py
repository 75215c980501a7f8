"""scripts/audit with a stand-in for Python, so that nothing is downloaded or looked up."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

# Makes an "environment" that is a copy of itself, and writes down what is asked of it.
FAKE_PYTHON = f"""#!/usr/bin/env bash
case "$1 ${{2:-}}" in
    "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && echo "venv" >>"$CALLS" ;;
    "-m pip") echo "pip $*" >>"$CALLS" && [[ -z ${{NO_NETWORK:-}} ]] ;;
    "-m pip_audit")
        echo "audit $*" >>"$CALLS"
        while [[ $1 != --output ]]; do shift; done
        [[ -z ${{ANSWER:-}} ]] || printf '%s' "$ANSWER" >"$2"
        exit "${{CODE:-0}}" ;;
    *) exec {sys.executable} "$@" ;;
esac
"""
GOOD = {"name": "numpy", "version": "1.26.4", "vulns": []}
BAD = {
    "name": "pillow",
    "version": "9.0.0",
    "vulns": [{"id": "PYSEC-2022-10", "aliases": ["CVE-2022-22817"], "fix_versions": ["9.0.1"]}],
}
WORSE = {"name": "x", "version": "1", "vulns": [{"id": "GHSA-1", "aliases": [], "fix_versions": []}]}
SKIPPED = {"name": "ours", "skip_reason": "not found"}


@pytest.fixture
def audit(tmp_path):
    root = tmp_path / "a check out"
    (root / "scripts").mkdir(parents=True)
    shutil.copy(REPOSITORY / "scripts" / "audit", root / "scripts" / "audit")
    (root / "requirements.txt").write_text("numpy==1.26.4\n")
    (root / "programs").mkdir()
    python = root / "programs" / "python3.11"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)

    def run(*arguments, packages=None, **variables):
        environment = {"PATH": f"{root / 'programs'}:/usr/bin:/bin", "CALLS": str(root / "calls")} | variables
        if packages is not None:
            environment["ANSWER"] = json.dumps({"dependencies": packages, "fixes": []})
        done = subprocess.run(
            [root / "scripts" / "audit", *arguments], env=environment, capture_output=True, text=True, timeout=60
        )
        return done.returncode, done.stdout, done.stderr

    run.root = root
    run.calls = lambda: (root / "calls").read_text().splitlines()
    return run


def test_nothing_is_known(audit):
    assert audit(packages=[GOOD]) == (
        0,
        "1 packages looked up, 0 with known vulnerabilities\n",
        "audit: installing pip-audit==2.10.1 into .audit\n",
    )
    made, pip, asked = audit.calls()
    assert (made, pip.split()[-1]) == ("venv", "pip-audit==2.10.1")
    assert f"--requirement {audit.root / 'requirements.txt'} --no-deps --disable-pip" in asked
    assert "--vulnerability-service pypi" in asked
    assert audit(packages=[GOOD])[2] == ""  # it is installed once
    assert len(audit.calls()) == 4


def test_another_version_of_the_tool_is_installed_anew(audit):
    audit(packages=[GOOD])
    (audit.root / ".audit" / "tool").write_text("pip-audit==1.0\n")
    assert "installing" in audit(packages=[GOOD])[2]


def test_what_is_known_is_told_with_what_repairs_it(audit):
    code, output, _ = audit(packages=[GOOD, BAD, WORSE, SKIPPED], CODE="1")
    assert (code, output.splitlines()) == (
        1,
        [
            "pillow 9.0.0: PYSEC-2022-10, CVE-2022-22817; repaired in 9.0.1",
            "x 1: GHSA-1; repaired in no version yet",
            "ours: not looked up: not found",
            "3 packages looked up, 2 with known vulnerabilities",
        ],
    )


def test_what_was_not_looked_up_does_not_count_as_good(audit):
    code, output, _ = audit(packages=[GOOD, SKIPPED])
    assert (code, output.splitlines()[-1]) == (3, "1 packages looked up, 0 with known vulnerabilities")


@pytest.mark.parametrize("answer", ["", "no JSON", "{}", json.dumps({"dependencies": [SKIPPED]})])
def test_a_service_out_of_reach_is_told(audit, answer):
    code, output, errors = audit(ANSWER=answer, CODE="1")
    assert (code, output) == (3, "")
    assert errors.splitlines()[-1] == (
        "error: nothing could be looked up, see above; in a closed network run this on a machine outside"
    )


def test_a_tool_that_can_not_be_installed_is_told_and_tried_again(audit):
    for _ in range(2):
        code, _, errors = audit(NO_NETWORK="1")
        assert code == 3
        assert errors.splitlines()[-1] == (
            "error: pip-audit==2.10.1 can't be installed, see above; without a network run this on a machine with one"
        )


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--bogus"], "unknown argument --bogus; see scripts/audit --help"),
        (["--service", "x"], "--service x is none; choose pypi or osv"),
        (["--service"], "--service  is none; choose pypi or osv"),
        (["missing.txt"], "there is no file missing.txt; give one with lines such as numpy==1.26.4"),
        (["a", "b"], "one file at a time, not a and b"),
    ],
)
def test_wrong_input(audit, arguments, reason):
    assert audit(*arguments) == (2, "", f"error: {reason}\n")


def test_another_file_and_service(audit):
    file = audit.root / "others.txt"
    file.touch()
    assert audit("--service", "osv", str(file), packages=[GOOD])[0] == 0
    assert f"--requirement {file} " in audit.calls()[-1]
    assert "--vulnerability-service osv" in audit.calls()[-1]


def test_help_needs_nothing(audit):
    code, output, _ = audit("--help")
    assert code == 0
    assert output.startswith("usage: scripts/audit")
    assert not (audit.root / "calls").exists()
