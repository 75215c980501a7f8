"""The login over HTTP, with the client that 3D Slicer uses and with a browser's forms."""

import json
import logging
import re

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from monailabel.client import MONAILabelClient
from monailabel.client.client import MONAILabelClientException

from lib.access.roles import Role
from lib.access.settings import AccessSettings
from lib.access.throttle import Pauses, Throttle
from lib.errors import UnavailableError
from lib.store.accounts import Accounts
from lib.store.ledger import Ledger
from lib.web.answers import install_answers
from lib.web.guard.callers import COOKIE
from lib.web.login_requests import install_login, warn_unless_guarded
from lib.web.logins import Logins
from tests.web.serving import serving

pytestmark = pytest.mark.usefixtures("cheap_hashes")
GOOD = "correct horse battery"
FORM = {"username": "ann", "password": GOOD, "grant_type": "password"}


@pytest.fixture
def accounts(tmp_path):
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    yield Accounts(ledger, 2, Throttle(Pauses(3)))
    ledger.close()


@pytest.fixture
def ann(accounts):
    return accounts.add("Ann", GOOD, Role.REVIEWER, by="root")


def app_with(accounts, **access):
    app = FastAPI()
    install_login(app, Logins(AccessSettings(**access), accounts), server="Livers & more", home="/ohif/")
    install_answers(app)
    return app


@pytest.fixture
def app(accounts):
    return app_with(accounts)


@pytest.fixture
def web(app):
    with TestClient(app, follow_redirects=False, raise_server_exceptions=False) as client:
        yield client


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def cookie_of(answer):
    """Name, value and attributes of the one that is set."""
    (header,) = answer.headers.get_list("set-cookie")
    first, *rest = header.split("; ")
    return *first.split("="), {part.lower() for part in rest}


# Clients


def test_where_nobody_must_log_in(web):
    assert web.get("/auth/").json() == {"enabled": False, "client_id": "", "realm": ""}
    answer = web.post("/auth/token", data=FORM).json()
    assert (answer["access_token"], answer["token_type"]) == (None, None)
    assert web.get("/auth/token/valid").json() == {
        "username": "", "email": None, "name": None, "roles": ["annotator", "reviewer", "admin"],
    }  # fmt: skip
    assert web.post("/auth/logout").json() == {"logged_out": False}
    assert web.get("/login").headers["location"] == "/ohif/"
    assert web.post("/login", data={"next": "/docs"}).headers["location"] == "/docs"


def test_a_token(web, ann):
    assert web.get("/auth/").json()["enabled"] is True
    answer = web.post("/auth/token", data=FORM)
    assert answer.headers["cache-control"] == "no-store"
    given = answer.json()
    token = given.pop("access_token")
    assert 7190 < given.pop("expires_in") <= 7200
    assert given == {"token_type": "bearer", "name": "Ann", "role": "reviewer"}
    for scheme in ("Bearer", "bearer", "BEARER"):
        valid = web.get("/auth/token/valid", headers={"Authorization": f"{scheme} {token}"})
        assert valid.json() == {"username": "Ann", "email": None, "name": "Ann", "roles": ["annotator", "reviewer"]}
    assert web.post("/auth/logout", headers=bearer(token)).json() == {"logged_out": True}
    assert web.post("/auth/logout", headers=bearer(token)).json() == {"logged_out": False}
    ended = web.get("/auth/token/valid", headers=bearer(token))
    assert (ended.status_code, ended.headers["www-authenticate"]) == (401, "Bearer")
    assert ended.json() == {"detail": "this login has ended, or never was one; log in again"}
    assert web.get("/auth/token/valid").status_code == 401


def test_wrong_passwords_and_pauses(web, ann, caplog):
    with caplog.at_level(logging.DEBUG):
        for form in (FORM | {"password": "wrong horse"}, FORM | {"username": "bea"}, FORM | {"username": "\0"}):
            answer = web.post("/auth/token", data=form)
            assert (answer.status_code, answer.json()) == (401, {"detail": "wrong user name or password"})
        for _ in range(4):
            answer = web.post("/auth/token", data=FORM | {"password": "wrong horse"})
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert answer.json() == {"detail": "too many failed logins; try again in 1 s"}
        assert web.post("/login", data={"name": "ann", "password": "wrong horse"}).headers["retry-after"] == "1"
    assert "horse" not in caplog.text
    assert "bea" not in caplog.text


@pytest.mark.parametrize(
    "form", [{"username": "ann"}, {"password": GOOD}, {}, {"username": "", "password": GOOD}], ids=str
)
def test_half_a_form(web, ann, form):
    answer = web.post("/auth/token", data=form)
    assert answer.status_code == 422
    assert GOOD not in answer.text


def test_other_grants(web, ann):
    answer = web.post("/auth/token", data=FORM | {"grant_type": "refresh_token"})
    assert (answer.status_code, answer.json()["detail"]) == (
        400, "grant_type = 'refresh_token' can't be used; send password",
    )  # fmt: skip


