"""Every error says whose fault it is."""

import logging
import re
from typing import Annotated, Literal

import pytest
import requests
from fastapi import FastAPI, HTTPException, Query
from fastapi.testclient import TestClient
from monailabel.interfaces.exception import (
    ImageNotFoundException,
    LabelNotFoundException,
    MONAILabelError,
    MONAILabelException,
)
from pydantic import BaseModel

from lib.errors import (
    BadInputError,
    ForbiddenError,
    GoneError,
    LiverLoopError,
    LoginError,
    ModelError,
    NotFoundError,
    OverloadedError,
    SettingsError,
    StorageError,
    TooManyLoginsError,
)
from lib.web.answers import install_answers, reason_of, reason_of_unfit, status_of
from lib.web.request_ids import NONE, request_id

CASES = [
    (NotFoundError("no"), 404),
    (BadInputError("no"), 400),
    (StorageError("no"), 507),
    (ModelError("no"), 503),
    (SettingsError("no"), 500),
    (OverloadedError("no", 7), 503),
    (TooManyLoginsError("no", 7), 429),
    (LoginError("no"), 401),
    (ForbiddenError("no"), 403),
    (GoneError("no"), 499),
    (LiverLoopError("no"), 500),
    (ImageNotFoundException("no"), 404),
    (LabelNotFoundException("no"), 404),
    (MONAILabelException(MONAILabelError.INVALID_INPUT, "no"), 400),
    (MONAILabelException(MONAILabelError.INFERENCE_ERROR, "no"), 500),
]


@pytest.mark.parametrize(("error", "status"), CASES, ids=lambda value: getattr(type(value), "__name__", value))
def test_status_and_reason(error, status, caplog):
    app = FastAPI()

    @app.get("/fail")
    def fail():
        raise error

    install_answers(app)
    with caplog.at_level(logging.WARNING), TestClient(app) as client:
        answer = client.get("/fail")
    assert status_of(error) == status
    assert answer.headers.get("Retry-After") == ("7" if isinstance(error, OverloadedError) else None)
    assert (answer.status_code, answer.json()) == (status, {"detail": "no"})
    ((level, words),) = [
        (record.levelname, record.getMessage()) for record in caplog.records if record.name == "lib.web.answers"
    ]
    if status >= 500 and isinstance(error, LiverLoopError):  # of the server, in our words
        assert (level, words) == ("ERROR", "GET /fail no")
    else:  # of the request, whose words the client has
        kind = type(error).__name__
        what = "failed" if status >= 500 else "refused"
        assert level == ("ERROR" if status >= 500 else "WARNING")
        assert re.fullmatch(rf"GET /fail {what}: {kind} \(\w+\.py:\d+ \w+\)", words), words


@pytest.mark.parametrize("given", [NONE, "edge-7"])
def test_what_nobody_foresaw_is_told_by_an_id_alone(given, caplog):
    app = FastAPI()

    @app.get("/fail/{patient}")
    async def fail(patient):
        request_id.set(given)
        raise ZeroDivisionError(patient)

    install_answers(app)
    with caplog.at_level(logging.WARNING), TestClient(app, raise_server_exceptions=False) as client:
        answer = client.get("/fail/Doe")
    assert answer.status_code == 500
    number = answer.json()["detail"].removeprefix("internal error; request ID ")
    assert answer.json() == {"detail": f"internal error; request ID {number}"}
    assert answer.headers["content-type"] == "application/json"
    assert number == given if given != NONE else re.fullmatch("[0-9a-f]{16}", number)
    (record,) = [record for record in caplog.records if record.name == "lib.web.answers"]
    assert record.getMessage() == "GET /fail/{patient} failed"
    assert record.exc_info[1].is_in_log


def test_a_stack_that_was_built_before_is_built_again():
    app = FastAPI()

    @app.get("/fail")
    def fail():
        raise BadInputError("no")

    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.get("/fail").status_code == 500
        install_answers(app)
        assert client.get("/fail").json() == {"detail": "no"}


def test_what_is_not_ours_is_left_alone():
    app = FastAPI()

    @app.get("/gone")
    def gone():
        raise HTTPException(410, "moved")

    install_answers(app)
    with TestClient(app) as client:
        assert (client.get("/gone").status_code, client.get("/gone").json()) == (410, {"detail": "moved"})
    assert status_of(ZeroDivisionError()) == 500


def test_a_pacs_that_fails_is_named_without_its_address():
    response = requests.Response()
    response.status_code, response.reason = 400, "Bad Request"
    refused = requests.HTTPError("400 for url: http://me:secret@pacs/dicom-web", response=response)
    assert status_of(refused) == 502
    assert reason_of(refused) == (
        "the PACS could not deliver the images (400 Bad Request); ask its administrator, or try again"
    )
    assert "(no answer)" in reason_of(requests.ConnectionError("http://me:secret@pacs"))


class Login(BaseModel, extra="forbid"):
    name: str
    password: int


@pytest.fixture
def checking():
    """A client of a server that checks what it is sent."""
    app = FastAPI()
    install_answers(app)

    @app.post("/check/{number}")
    def check(
        number: int, body: Login, kind: Literal["a", "b"] = "a", limit: Annotated[int, Query(ge=1, le=9)] = 1
    ) -> None: ...

    with TestClient(app) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "content", "reason"),
    [
        ("/check/x", '{"name": "a", "password": 1}',
         "path: 'number': Input should be a valid integer, unable to parse string as an integer"),
        ("/check/1?limit=0&kind=c", '{"name": "a", "password": 1}',
         "query: 'kind': Input should be 'a' or 'b'; query: 'limit': Input should be greater than or equal to 1"),
        ("/check/1", '{"name": "a", "password": "secret"}',
         "body: 'password': Input should be a valid integer, unable to parse string as an integer"),
        ("/check/1", '{"name": 3}', "body: 'name': Input should be a valid string; body: 'password': Field required"),
        ("/check/1", '{"name": "a", "password": 1, "x\\n": 2}', "body: 'x\\n': Extra inputs are not permitted"),
        ("/check/1", "[1]", "body: Input should be a valid dictionary or object to extract fields from"),
        ("/check/1", "{secret", "body: not valid JSON"),
        ("/check/1", '{"name": "a", "password": NaN}', "body: 'password': Input should be a finite number"),
        ("/check/1", None, "body: Field required"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_as_text_without_its_value(checking, path, content, reason):
    answer = checking.post(path, content=content, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()) == (422, {"detail": reason})


def test_a_request_full_of_mistakes_has_a_short_answer():
    errors = [{"loc": ("body", "x" * 1000, number), "msg": "wrong", "type": "extra"} for number in range(1000)]
    reason = reason_of_unfit(errors)
    assert reason.endswith("; and 995 more")
    assert len(reason) < 600
