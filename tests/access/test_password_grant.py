import base64
import logging
import threading

import pytest

from lib.access import provider_client
from lib.access.password_grant import PasswordGrant
from lib.access.provider_client import ProviderClient
from lib.errors import TooManyLoginsError, UnavailableError
from tests.access.identity_provider import IdentityProvider, SigningKey
from tests.clock import Clock

KEY = SigningKey("key", "ES256")


@pytest.fixture
def sso(tmp_path):
    with IdentityProvider(tmp_path, [KEY]) as provider:
        provider.users["ann", "secret words"] = {}
        yield provider


def grant_of(sso, secret="", clock=None):
    return PasswordGrant(ProviderClient(sso.issuer, sso.certificates), "liverloop app", secret, clock or Clock())


def refusal(grant):
    with pytest.raises(UnavailableError) as caught:
        grant.token("ann", "secret words")
    assert caught.value.__cause__ is None
    assert "secret" not in str(caught.value)
    return str(caught.value)


def test_a_token_for_a_password(sso):
    grant = grant_of(sso)
    assert grant.token("ann", "secret words").count(".") == 2
    assert grant.token("ann", "wrong") is None
    assert grant.token("Änn & co=", "ö&=+ %") is None
    assert sso.forms[0] == {
        "grant_type": "password", "username": "ann", "password": "secret words", "client_id": "liverloop app",
    }  # fmt: skip
    assert (sso.forms[2]["username"], sso.forms[2]["password"]) == ("Änn & co=", "ö&=+ %")
    assert sso.logins == [None] * 3
    assert sso.asked == {sso.discovery: 1, sso.token_path: 3}


def test_a_secret_of_this_server_is_a_login_of_its_own(sso):
    assert grant_of(sso, "a:ö b").token("ann", "secret words")
    assert "client_id" not in sso.forms[0]
    login = base64.b64decode(sso.logins[0].removeprefix("Basic ")).decode()
    assert login == "liverloop+app:a%3A%C3%B6+b"


def test_its_address_is_looked_up_again_after_a_while(sso):
    clock = Clock()
    grant = grant_of(sso, clock=clock)
    for _ in range(3):
        grant.token("ann", "secret words")
        clock.now += 250
    grant.token("ann", "secret words")
    assert sso.asked[sso.discovery] == 2


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (401, b'{"error": "invalid_client"}', "HTTP 401, invalid_client"),
        (400, b'{"error": "unauthorized_client"}', "HTTP 400, unauthorized_client"),
        (400, b'{"error": "secret words"}', "HTTP 400, no token"),
        (200, b"{}", "HTTP 200, no token"),
        (200, b'{"access_token": "x"}', "HTTP 200, no token"),
        (200, b'{"access_token": ["x"], "token_type": "bearer"}', "HTTP 200, no token"),
        (200, b"no JSON", "HTTP 200, no token"),
        (500, b"", "HTTP 500, no token"),
    ],
    ids=str,
)
def test_a_provider_that_refuses_this_server(sso, caplog, status, body, why):
    sso.answers[sso.token_path] = (status, {}, body)
    host = sso.address.removeprefix("https://")
    assert refusal(grant_of(sso)) == (
        f"the identity provider at {host} refuses this server ({why}); its administrator can tell whether "
        "access.oidc.client_id may log in users by password"
    )
    assert "secret" not in caplog.text


def test_passwords_go_nowhere_else(sso):
    sso.answers[sso.token_path] = (307, {"Location": sso.address + "/elsewhere"}, b"")
    refusal(grant_of(sso))
    assert sso.asked["/elsewhere"] == 0


def test_passwords_go_by_https_only(sso, caplog):
    discovery = f'{{"issuer": "{sso.issuer}", "token_endpoint": "http://127.0.0.1/token"}}'
    sso.answers[sso.discovery] = (200, {}, discovery.encode())
    assert refusal(grant_of(sso)).endswith("can't be asked; try again later")
    assert caplog.messages[0].endswith("can't log in users: its token_endpoint is no https address")
    assert not sso.forms


def test_a_provider_that_is_away_or_dawdles(sso, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(provider_client, "_TIMEOUT_S", 0.3)
    grant = grant_of(sso)
    sso.answers[sso.token_path] = (200, {}, b" " * 100)
    sso.seconds_a_byte = 0.02
    assert refusal(grant).endswith("can't be asked; try again later")
    sso.seconds_a_byte = 0
    del sso.answers[sso.token_path]
    assert grant.token("ann", "secret words")
    (tmp_path / "other").mkdir()
    with IdentityProvider(tmp_path / "other", [KEY]) as gone:
        lost = grant_of(gone)
    with caplog.at_level(logging.WARNING):
        refusal(lost)


def test_so_many_at_once(sso, monkeypatch):
    grant = grant_of(sso)
    monkeypatch.setattr(grant._turns, "wait_s", 0.01)
    waiting, go_on = threading.Barrier(5), threading.Event()

    def wait(*_):
        waiting.wait(30)
        assert go_on.wait(30)

    monkeypatch.setattr(grant, "_token", wait)
    threads = [threading.Thread(target=grant.token, args=("ann", "x"), daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    waiting.wait(30)
    with pytest.raises(TooManyLoginsError, match=r"^too many people log in at this moment; try again in 5 s$"):
        grant.token("ann", "x")
    go_on.set()
    for thread in threads:
        thread.join(30)
