"""The description of a server says what answers, to whom, and how."""

import pytest
from fastapi import APIRouter, FastAPI, Form, UploadFile
from fastapi.responses import PlainTextResponse
from fastapi.testclient import TestClient
from pydantic import BaseModel, Field

from lib.access.roles import Role
from lib.uploads import Kind
from lib.web.answers import install_answers
from lib.web.guard import rows
from lib.web.guard.rows import Json, Off, Passed, Row
from lib.web.openapi import install_openapi


class NoQuery(BaseModel, extra="forbid"):
    pass


class InferQuery(BaseModel, extra="forbid"):
    planes: int = Field(ge=1)


class Choice(BaseModel, extra="forbid"):
    device: str = "cpu"


class Fields(BaseModel, extra="forbid"):
    params: str = Field(default="{}", max_length=9)


class Params(BaseModel, extra="forbid"):
    choice: Choice | None = None


TABLE = (
    Row("GET", "/healthz", None, NoQuery),
    Off("GET", "/logs/", "read it on the server"),
    Row(
        "POST",
        "/infer/{model}",
        Role.ANNOTATOR,
        InferQuery,
        rows.Form(Fields, {"file": frozenset({Kind.NIFTI}), "label": frozenset({Kind.NRRD})}, most_files=2),
    ),
    Row("PUT", "/session/", Role.ANNOTATOR, NoQuery, rows.Form(NoQuery, {"files": frozenset()}, most_files=9)),
    Row("POST", "/train/{model}", Role.ADMIN, NoQuery, Json(Params)),
    Row("POST", "/login", None, NoQuery, rows.Form(Fields)),
    Row("POST", "/proxy/{path:path}", Role.ANNOTATOR, None, Passed()),
)


@pytest.fixture
def server():
    """A server with routes of its own before those of another, as ours has."""
    app = FastAPI(title="livers", version="7")

    def infer(model: str, planes: int, params: str = Form("{}"), file: UploadFile | None = None) -> dict[str, str]:
        return {}

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        """Whether it lives."""
        return {}

    @app.post("/infer/{model}", summary="Run Inference", responses={404: {"description": "other words"}})
    def other_infer(model: str, wsi: bool, token: str = "") -> dict[str, str]:
        return {}

    @app.get("/logs/", response_class=PlainTextResponse)
    def logs(token: str = "") -> str:
        return ""

    @app.put("/session/")
    def add_session(files: list[UploadFile], token: str = "") -> None: ...

    @app.post("/train/{model}")
    def train(model: str, params: dict | None = None) -> None:
        """Train."""

    @app.post("/login")
    def login(params: str = Form()) -> None: ...

    @app.post("/proxy/{path:path}")
    def proxy(path: str, token: str = "") -> None: ...

    ours = APIRouter()
    ours.post("/infer/{model}")(infer)
    ours.post("/reload", include_in_schema=False)(healthz)
    app.include_router(ours)
    app.router.routes.insert(0, app.router.routes.pop())
    app.post("/reload")(logs)
    return app


def described(app):
    with TestClient(app) as client:
        return client.get("/openapi.json").json()


@pytest.fixture
def plain(server):
    """The description of a server that lets everything through."""
    install_openapi(server)
    return described(server)


@pytest.fixture
def guarded(server):
    """The description of a server behind a table."""
    install_openapi(server, TABLE)
    return described(server)


def test_of_two_routes_the_first_is_described_under_the_name_that_it_has_at_the_other(plain):
    infer = plain["paths"]["/infer/{model}"]["post"]
    assert [one["name"] for one in infer["parameters"]] == ["model", "planes"]
    assert infer["summary"] == "Run Inference"


def test_a_route_that_is_hidden_hides_what_it_stands_before(plain):
    assert set(plain["paths"]) == {
        "/healthz", "/infer/{model}", "/logs/", "/session/", "/train/{model}", "/login", "/proxy/{path}",
    }  # fmt: skip


def test_a_token_has_no_place_in_an_address(plain):
    assert "parameters" not in plain["paths"]["/logs/"]["get"]


