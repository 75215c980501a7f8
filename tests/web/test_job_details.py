from collections import deque
from pathlib import Path

import pytest

from lib.web.job_details import told

FOLDERS = {Path("/srv/app"): "(app folder)", Path("/data/studies"): "(studies folder)"}
_LINE = "2026-11-27 03:40:00,123 {} lib.training.fit [job-1] {}"
_OLD = "[2026-11-27 03:40:00,123] [7] [MainThread] [INFO] (monailabel.interfaces.utils.app:38) - {}"


def shown(*lines, status="DONE"):
    return told({"id": "7", "status": status, "start_ts": "today", "details": deque(lines)}, FOLDERS)["details"]


def test_what_our_lines_say_is_told_without_the_servers_folders():
    line = _LINE.format("INFO", "training on cpu in /srv/app/model/runs/1, of /data/studies/a.nii.gz")
    assert shown(line) == [
        _LINE.format("INFO", "training on cpu in (app folder)/model/runs/1, of (studies folder)/a.nii.gz")
    ]


def test_nothing_else_of_a_task_is_changed():
    task = {"id": "7", "status": "SUBMITTED", "request": {"model": "m"}, "start_ts": "today"}
    assert told(task, FOLDERS) == task
    assert told({**task, "details": deque()}, FOLDERS) == {**task, "details": []}
    assert told({**task, "details": ["interrupted after epoch 3 of 10"]}, FOLDERS)["details"] == [
        "interrupted after epoch 3 of 10"
    ]


@pytest.mark.parametrize("closing", ["KeyError: 'Doe^Jane'", "KeyError"])
def test_a_trace_is_one_line(closing):
    trace = [
        "Traceback (most recent call last):",
        '  File "/srv/app/main.py", line 7, in <module>',
        "    Doe()",
        closing,
    ]
    end = "unforeseen error: KeyError; look for KeyError in the server's log"
    assert shown("begun", *trace, "over") == ["begun", end, "over"]
    assert shown(*trace, status="ERROR") == [end]


def test_a_trace_within_another():
    cause = ["Traceback (most recent call last):", "  File ...", "    Doe()", "package.OddError: Doe"]
    between = ["", "During handling of the above exception, another exception occurred:", ""]
    again = ["Traceback (most recent call last):", "  File ...", "ValueError: Doe"]
    first, _, second = shown(*cause, *between, *again)
    assert first == "unforeseen error: package.OddError; look for package.OddError in the server's log"
    assert second == "unforeseen error: ValueError; look for ValueError in the server's log"


def test_a_trace_whose_beginning_is_not_kept_any_more():
    line = '  File "/usr/lib/python3/site.py", line 7, in f'
    assert shown(line, "    f(Doe)", "ValueError: Doe") == [
        "unforeseen error: ValueError; look for ValueError in the server's log"
    ]


def test_a_trace_whose_end_has_not_come_yet():
    assert shown("Traceback (most recent call last):", "  File") == []
    line = _LINE.format("INFO", "epoch 1/2")
    assert shown("Traceback (most recent call last):", "  File", line) == [line]


def test_places_of_the_program_stay_in_the_log():
    words = "the process ends: unforeseen error: KeyError (app.py:7 train > fit.py:9 step) from ValueError (x.py:7 y)"
    assert shown(_LINE.format("CRITICAL", words), status="ERROR") == [
        _LINE.format("CRITICAL", "the process ends: unforeseen error: KeyError; look for job-1 in the server's log")
    ]


def test_what_monai_label_says_of_the_request_is_left_out():
    assert shown(_OLD.format("Initializing App from: /srv/app"), "Killed") == ["Killed"]


def test_who_says_nothing_of_an_error_is_spoken_for():
    line = _LINE.format("INFO", "epoch 1/2")
    assert shown(line, status="ERROR") == [line, "it ended with an error; look for today in the server's log"]
    refusal = _LINE.format("ERROR", "no")
    assert shown(refusal, status="ERROR") == [refusal]
