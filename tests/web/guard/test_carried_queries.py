"""What may stand in addresses: exactly what endpoints read, and nothing that is no value of theirs."""

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from monailabel.endpoints import activelearning, batch_infer, datastore, infer, info, login, scoring, session, train

from lib.errors import BadInputError
from lib.web.guard import carried_queries as queries
from lib.web.guard.carried import checked
from lib.web.guard.rows import Off
from lib.web.guard.table import TABLE
from lib.web.ledger_requests import install_ledger
from lib.web.model_requests import install_models
from lib.web.requests import install_requests

IMAGE = {"image": "case.1.2"}
LABEL = {"label": "case.1.2", "tag": "final"}
UUID = "0a1b2c3d-0a1b-11ee-8c99-0242ac120002"


def refused(model, sent):
    with pytest.raises(BadInputError) as caught:
        checked(model, sent, "address")
    return str(caught.value)


@pytest.fixture(scope="module")
def routes():
    """MONAI Label's endpoints and ours by method and path."""
    app = FastAPI()
    for module in (activelearning, batch_infer, datastore, infer, info, login, scoring, session, train):
        app.include_router(module.router)
    for install in (install_requests, install_ledger, install_models):
        install(app)
    found = {}
    for route in flat(app.routes):
        for method in route.methods:
            found.setdefault((method, route.path), []).append(route.dependant)
    return found


def flat(routes):
    for route in routes:
        if isinstance(route, APIRoute):
            yield route
        elif hasattr(route, "original_router"):
            yield from flat(route.original_router.routes)


ROWS = [row for row in TABLE if not isinstance(row, Off) and row.query is not None]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.method} {row.path}")
def test_a_query_may_hold_what_its_endpoint_reads(routes, row):
    for endpoint in routes.get((row.method, row.path), ()):
        assert {one.alias for one in endpoint.query_params} <= set(row.query.model_fields)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.method} {row.path}")
def test_what_stands_in_the_path_has_a_kind(row):
    assert set(row.pattern.groupindex) <= {*queries.InAddress.model_fields, "path"}


def test_the_endpoints_were_found(routes):
    known = {(row.method, row.path) for row in ROWS}
    assert len(known & routes.keys()) > 40


@pytest.mark.parametrize(
    ("model", "sent"),
    [
        (queries.NoQuery, {}),
        (queries.InAddress, {"model": "liver_tumor"}),
        (queries.InAddress, {"image": "case.1.2", "tag": "final", "number": "3"}),
        (queries.InAddress, {"session_id": UUID}),
        (queries.InAddress, {"version": "20250131-142500-000123"}),
        (queries.StatusQuery, {"check_if_running": "true"}),
        (queries.DatastoreQuery, {"output": "all"}),
        (queries.ImageQuery, IMAGE),
        (queries.CheckImageQuery, {**IMAGE, "check_sum": "SHA256:" + "0f" * 32}),
        (queries.AddImageQuery, IMAGE),
        (queries.AddImageQuery, {"image": ""}),
        (queries.AddImageQuery, {}),
        (queries.LabelQuery, LABEL),
        (queries.SaveLabelQuery, IMAGE),
        (queries.SaveLabelQuery, {**IMAGE, "tag": ""}),
        (queries.InferQuery, {"image": "1.2.840.1", "output": "image"}),
        (queries.InferQuery, {"image": "", "session_id": UUID}),
        (queries.InferQuery, {"image": "5: Abdomen/Pelvis", "session_id": UUID}),
        (queries.InferQuery, {}),
        (queries.CreateSessionQuery, {"uncompress": "true", "expiry": "3600"}),
        (queries.TrainQuery, {"run_sync": "false", "enqueue": "1"}),
        (queries.BatchQuery, {"images": "unlabeled", "run_sync": "true"}),
        (queries.DiffQuery, {"first": "1", "second": "2"}),
        (queries.EventsQuery, {"image": "a", "after": "5", "limit": "1000"}),
        (queries.ExportQuery, {"format": "onnx"}),
        (queries.LoginQuery, {"next": "/ohif/viewer?StudyInstanceUIDs=1.2.3"}),
        (queries.LoginQuery, {"next": ""}),
    ],
    ids=lambda value: None,
)
def test_what_clients_ask_passes(model, sent):
    assert checked(model, sent, "address").model_fields_set == set(sent)


def test_values_get_their_types():
    assert checked(queries.EventsQuery, {"after": "5"}).after == 5
    assert checked(queries.StatusQuery, {"all": "True"}).all is True