def test_errors_are_described_in_one_way(plain):
    answers = plain["paths"]["/infer/{model}"]["post"]["responses"]
    assert {"200", "400", "404", "422", "429", "503", "507"} <= set(answers)
    assert answers["404"] == {"$ref": "#/components/responses/404"}
    error = plain["components"]["responses"]["422"]["content"]["application/json"]["schema"]
    assert error == {"$ref": "#/components/schemas/Error"}
    assert "HTTPValidationError" not in plain["components"]["schemas"]


def test_answers_of_a_format_of_their_own_are_described(plain):
    kinds = plain["paths"]["/infer/{model}"]["post"]["responses"]["200"]["content"]
    assert set(kinds) == {"application/json", "*/*", "multipart/form-data"}


def test_without_a_table_nobody_logs_in(plain):
    assert "securitySchemes" not in plain["components"]
    assert "401" not in plain["paths"]["/train/{model}"]["post"]["responses"]


def test_what_no_row_lets_through_is_left_out(guarded):
    assert set(guarded["paths"]) == {"/healthz", "/infer/{model}", "/session/", "/train/{model}", "/login"}


def test_who_may_is_described(guarded):
    healthz, train = guarded["paths"]["/healthz"]["get"], guarded["paths"]["/train/{model}"]["post"]
    assert healthz["security"] == []
    assert not {"401", "403"} & set(healthz["responses"])
    assert train["security"] == [{"token": []}, {"cookie": []}]
    assert {"401", "403"} <= set(train["responses"])
    assert train["description"] == "Train.\n\nNeeds the role admin or a higher one, where people log in."
    assert set(guarded["components"]["securitySchemes"]) == {"token", "cookie"}


def test_what_a_request_may_carry_is_described_by_its_row(guarded):
    infer = guarded["paths"]["/infer/{model}"]["post"]
    assert [(one["name"], one["in"], one["required"]) for one in infer["parameters"]] == [
        ("model", "path", True), ("planes", "query", True),
    ]  # fmt: skip
    assert infer["parameters"][1]["schema"]["minimum"] == 1
    form = infer["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(form["properties"]) == {"params", "file", "label"}
    assert form["properties"]["params"]["maxLength"] == 9
    assert form["properties"]["file"] == {"type": "string", "format": "binary"}
    assert form["additionalProperties"] is False
    assert "required" not in form


def test_files_of_a_session_are_several_and_needed(guarded):
    body = guarded["paths"]["/session/"]["put"]["requestBody"]
    form = body["content"]["multipart/form-data"]["schema"]
    assert form["properties"]["files"] == {
        "type": "array", "items": {"type": "string", "format": "binary"}, "maxItems": 9,
    }  # fmt: skip
    assert (form["required"], body["required"]) == (["files"], True)


def test_a_json_body_and_what_it_refers_to_are_described(guarded):
    body = guarded["paths"]["/train/{model}"]["post"]["requestBody"]
    assert body["required"] is False
    choice = body["content"]["application/json"]["schema"]["properties"]["choice"]
    assert choice["anyOf"][0] == {"$ref": "#/components/schemas/Choice"}
    assert set(guarded["components"]["schemas"]) == {"Choice", "Error"}  # and nothing that is not referred to


def test_a_form_without_files_is_a_short_one(guarded):
    assert list(guarded["paths"]["/login"]["post"]["requestBody"]["content"]) == ["application/x-www-form-urlencoded"]


def test_the_login_page_answers_with_itself(guarded):
    login = guarded["paths"]["/login"]["post"]
    assert login["security"] == []
    assert set(login["responses"]["401"]["content"]) == {"application/json", "text/html"}


def test_routes_that_are_added_before_anybody_asks_are_described(server):
    install_openapi(server)
    server.get("/late")(lambda: None)
    assert "/late" in described(server)["paths"]


def test_an_error_is_as_it_is_described(server):
    install_openapi(server)
    install_answers(server)
    with TestClient(server) as client:
        answer = client.post("/infer/liver_tumor")
    assert (answer.status_code, answer.json()) == (422, {"detail": "query: 'planes': Field required"})
