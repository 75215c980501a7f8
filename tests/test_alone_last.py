import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.alone_last import ALONE, LONG, file_of, put_last

REPOSITORY = Path(__file__).resolve().parents[1]
CONFTEST = """
import time
from pathlib import Path

import pytest

from tests.alone_last import AloneLast, put_last

ALONE = ("test_x.py", "test_y.py")

@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    put_last(items, ALONE)

def pytest_xdist_make_scheduler(config, log):
    return AloneLast(config, log, ALONE)

@pytest.fixture(autouse=True)
def noted(request, worker_id):
    def note(what):
        with Path("log").open("a") as log:
            log.write(f"{what} {request.node.originalname} {worker_id}\\n")
    note("begin")
    time.sleep(0.1)  # for as long as another could begin
    yield
    note("end")
"""


@pytest.fixture
def run(tmp_path):
    """Runs files of tests, given as `{file: [names of tests]}`; x and y are to be alone.

    Returns the exit code, what pytest printed, and `(begin or end, test, worker)` in the order in which it happened.
    """
    (tmp_path / "conftest.py").write_text(CONFTEST)

    def run_files(files, *options):
        for name, tests in files.items():
            lines = [f"def test_{test}():\n    assert {'bad' not in test}\n" for test in tests]
            (tmp_path / f"test_{name}.py").write_text("\n".join(lines))
        command = [sys.executable, "-m", "pytest", "-c", "/dev/null", "--rootdir", ".", "--dist", "loadfile"]
        command += ["-p", "no:cacheprovider", "--no-loadscope-reorder", *options]
        command += ["-p", "xdist", "--max-worker-restart", "0"]
        environment = {"PYTHONPATH": str(REPOSITORY), "PATH": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout, [tuple(line.split()) for line in (tmp_path / "log").open()]

    return run_files


def names_of(files):
    return [f"test_{test}" for tests in files.values() for test in tests]


def test_the_files_are_there():
    assert [name for name in (*ALONE, *LONG) if not (REPOSITORY / name).is_file()] == []


def test_what_takes_long_begins_first_in_its_folder():
    files = [ALONE[0], "tests/loop/test_a.py", LONG[1], "tests/test_b.py", "tests/loop/test_c.py", LONG[0]]
    items = [SimpleNamespace(nodeid=f"{file}::test_it") for file in files]
    put_last(items)
    ordered = [file_of(item.nodeid) for item in items]
    assert ordered == ["tests/test_b.py", LONG[1], LONG[0], "tests/loop/test_a.py", "tests/loop/test_c.py", ALONE[0]]


@pytest.mark.parametrize("workers", ["2", "3"])
def test_some_files_run_one_by_one_when_the_others_have_ended(run, workers):
    files = {"x": ["u", "v"], "a": ["one", "two", "three"], "y": ["w"], "b": ["four"], "c": ["five", "six"]}
    code, output, log = run(files, "-n", workers)
    assert (code, "9 passed" in output) == (0, True), output
    assert sorted(test for what, test, _ in log if what == "end") == sorted(names_of(files))
    others, last = log[:-6], log[-6:]
    assert [test for _, test, _ in last] == ["test_u", "test_u", "test_v", "test_v", "test_w", "test_w"]
    assert len({worker for _, _, worker in last}) == 1
    assert len({worker for _, _, worker in others}) == int(workers)
    used = [{worker for _, test, worker in others if test[5:] in files[name]} for name in "abc"]
    assert all(len(workers_of_a_file) == 1 for workers_of_a_file in used)


@pytest.mark.parametrize("files", [{"x": ["u"], "y": ["v"]}, {"a": ["one"], "x": ["u"]}, {"a": ["one"], "b": ["two"]}])
def test_fewer_files_than_workers(run, files):
    code, output, log = run(files, "-n", "3")
    assert (code, "2 passed" in output) == (0, True), output
    if "x" in files:
        assert [(what, test) for what, test, _ in log] == [
            (what, test) for test in names_of(files) for what in ("begin", "end")
        ]


def test_a_failure_is_the_result_of_the_run(run):
    code, output, _ = run({"a": ["bad", "two"], "x": ["u"], "c": ["three"]}, "-n", "2")
    assert (code, "1 failed, 3 passed" in output) == (1, True), output


def test_the_first_failure_ends_it_if_asked(run):
    code, output, log = run({"a": ["bad", "two"], "b": ["three", "four", "five"], "x": ["u"]}, "-n", "2", "-x")
    assert (code, "stopping after 1 failures" in output) == (2, True), output
    assert not {"test_two", "test_u"} & {test for _, test, _ in log}


def test_a_worker_that_dies_ends_it(run, tmp_path):
    (tmp_path / "test_dies.py").write_text("import os\n\ndef test_dies():\n    os._exit(1)\n")
    code, output, _ = run({"a": ["one"], "x": ["u", "two"], "f": ["three"]}, "-n", "2")
    assert code == 1, output
    assert "crashed while running 'test_dies.py::test_dies'" in output


def test_with_one_process_they_come_last_too(run):
    code, output, log = run({"x": ["u"], "a": ["one"], "b": ["two"]}, "-n", "0")
    assert (code, "3 passed" in output) == (0, True), output
    assert [test for what, test, _ in log if what == "end"] == ["test_one", "test_two", "test_u"]
