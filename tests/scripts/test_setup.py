"""scripts/setup with a stand-in for Python, so that nothing is downloaded."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

# Makes an "environment" that is a copy of itself, and writes down what pip is asked for.
FAKE_PYTHON = f"""#!/usr/bin/env bash
case "$1 $2" in
    "-m venv") mkdir -p "$3/bin" "$3/lib" && cp "$0" "$3/bin/python" && echo "venv" >>"$CALLS" ;;
    "-m pip")
        echo "pip $3 $*" >>"$CALLS"
        [[ -z ${{SLOW_PIP:-}} || $* != *--no-build-isolation* ]] || {{ touch "$SLOW_PIP" && sleep 60; }}
        [[ -z ${{BROKEN_PIP:-}} ]] || {{ echo "no matching distribution: $BROKEN_PIP" >&2; exit 1; }} ;;
    "-c import sys; print"*) echo "${{FAKE_VERSION:-3.11}}" ;;
    "-c import"*) exec {sys.executable} -c 'import sys; compile(sys.argv[1], "setup", "exec")' "$2" ;;
    *) exec {sys.executable} "$@" ;;
esac
"""


class Checkout:
    """A folder with scripts/setup, a short requirements.txt and a fake interpreter."""

    def __init__(self, root):
        self.root = root
        self.venv = root / ".venv"
        self.calls_file = root / "calls"
        (root / "scripts").mkdir(parents=True)
        shutil.copy(REPOSITORY / "scripts" / "setup", root / "scripts" / "setup")
        (root / "requirements.txt").write_text("setuptools==1.0  # builds\nother==2.0\n")
        (root / "programs").mkdir()
        self.program("python3.11", FAKE_PYTHON)
        self.environment = {
            "PATH": f"{root / 'programs'}:/usr/bin:/bin",
            "CALLS": str(self.calls_file),
        }

    def program(self, name, content):
        path = self.root / "programs" / name
        path.write_text(content)
        path.chmod(0o755)

    def start(self, *arguments, **variables):
        return subprocess.Popen(
            [str(self.root / "scripts" / "setup"), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment | variables,
            start_new_session=True,
        )

    def run(self, *arguments, **variables):
        process = self.start(*arguments, **variables)
        output, errors = process.communicate(timeout=60)
        return process.returncode, output, errors

    def take_calls(self):
        """What was asked of the fake interpreter since the last time."""
        found = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        self.calls_file.unlink(missing_ok=True)
        return [" ".join(line.split()[:2]) for line in found]


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path / "a check out")


FULL = ["venv", "pip install", "pip install", "pip check"]
UPDATE = FULL[1:]


def test_first_run_installs_and_the_second_does_nothing(checkout):
    code, output, errors = checkout.run()
    assert (code, errors) == (0, "")
    assert checkout.take_calls() == FULL
    lines = output.splitlines()
    assert lines[0] == ("setup: making .venv with 2 packages: about 2 minutes and 8 GB of disk with a fast network")
    assert lines[-1].startswith("setup: ready in ")
    assert lines[-1].endswith(" s (Python 3.11, 2 packages)")
    assert (checkout.venv / ".liverloop-stamp").is_file()
    assert (checkout.venv / "setup.log").is_file()

    assert checkout.run() == (0, "setup: .venv is up to date\n", "")
    assert checkout.take_calls() == []


def test_changed_requirements_are_installed_in_place(checkout):
    checkout.run()
    checkout.take_calls()
    kept = checkout.venv / "kept"
    kept.touch()
    with (checkout.root / "requirements.txt").open("a") as file:
        file.write("third==3.0\n")
    code, output, _ = checkout.run()
    assert code == 0
    assert output.startswith("setup: requirements.txt has changed; bringing .venv up to date\n")
    assert checkout.take_calls() == UPDATE
    assert kept.exists()


@pytest.mark.parametrize("damage", ["no stamp", "no python", "moved"])
def test_an_unusable_environment_is_made_anew(checkout, damage):
    checkout.run()
    checkout.take_calls()
    if damage == "no stamp":
        (checkout.venv / ".liverloop-stamp").unlink()
    elif damage == "no python":
        (checkout.venv / "bin" / "python").unlink()
    else:
        stamp = checkout.venv / ".liverloop-stamp"
        stamp.write_text(stamp.read_text().replace("a check out", "elsewhere"))
    code, output, _ = checkout.run()
    assert code == 0
    assert "setup: deleting the incomplete or outdated .venv\n" in output
    assert checkout.take_calls() == FULL


def test_a_failing_pip_shows_the_end_of_its_log_and_is_tried_again(checkout):
    code, _, errors = checkout.run(BROKEN_PIP="other")
    assert code == 2
    assert "no matching distribution: other" in errors
    assert errors.splitlines()[-1].startswith("error: packages failed after ")
    assert errors.rstrip().endswith(f"the whole log is {checkout.venv / 'setup.log'}")
    assert not (checkout.venv / ".liverloop-stamp").exists()
    checkout.take_calls()
    assert checkout.run()[0] == 0
    assert checkout.take_calls() == FULL


def test_an_unsupported_python_is_one_line_and_keeps_the_old_environment(checkout):
    checkout.run()
    checkout.program("python3.9", FAKE_PYTHON.replace(":-3.11", ":-3.9"))
    code, output, errors = checkout.run(PYTHON="python3.9")
    assert (code, output) == (2, "")
    assert errors == (
        "error: Python 3.11 is needed, but PYTHON=python3.9 is not that (found python3.9, which is Python 3.9); "
        "install it or set PYTHON=/path/to/python3.11\n"
    )
    assert (checkout.venv / ".liverloop-stamp").is_file()


def test_python3_is_taken_when_it_is_a_3_11(checkout):
    (checkout.root / "programs" / "python3.11").rename(checkout.root / "programs" / "python3")
    checkout.program("python3.11", "#!/bin/sh\nexit 127\n")
    assert checkout.run()[0] == 0
    assert checkout.take_calls() == FULL


def test_a_full_disk_is_one_line_before_anything_is_made(checkout):
    checkout.program("df", "#!/bin/sh\nprintf 'Filesystem\\n/dev/x 9 9 4000000 9%% /\\n'\n")
    code, output, errors = checkout.run()
    assert (code, output) == (2, "")
    assert errors == f"error: {checkout.root} has 4 GB of free disk, but .venv needs 9 GB; free some\n"
    assert not checkout.venv.exists()


@pytest.mark.skipif(not shutil.which("flock"), reason="without flock there is no lock")
def test_a_second_one_waits_for_the_first(checkout):
    with (checkout.root / "scripts" / "setup").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = checkout.start()
        assert process.stdout.readline() == "setup: another set-up of this folder is running; waiting for it\n"
        assert checkout.take_calls() == []
        fcntl.flock(lock, fcntl.LOCK_UN)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert checkout.take_calls() == FULL


def test_an_interruption_ends_pip_and_the_next_run_starts_over(checkout):
    running = checkout.root / "pip is running"
    process = checkout.start(SLOW_PIP=str(running))
    end = time.monotonic() + 60
    while not running.exists() and time.monotonic() < end:
        os.sched_yield()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)  # ends only when pip has let go of the pipes
    assert process.returncode == 130
    assert errors == "\nsetup: interrupted; the next run starts over\n"
    checkout.take_calls()
    assert checkout.run()[0] == 0
    assert checkout.take_calls() == FULL


def test_help_and_unknown_arguments(checkout):
    code, output, _ = checkout.run("--help")
    assert code == 0
    assert output.startswith("usage: scripts/setup")
    assert checkout.run("--bogus") == (2, "", "error: unknown argument --bogus; see scripts/setup --help\n")
    assert not checkout.venv.exists()


def test_the_lock_pins_everything():
    lines = (REPOSITORY / "requirements.txt").read_text().splitlines()
    pins = [line.split("#")[0].strip() for line in lines if line and not line.startswith("#")]
    assert all("==" in pin and "@" not in pin and not pin.startswith("-") for pin in pins)
    names = [pin.split("==")[0].lower().replace("_", "-") for pin in pins]
    assert len(set(names)) == len(names)
    assert "setuptools" in names  # scripts/setup installs it first
