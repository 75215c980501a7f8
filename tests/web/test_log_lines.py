import logging
import re
import traceback

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lib.errors import BadInputError, StorageError
from lib.web.log_lines import Line, Parts, Wanted, escaped, is_of_monai_label, origin_of, parts_of
from lib.web.request_ids import request_id


def record(name, message, *args, level=logging.INFO, error=None):
    info = (type(error), error, error.__traceback__) if error else None
    return logging.LogRecord(name, level, "/somewhere/place.py", 7, message, args, info)


def raised(error, cause=None):
    try:
        raise error from cause
    except Exception as caught:
        return caught


def words(*args, **options):
    return parts_of(Line().format(record(*args, **options))).words


def test_a_line_has_its_request():
    token = request_id.set("abc")
    try:
        line = Line().format(record("lib.web.app", "model %s", "v1"))
    finally:
        request_id.reset(token)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO lib\.web\.app \[abc\] model v1", line)


@pytest.mark.parametrize("name", ["lib", "lib.web.app", "uvicorn.error", "task_train"])
def test_our_words_are_kept(name):
    assert words(name, "it %s", "stands") == "it stands"


@pytest.mark.parametrize("name", ["root", "monailabel.endpoints.infer", "pydicom", "library", "libx.y", "uvicorny"])
def test_those_of_libraries_are_not(name):
    told = words(name, "patient %s", "Doe", level=logging.WARNING)
    assert told == "a message at place.py:7, whose words are left out"


def test_of_an_error_kinds_and_places_are_kept():
    cause = raised(KeyError("Doe"))
    told = words("lib.web.app", "it failed", error=raised(ValueError("Doe^Jane"), cause))
    place = r"\(test_log_lines\.py:\d+ raised\)"
    assert re.fullmatch(rf"it failed: unforeseen error: ValueError {place} from KeyError {place}", told)


def test_of_a_start_that_failed_our_words_are_kept_and_those_of_others_are_not():
    trace = "".join(traceback.format_exception(raised(StorageError("the disk is full"), raised(KeyError("Doe")))))
    assert words("uvicorn.error", trace, level=logging.ERROR) == "StorageError: the disk is full"
    trace = "".join(traceback.format_exception(raised(KeyError("Doe"))))
    told = words("uvicorn.error", trace, level=logging.ERROR)
    assert re.fullmatch(r"unforeseen error: KeyError \(test_log_lines\.py:\d+ raised\)", told)


def test_an_error_that_is_its_own_cause_has_an_end():
    error = raised(ValueError("Doe"))
    other = raised(KeyError("Doe"), error)
    error.__cause__ = other
    assert words("uvicorn.error", "x", error=error).count("KeyError") == 1


def test_an_error_raised_again_is_written_once():
    error = raised(ValueError("Doe"))
    again = record("uvicorn.error", "Exception in ASGI application\n", error=error, level=logging.ERROR)
    assert Wanted().filter(again)
    error.is_in_log = True
    assert not Wanted().filter(again)


@pytest.mark.parametrize(
    ("name", "level", "message", "wanted"),
    [
        ("lib.web.app", logging.DEBUG, "x", True),
        ("monailabel.endpoints.infer", logging.INFO, "Infer Request: Doe", False),
        ("monailabel.endpoints.infer", logging.WARNING, "x", True),
        ("pydicom", logging.DEBUG, "Doe", False),
        ("uvicorn.error", logging.INFO, "Started server process [%d]", True),
        ("uvicorn.error", logging.INFO, '%s - "WebSocket %s" 403', False),
        ("uvicorn.access", logging.INFO, '%s - "%s %s HTTP/%s" %d', False),
        ("task_train", logging.INFO, "2026-11-27 03:40:00,123 INFO lib.training.fit [job-1] epoch 1/2", True),
        ("task_train", logging.INFO, "Killed", True),
        ("task_train", logging.INFO, "[2026-11-27 03:40:00,123] [7] [MainThread] [INFO] (monailabel.x:7) - Doe", False),
    ],
)
def test_what_is_wanted(name, level, message, wanted):
    assert Wanted().filter(record(name, message, level=level)) is wanted


def test_the_line_of_a_job_stays_as_it_is():
    line = "2026-11-27 03:40:00,123 INFO lib.training.fit [job-1] epoch 1/2"
    assert Line().format(record("task_train", line)) == line
    assert parts_of(line) == Parts("2026-11-27 03:40:00,123", "INFO", "lib.training.fit", "job-1", "epoch 1/2")
    assert parts_of("Killed") is None
    assert not is_of_monai_label(line)


def test_where_an_error_began_in_our_code():
    with pytest.raises(TypeError) as caught:
        escaped(7)
    assert re.fullmatch(r"TypeError \(log_lines\.py:\d+ escaped\)", origin_of(caught.value))
    assert re.fullmatch(r"BadInputError \(test_log_lines\.py:\d+ raised\)", origin_of(raised(BadInputError("Doe"))))
    assert origin_of(ValueError("Doe")) == "ValueError"


@given(st.text())
@example("a\nb\r\x1b[31m\x85\u2028\ud800\x00")
def test_nobody_begins_a_line_but_us(text):
    line = Line().format(record("lib.web.app", "%s", text, level=logging.ERROR))
    assert len(line.splitlines()) == 1
    line.encode()
    assert len(line) < 4100
    assert parts_of(line).logger == "lib.web.app"


def test_a_long_message_is_cut():
    assert words("lib.x", "a" * 5000) == "a" * 4000 + "..."