def test_the_python_client(app, ann, tmp_path):
    with serving(app) as port:
        client = MONAILabelClient(f"http://127.0.0.1:{port}", str(tmp_path), "anybody")
        assert client.auth_enabled()
        assert not client.auth_valid_token()
        with pytest.raises(MONAILabelClientException) as caught:
            client.auth_token("ann", "wrong horse")
        assert caught.value.status_code == 401
        client.update_auth(client.auth_token("ann", GOOD))
        assert client.auth_valid_token()


def test_the_python_client_where_nobody_must_log_in(app, tmp_path):
    with serving(app) as port:
        client = MONAILabelClient(f"http://127.0.0.1:{port}", str(tmp_path))
        assert not client.auth_enabled()
        client.update_auth(client.auth_token("ann", GOOD))
        assert client.auth_valid_token()


def test_names_in_the_description(app):
    described = app.openapi()
    assert {"LoginState", "Token", "ValidToken", "LoggedOut"} <= set(described["components"]["schemas"])
    for path in ("/auth/", "/auth/token", "/auth/token/valid", "/auth/logout", "/login", "/logout"):
        for operation in described["paths"][path].values():
            assert operation["description"]
    assert "GOOD" not in json.dumps(described)


# Browsers


def test_the_page(web, ann):
    answer = web.get("/login", params={"next": "/models"})
    assert answer.status_code == 200
    assert "Livers &amp; more" in answer.text
    assert 'name="next" value="/models"' in answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert 'value="/ohif/"' in web.get("/login", params={"next": "//elsewhere.example"}).text


def test_a_browser_gets_a_cookie(web, ann):
    answer = web.post("/login", data={"name": "ann", "password": GOOD, "next": "/ohif/viewer?a=1"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/ohif/viewer?a=1")
    name, token, attributes = cookie_of(answer)
    assert name == COOKIE
    (age,) = [int(one.removeprefix("max-age=")) for one in attributes if one.startswith("max-age=")]
    assert 7190 < age <= 7200
    assert attributes - {f"max-age={age}"} == {"httponly", "samesite=lax", "path=/"}
    assert token not in answer.headers["location"] + answer.text
    assert web.get("/auth/token/valid").json()["username"] == "Ann"  # by the cookie
    left = web.post("/logout")
    assert (left.status_code, left.headers["location"]) == (303, "/login")
    assert cookie_of(left)[1] == '""'
    assert "max-age=0" in cookie_of(left)[2]
    assert web.get("/auth/token/valid", headers=bearer(token)).status_code == 401
    assert web.post("/logout").status_code == 303


def test_by_https_the_cookie_is_never_sent_in_clear(app, ann):
    with TestClient(app, "https://labels.example", follow_redirects=False) as web:
        for path in ("/login", "/logout"):
            assert "secure" in cookie_of(web.post(path, data={"name": "ann", "password": GOOD}))[2]


@pytest.mark.parametrize(
    "path", ["//elsewhere.example", "https://elsewhere.example", "/\\elsewhere.example", "/a\r\nX: y"]
)
def test_nobody_is_sent_elsewhere(web, ann, path):
    answer = web.post("/login", data={"name": "ann", "password": GOOD, "next": path})
    assert answer.headers["location"] == "/ohif/"
    assert "x" not in answer.headers


def test_a_wrong_password_in_a_browser(web, ann):
    answer = web.post("/login", data={"name": '"><b>ann', "password": "wrong horse", "next": "/models"})
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert "set-cookie" not in answer.headers
    assert "Wrong user name or password." in answer.text
    assert 'value="/models"' in answer.text
    assert "<b>" not in answer.text
    assert "wrong horse" not in answer.text
    assert web.post("/login").status_code == 401


def test_too_many_tries_in_a_browser(web, ann):
    for _ in range(4):
        assert web.post("/login", data={"name": "ann", "password": "wrong horse"}).status_code == 401
    answer = web.post("/login", data={"name": "ann", "password": GOOD})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert "Too many failed logins; try again in 1 s." in answer.text


def test_a_ledger_that_is_away(web, ann, accounts, monkeypatch):
    def fail(*_):
        raise UnavailableError("the ledger can't be reached")

    assert web.get("/auth/").json()["enabled"] is True
    monkeypatch.setattr(accounts, "login", fail)
    assert web.post("/auth/token", data=FORM).status_code == 503
    answer = web.post("/login", data={"name": "ann", "password": GOOD})
    assert answer.status_code == 503
    assert re.search(r"The ledger can.+t be reached\.", answer.text)


def test_the_page_to_log_out(web, ann):
    answer = web.get("/logout")
    assert answer.status_code == 200
    assert '<form method="post" action="/logout">' in answer.text
    assert "set-cookie" not in answer.headers


def test_a_server_without_its_guard_says_so(app, caplog):
    app.state.guarded = True
    warn_unless_guarded(app)
    assert caplog.messages == []
    app.state.guarded = False
    warn_unless_guarded(app)
    assert caplog.messages == [
        "this server was not started by scripts/serve: nobody is asked to log in, whatever access.login says, and "
        "requests are not checked before MONAI Label sees them; whoever reaches it can read and change everything"
    ]
