import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "simulate.py"
SMALL = shlex.split(
    "--pool phantoms --strategies hybrid full --seeds 0 --rounds 2 --per-round 2 --steps 3 --start scratch "
    "--validation 6 --patients 6 --test-cases 6 --size 64 --slices 12 --patch 32 --filters 4 4 8 8 8 --workers 2 "
    "--conf inference.precision float32"
)


def command(folder):
    outputs = ["--json", folder / "all.json", "--html", folder / "report.html"]
    return [str(part) for part in (sys.executable, SCRIPT, *SMALL, "--folder", folder, *outputs)]


def rounds_in(folder):
    return {path: path.stat().st_mtime_ns for path in folder.glob("seed-0/*/round-*.json")}


def children_of(pid):
    task = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in task.read_text().split()]


def is_gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A folder where Ctrl-C came in the middle, what was done by then, and what the terminal had shown."""
    folder = tmp_path_factory.mktemp("simulation") / "run"
    log = folder.parent / "log.txt"
    with log.open("wb") as file:
        # Who is started in the background ignores Ctrl-C, and so would all that it starts.
        process = subprocess.Popen(
            command(folder), stdout=file, stderr=file, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        try:
            while not rounds_in(folder) and process.poll() is None:
                time.sleep(0.05)
            children = children_of(process.pid)
            os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it, to the children as well
            code = process.wait(120)
        finally:
            process.kill()
    while not all(map(is_gone, children)):
        time.sleep(0.05)
    return folder, rounds_in(folder), code, log.read_text()


def test_ctrl_c_ends_all_processes_and_keeps_what_is_done(interrupted):
    folder, done, code, log = interrupted
    assert code == 130
    assert "Traceback" not in log
    assert done
    assert all(json.loads(path.read_text())["figures"] for path in done)
    assert not (folder / "all.json").exists()


def test_the_same_command_goes_on_and_reports(interrupted):
    folder, before, _, _ = interrupted
    run = subprocess.run(command(folder), capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    after = rounds_in(folder)
    assert {path: after[path] for path in before} == before  # nothing is done twice
    assert len(list(folder.glob("seed-0/hybrid/round-*.json"))) == 3
    result = json.loads((folder / "all.json").read_text())
    assert set(result["summary"]["strategies"]) == {"hybrid"}
    assert result["summary"]["full_seeds"] == [0]
    assert "hybrid" in run.stdout
    assert "100%" in run.stderr
    assert "<html" in (folder / "report.html").read_text()
    pictures = list(folder.glob("report_*.png"))
    assert pictures
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
    assert (folder / "seed-0" / "hybrid.log").read_text()
