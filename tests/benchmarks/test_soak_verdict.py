import copy

import pytest

from lib.benchmarks.soak_text import as_text
from lib.benchmarks.soak_verdict import promises

ROW = {"done": 10, "later": 1, "late": 0, "dropped": 2, "error": 0, "p50_s": 0.1, "p95_s": 0.2, "max_s": 0.3}
GOOD = {
    "requests": {"infer": ROW, "save label": ROW},
    "errors": [],
    "saved": {"ann": 5, "rev": 4},
    "minutes": 10.0,
    "labels": {"acknowledged": 9, "versions": 10, "complaints": 0, "findings": 0, "told": [], "ledger_kb": 2.5},
    "files": {"images_changed": [], "added": [], "temporary_left": [], "sessions_left": 0},
    "server": {
        "log": [], "ended": False, "start_s": 9.0, "seconds": 600.0,
        "stop": {"code": 0, "seconds": 1.25, "children": 3, "left": 0},
    },
    "models": {"trainings": {"published": 1, "kept": 2, "failed": 0}, "training": [[1, True], [2, False]],
               "versions": {"a": 1.0, "b": 2.0}},
    "growth": {"memory_mb": {"per_hour": 5.0, "lower": -20.0, "upper": 30.0}},
    "most_growth_mb": 100.0,
    "samples": {"open_files": [90] + [40] * 11, "threads": [30] * 12, "memory_mb": [1000.0, 1200.0, 1100.0],
                "app_mb": [8.0, 95.0]},
}  # fmt: skip


def changed(path, value):
    result = copy.deepcopy(GOOD)
    part = result
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return result


def test_all_is_kept():
    found = promises(GOOD)
    assert all(one["kept"] for one in found)
    told = {one["promise"]: one["told"] for one in found}
    assert told["no request fails"] == "0 of 20"
    assert told["memory does not grow"] == "+5 MB/h (95 %: -20 to +30), allowed 100"
    assert told["no more open files"] == "40, at the end 40"
    assert told["no training fails"] == "1 published, 2 kept, 0 failed"
    assert told["the server stops when asked, with its children"] == "exit code 0 after 1.2 s, 0 of 3 children left"


@pytest.mark.parametrize(
    ("path", "value", "broken"),
    [
        (("saved", "rev"), 0, "all work, and a training runs"),
        (("models", "training"), [[1, False]], "all work, and a training runs"),
        (("requests", "infer"), {**ROW, "error": 1}, "no request fails"),
        (("labels", "complaints"), 1, "no label is lost, none is there twice"),
        (("labels", "findings"), 1, "ledger and folder agree"),
        (("files", "images_changed"), ["case_1.nii.gz"], "images are as they were"),
        (("files", "added"), ["x"], "images are as they were"),
        (("files", "temporary_left"), ["x"], "no temporary file is left"),
        (("files", "sessions_left"), 1, "no session is left"),
        (("growth", "memory_mb", "lower"), 100.5, "memory does not grow"),
        (("growth", "memory_mb"), None, "memory does not grow"),
        (("samples", "open_files"), [40] * 9 + [51] * 3, "no more open files"),
        (("samples", "threads"), [30] * 6 + [41] * 6, "no more threads"),
        (("models", "trainings", "failed"), 1, "no training fails"),
        (("server", "log"), ["Traceback"], "the log tells of no error"),
        (("server", "stop", "code"), None, "the server stops when asked, with its children"),
        (("server", "stop", "left"), 1, "the server stops when asked, with its children"),
        (("server", "ended"), True, "the server stops when asked, with its children"),
    ],
)
def test_each_can_be_broken(path, value, broken):
    assert [one["promise"] for one in promises(changed(path, value)) if not one["kept"]] == [broken]


def test_a_short_soak_tells_nothing_of_growth():
    short = changed(("growth", "memory_mb"), None)
    short["samples"]["open_files"] = [40, 90]
    short["minutes"], short["models"]["training"] = 2.9, []
    told = {one["promise"]: (one["kept"], one["told"]) for one in promises(short)}
    assert told["memory does not grow"] == (True, "too short, or too few samples, to tell")
    assert told["no more open files"] == (True, "too short to tell")
    assert told["all work, and a training runs"] == (True, "0 annotators saved nothing; no training ran")


def test_the_table():
    result = {
        **GOOD, "machine": {"cpu": "CPU", "cores": 2, "load": 1.0, "torch": "2"}, "date": "2026-11-27",
        "clients": 16, "minutes": 10.0, "login": True, "images": 64, "shape": [96, 96, 16], "pause_s": 1.0,
        "errors": ["infer at 1.0 s: 500"],
    }  # fmt: skip
    text = as_text({**result, "promises": promises(result)})
    assert text.startswith("16 annotators for 10 minutes, logged in; 64 phantoms of 96 x 96 x 16")
    assert "infer         10     100     200     300       0      1         0        2" in text
    assert "a training ran 50% of the time: 1 published, 2 kept, 0 failed" in text
    assert "1000 MB at first, 1200 MB at most, 1100 MB at the end" in text
    assert "app folder 8 MB at first, 95 MB at the end: models" in text
    assert text.endswith("error: infer at 1.0 s: 500")
