"""The description of a server says what answers, and how."""

import pytest
from fastapi import APIRouter, FastAPI, Form
from fastapi.responses import PlainTextResponse
from fastapi.testclient import TestClient

from lib.web.answers import install_answers
from lib.web.openapi import install_openapi


@pytest.fixture
def server():
    """A server with routes of its own before those of another, as ours has."""
    app = FastAPI(title="livers", version="7")

    def infer(model: str, planes: int, params: str = Form("{}")) -> dict[str, str]:
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

    ours = APIRouter()
    ours.post("/infer/{model}")(infer)
    ours.post("/train/", include_in_schema=False)(healthz)
    app.include_router(ours)
    app.router.routes.insert(0, app.router.routes.pop())
    app.post("/train/")(logs)
    return app


def described(app):
    with TestClient(app) as client:
        return client.get("/openapi.json").json()


def test_of_two_routes_the_first_is_described_under_the_name_that_it_has_at_the_other(server):
    install_openapi(server)
    infer = described(server)["paths"]["/infer/{model}"]["post"]
    assert [one["name"] for one in infer["parameters"]] == ["model", "planes"]
    assert infer["summary"] == "Run Inference"
    assert list(infer["requestBody"]["content"]) == ["application/x-www-form-urlencoded"]


def test_a_route_that_is_hidden_hides_what_it_stands_before(server):
    install_openapi(server)
    assert set(described(server)["paths"]) == {"/healthz", "/infer/{model}", "/logs/"}


def test_what_is_switched_off_is_left_out(server):
    install_openapi(server, off=lambda method, path: (method, path) == ("GET", "/logs/"))
    assert set(described(server)["paths"]) == {"/healthz", "/infer/{model}"}


def test_a_token_has_no_place_in_an_address(server):
    install_openapi(server)
    assert "parameters" not in described(server)["paths"]["/logs/"]["get"]


def test_errors_are_described_where_they_can_come(server):
    install_openapi(server, public=[("GET", "/healthz")])
    content = described(server)
    answers = content["paths"]["/infer/{model}"]["post"]["responses"]
    assert {"200", "400", "401", "403", "404", "422", "429", "503", "507"} <= set(answers)
    assert answers["404"] == {"$ref": "#/components/responses/404"}
    assert not {"401", "403"} & set(content["paths"]["/healthz"]["get"]["responses"])
    error = content["components"]["responses"]["422"]["content"]["application/json"]["schema"]
    assert error == {"$ref": "#/components/schemas/Error"}
    assert "HTTPValidationError" not in content["components"]["schemas"]


def test_each_answer_has_the_kind_that_is_described(server):
    install_openapi(server)
    paths = described(server)["paths"]
    kinds = paths["/infer/{model}"]["post"]["responses"]["200"]["content"]
    assert set(kinds) == {"application/json", "*/*", "multipart/form-data"}


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