@pytest.mark.parametrize(
    ("model", "sent", "expected"),
    [
        (queries.NoQuery, {"a": "1"}, "the address must not hold a; nothing is expected there"),
        (queries.StatusQuery, {"al": "1"}, "the address must not hold al; did you mean all?"),
        (queries.StatusQuery, {"all": "maybe"}, "all = 'maybe' can't be used; expected true or false"),
        (queries.DatastoreQuery, {"output": "x"}, "output = 'x' can't be used; expected 'train', 'stats' or 'all'"),
        (queries.ImageQuery, {}, "image is missing"),
        (queries.LabelQuery, {"label": "a"}, "tag is missing"),
        (
            queries.CheckImageQuery,
            {**IMAGE, "check_sum": "x"},
            "check_sum = 'x' can't be used; expected a checksum such as 'SHA256:' and its hexadecimal digits",
        ),
        (
            queries.InferQuery,
            {"session_id": "../x"},
            "session_id = '../x' can't be used; expected the session_id that PUT /session/ answered with",
        ),
        (
            queries.InferQuery,
            {"image": "x" * 501, "session_id": UUID},
            f"image = '{'x' * 76}... can't be used; expected at most 500 characters",
        ),
        (
            queries.InferQuery,
            {"output": "dsa"},
            "output = 'dsa' can't be used; expected 'image', 'json', 'all' or 'dicom_seg'",
        ),
        (queries.CreateSessionQuery, {"expiry": "604801"}, "expiry = '604801' can't be used; expected at most 604800"),
        (queries.CreateSessionQuery, {"expiry": "-1"}, "expiry = '-1' can't be used; expected at least 0"),
        (
            queries.BatchQuery,
            {"images": "some"},
            "images = 'some' can't be used; expected 'all', 'labeled' or 'unlabeled'",
        ),
        (queries.DiffQuery, {"first": "0", "second": "1"}, "first = '0' can't be used; expected at least 1"),
        (
            queries.DiffQuery,
            {"first": "1", "second": str(2**31)},
            "second = '2147483648' can't be used; expected less than 2147483648",
        ),
        (queries.EventsQuery, {"limit": "1001"}, "limit = '1001' can't be used; expected at most 1000"),
        (queries.EventsQuery, {"after": "9" * 5000}, f"after = '{'9' * 76}... can't be used; expected a whole number"),
        (
            queries.ExportQuery,
            {"format": "exe"},
            "format = 'exe' can't be used; expected 'torchscript', 'onnx' or 'bundle'",
        ),
        (
            queries.LoginQuery,
            {"next": "//evil.example"},
            "next can't be used; expected a page of this server such as '/ohif/'",
        ),
        (
            queries.InAddress,
            {"model": "a b"},
            "model = 'a b' can't be used; expected a name of at most 80 letters, digits, '_', '.' or '-'",
        ),
    ],
    ids=lambda value: None,
)
def test_a_refusal_says_what_is_expected(model, sent, expected):
    assert refused(model, sent) == expected


@pytest.mark.parametrize(
    ("model", "sent"),
    [
        (queries.ImageQuery, {"image": "{}"}),
        (queries.RemoveImageQuery, {"id": "{}"}),
        (queries.LabelQuery, {"label": "{}", "tag": "final"}),
        (queries.SaveLabelQuery, {"image": "a", "tag": "{}"}),
        (queries.RemoveLabelQuery, {"id": "a", "tag": "{}"}),
        (queries.CheckLabelQuery, {"image": "{}", "tag": "final"}),
        (queries.AddImageQuery, {"image": "{}"}),
        (queries.InferQuery, {"image": "{}"}),
        (queries.HistoryQuery, {"tag": "{}"}),
        (queries.RefusedQuery, {"image": "{}"}),
        (queries.InAddress, {"image": "{}"}),
        (queries.InAddress, {"tag": "{}"}),
    ],
    ids=lambda value: None,
)
@pytest.mark.parametrize(
    "path", ["../../etc/passwd", "/etc/passwd", "..", ".hidden", "a/../a", "a\\b", "a\0b", "x" * 300]
)
def test_no_identifier_is_a_path(model, sent, path):
    wanted = {key: value.replace("{}", path) for key, value in sent.items()}
    assert f"{path[:80]!r} is not allowed; it must have 1 to 240 bytes" in refused(model, wanted)
