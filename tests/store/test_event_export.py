import csv
import io
import json

from hypothesis import given
from hypothesis import strategies as st

from lib.store.event_export import write_events
from lib.store.events import Event

EVENTS = [
    Event(1, 0.0, "user added", None, None, "root", {"user": "jürgen", "role": "admin"}),
    Event(2, 1_800_000_000.5, "label refused", "case_1", "final", "=cmd|' /C calc'!A0", {"reason": 'a "b",\nc'}),
]


def written(events, form):
    target = io.StringIO(newline="")
    write_events(events, target, form)
    return target.getvalue()


def test_json_lines():
    first, second = map(json.loads, written(EVENTS, "jsonl").splitlines())
    assert first == {
        "id": 1, "at": "1970-01-01T00:00:00.000+00:00", "kind": "user added", "image": None, "tag": None,
        "actor": "root", "detail": {"user": "jürgen", "role": "admin"},
    }  # fmt: skip
    assert (second["actor"], second["image"], second["detail"]) == (EVENTS[1].actor, "case_1", EVENTS[1].detail)


def test_csv():
    rows = list(csv.reader(io.StringIO(written(EVENTS, "csv"), newline="")))
    assert rows == [
        ["id", "at", "kind", "image", "tag", "actor", "detail"],
        ["1", "1970-01-01T00:00:00.000+00:00", "user added", "", "", "root", '{"user": "jürgen", "role": "admin"}'],
        [
            "2", "2027-01-15T08:00:00.500+00:00", "label refused", "case_1", "final", "'=cmd|' /C calc'!A0",
            json.dumps(EVENTS[1].detail),
        ],
    ]  # fmt: skip


def test_nothing_happened():
    assert written([], "jsonl") == ""
    assert written([], "csv") == "id,at,kind,image,tag,actor,detail\r\n"


@given(st.text(), st.text(), st.dictionaries(st.text(), st.text()))
def test_whatever_a_client_is_called_it_is_one_row_and_no_formula(actor, image, detail):
    event = Event(7, 0.0, "kind", image, None, actor, detail)
    (line,) = written([event], "jsonl").split("\n")[:-1]
    assert json.loads(line)["actor"] == actor
    _, row = csv.reader(io.StringIO(written([event], "csv"), newline=""))
    assert json.loads(row[6]) == detail
    for cell, text in ((row[3], image), (row[5], actor)):
        assert cell.removeprefix("'") == text.removeprefix("'")
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
