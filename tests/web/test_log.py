import json
import logging
import os
import stat
import subprocess
import sys
from logging.config import dictConfig

import pytest

from lib.errors import StorageError
from lib.web import log
from lib.web.log import OwnersFile, log_configuration, log_request, write_log_configuration
from lib.web.log_lines import parts_of

REPOSITORY = log.Path(log.__file__).resolve().parents[2]
_BEGIN = "import logging, threading, warnings\nfrom logging.config import dictConfig\nfrom lib.web.log import *\n"


def printed(program):
    """What a process writes, and its exit code."""
    done = subprocess.run(
        [sys.executable, "-c", _BEGIN + program], capture_output=True, text=True, cwd=REPOSITORY, timeout=60
    )
    return done.stdout + done.stderr, done.returncode


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_the_configuration_is_what_monai_label_reads(tmp_path):
    path = write_log_configuration(tmp_path)
    assert path == tmp_path / "logs" / "logging.json"
    assert json.loads(path.read_text()) == log_configuration(tmp_path / "logs" / "app.log")
    assert json.loads(path.read_text())["root"]["level"] == "INFO"  # or MONAI Label would write it anew


def test_what_was_written_before_is_closed_to_others(tmp_path):
    (tmp_path / "logs").mkdir()
    for name in ("app.log", "app.log.1"):
        (tmp_path / "logs" / name).touch(0o644)
    write_log_configuration(tmp_path)
    assert {mode(path) for path in (tmp_path / "logs").glob("app.log*")} == {0o600}


def test_a_folder_that_can_not_be_written_is_told(tmp_path):
    (tmp_path / "logs" / "logging.json").mkdir(parents=True)
    with pytest.raises(StorageError, match="there is a folder of this name"):
        write_log_configuration(tmp_path)


def test_files_are_the_owners_and_bounded(tmp_path):
    old = os.umask(0)
    try:
        handler = OwnersFile(tmp_path / "app.log", maxBytes=200, backupCount=2, encoding="utf-8")
        for number in range(100):
            handler.emit(logging.LogRecord("lib.x", logging.INFO, "", 0, "line %d", (number,), None))
        handler.close()
    finally:
        os.umask(old)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["app.log", "app.log.1", "app.log.2"]
    assert {mode(file) for file in files} == {0o600}
    assert all(file.stat().st_size <= 200 for file in files)
    assert "line 99" in files[0].read_text()


@pytest.mark.parametrize("verbose", [False, True])
def test_lines_of_each_kind(tmp_path, verbose):
    text, code = printed(
        f"dictConfig(log_configuration(Path({str(tmp_path / 'app.log')!r}), verbose={verbose}))\n"
        "for name in 'lib.a monailabel.a monailabel.b uvicorn.error uvicorn.access task_train pydicom'.split():\n"
        "    if name == 'monailabel.b': logging.getLogger(name).setLevel(logging.DEBUG)\n"  # as a request makes it do
        "    for level in (10, 20, 30): logging.getLogger(name).log(level, 'Doe %d', level)\n"
    )
    assert code == 0
    assert text == (tmp_path / "app.log").read_text()
    told = [parts_of(line) for line in text.splitlines()]
    left_out = "a message at <string>:7, whose words are left out"
    ours = [("lib.a", "Doe 10")] if verbose else []
    assert [(one.logger, one.words) for one in told] == [
        *ours,
        ("lib.a", "Doe 20"), ("lib.a", "Doe 30"),
        ("monailabel.a", left_out), ("monailabel.b", left_out),
        ("uvicorn.error", "Doe 20"), ("uvicorn.error", "Doe 30"),
        ("task_train", "Doe 20"), ("task_train", "Doe 30"),
        ("pydicom", left_out),
    ]  # fmt: skip


def test_a_log_that_others_configured_is_made_private():
    text, code = printed(
        "logging.basicConfig(level=10, format='%(message)s')\n"
        "keep_private_in_job(); keep_private()\n"
        "logging.getLogger('monailabel.x').info('Doe')\n"
        "logging.getLogger('lib.x').info('ours %s', 'Doe', 'too many')\n"  # can't be written
        "warnings.warn('Doe')\n"
        "one = threading.Thread(target=lambda: int('Doe'), name='worker'); one.start(); one.join()\n"
        "int('Doe')\n"
    )
    assert code == 1
    told = [parts_of(line) for line in text.splitlines()]
    assert len({one.id for one in told}) == 1
    assert told[0].id.startswith("job-")
    assert [(one.level, one.logger, one.words) for one in told] == [
        ("WARNING", "lib.web.log", "UserWarning at <string>:8"),
        (
            "ERROR", "lib.web.log",
            "the thread worker ends: unforeseen error: ValueError (threading.py:1045 _bootstrap_inner > "
            "threading.py:982 run > <string>:9 <lambda>)",
        ),
        ("CRITICAL", "lib.web.log", "the process ends: unforeseen error: ValueError (<string>:10 <module>)"),
    ]  # fmt: skip


def test_ends_that_are_meant_are_not_told():
    text, code = printed(
        "logging.basicConfig(level=10)\nkeep_private()\nimport sys\n"
        "one = threading.Thread(target=sys.exit); one.start(); one.join()\nraise KeyboardInterrupt\n"
    )
    assert (text, code) == ("", 130) or (text, code) == ("", -2)


@pytest.mark.parametrize(
    ("method", "route", "caller", "size", "line"),
    [
        ("GET", "/info/", None, None, "GET /info/ 200 12 ms -"),
        ("POST", "/infer/{model}", "ann", 512, "POST /infer/{model} 200 12 ms 512 B ann"),
        ("DOE", "/info/", "ann", 0, "(other) /info/ 200 12 ms 0 B ann"),
    ],
)
def test_the_line_of_a_request(method, route, caller, size, line, caplog):
    with caplog.at_level(logging.INFO, "lib.web.log"):
        log_request(method, route, 200, 0.0123, caller, size)
    assert caplog.messages == [line]


@pytest.mark.parametrize("route", ["/healthz", "/readyz", "/metrics"])
def test_who_watches_the_server_fills_no_log(route, caplog):
    with caplog.at_level(logging.INFO, "lib.web.log"):
        log_request("GET", route, 200, 0.001, None)
    assert caplog.messages == []
    with caplog.at_level(logging.DEBUG, "lib.web.log"):
        log_request("GET", route, 200, 0.001, None)
    assert caplog.messages == [f"GET {route} 200 1 ms -"]


def test_what_configures_logging_knows_our_classes(tmp_path):
    before = logging.root.handlers[:], logging.root.level
    try:
        dictConfig(log_configuration(tmp_path / "app.log") | {"loggers": {}})
        assert {type(handler) for handler in logging.root.handlers} == {logging.StreamHandler, OwnersFile}
    finally:
        for handler in logging.root.handlers:
            handler.close()
        logging.root.handlers[:], logging.root.level = before
