import json
import logging
import threading
import time

import pytest

from lib.access import provider_client
from lib.access.provider_keys import FRESH_S, PAUSE_S, USABLE_S, ProviderKeys
from lib.errors import SettingsError, UnavailableError
from tests.access.identity_provider import IdentityProvider, SigningKey
from tests.clock import Clock
from tests.dicomweb.certificates import self_signed

OLD, NEW, EC = SigningKey("old"), SigningKey("new"), SigningKey("ec", "ES256")


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def sso(tmp_path):
    with IdentityProvider(tmp_path, [OLD]) as provider:
        yield provider


@pytest.fixture
def keys(sso, clock):
    return ProviderKeys(sso.issuer, sso.certificates, clock)


def is_found(keys, key):
    found = keys.find(key.key_id, key.algorithm)
    return found is not None and found.public_numbers() == key.private.public_key().public_numbers()


def test_keys_are_kept(sso, keys, clock):
    for _ in range(5):
        assert is_found(keys, OLD)
        clock.now += FRESH_S / 6
    assert sso.asked == {sso.discovery: 1, sso.certs: 1}
    clock.now += FRESH_S
    assert is_found(keys, OLD)
    assert sso.asked[sso.certs] == 2


def test_a_new_key_is_fetched_at_once_and_an_old_one_goes(sso, keys, clock):
    assert is_found(keys, OLD)
    sso.keys = [NEW, EC]
    clock.now += PAUSE_S
    assert is_found(keys, NEW)
    assert is_found(keys, EC)
    assert keys.find("old", "RS256") is None


def test_a_key_that_is_withdrawn_ends_within_minutes(sso, keys, clock):
    assert is_found(keys, OLD)
    sso.keys = [NEW]
    clock.now += FRESH_S
    assert keys.find("old", "RS256") is None


def test_invented_keys_do_not_flood_the_provider(sso, keys, clock):
    assert is_found(keys, OLD)
    for number in range(50):
        assert keys.find(f"invented {number}", "RS256") is None
    assert sso.asked[sso.certs] == 1
    clock.now += PAUSE_S
    for number in range(50):
        assert keys.find(f"invented {number}", "RS256") is None
    assert sso.asked[sso.certs] == 2


def test_without_an_id_the_only_key_of_its_kind(sso, keys, clock):
    sso.keys = [OLD, EC]
    assert keys.find(None, "RS256") is not None
    assert keys.find(None, "ES256") is not None
    sso.keys = [OLD, NEW, EC]
    clock.now += FRESH_S
    assert keys.find(None, "RS256") is None
    assert keys.find(7, "RS256") is None


def test_a_provider_that_is_away_for_a_while(sso, keys, clock, caplog):
    assert is_found(keys, OLD)
    sso.answers[sso.discovery] = (503, {}, b"")
    clock.now += FRESH_S
    with caplog.at_level(logging.WARNING):
        assert is_found(keys, OLD)
        assert is_found(keys, OLD)
    path = sso.discovery
    assert caplog.messages == [f"the identity provider at {sso.address[8:]} gave no keys: it answers 503 for {path}"]
    clock.now += USABLE_S - FRESH_S
    with pytest.raises(UnavailableError) as caught:
        keys.find("old", "RS256")
    assert str(caught.value) == (
        f"the identity provider at {sso.address[8:]} can't be asked for its keys; try again in 10 s"
    )
    del sso.answers[sso.discovery]
    clock.now += PAUSE_S
    assert is_found(keys, OLD)


def test_a_provider_that_was_never_there(sso, clock):
    keys = ProviderKeys("https://127.0.0.1:9/realms/x", sso.certificates, clock)
    for _ in range(2):
        with pytest.raises(UnavailableError, match=r"^the identity provider at 127.0.0.1:9 can't be asked"):
            keys.find("old", "RS256")


@pytest.mark.parametrize(
    ("document", "answer", "reason"),
    [
        ("discovery", (302, {"Location": "https://127.0.0.1/"}, b""), "it answers 302 for {path}"),
        ("discovery", (200, {}, b"<html>"), "its answer for {path} is no JSON"),
        ("discovery", (200, {}, b"[" * 100_000), "its answer for {path} is no JSON"),
        ("discovery", (200, {}, b"[]"), "its answer for {path} is no JSON object"),
        ("discovery", (200, {}, b"{}"), "it calls itself by another address than access.oidc.issuer"),
        ("discovery", (200, {}, b" " * ((1 << 20) + 1)), "its answer for {path} is too large or too slow"),
        ("certs", (404, {}, b""), "it answers 404 for {path}"),
    ],
)
def test_answers_that_are_none(sso, keys, caplog, document, answer, reason):
    path = getattr(sso, document)
    sso.answers[path] = answer
    with caplog.at_level(logging.WARNING), pytest.raises(UnavailableError):
        keys.find("old", "RS256")
    assert [message.partition(" gave no keys: ")[2] for message in caplog.messages] == [reason.format(path=path)]


@pytest.mark.parametrize("where", ["http://127.0.0.1/certs", None, 7, "file:///etc/passwd"])
def test_keys_come_by_https_only(sso, keys, caplog, where):
    sso.answers[sso.discovery] = (200, {}, json.dumps({"issuer": sso.issuer, "jwks_uri": where}).encode())
    with caplog.at_level(logging.WARNING), pytest.raises(UnavailableError):
        keys.find("old", "RS256")
    assert caplog.messages[0].endswith("gave no keys: its jwks_uri is no https address")


@pytest.mark.parametrize(
    "listed", [None, 7, {}, [], [None, 7, "x", []], [{}], [{"kty": "RSA"}], [{"kty": "oct", "k": "x"}]]
)
def test_lists_without_usable_keys(sso, keys, listed):
    sso.answers[sso.certs] = (200, {}, json.dumps({"keys": listed}).encode())
    assert keys.find("old", "RS256") is None


@pytest.mark.parametrize(
    "change", [{"use": "enc"}, {"alg": "RSA-OAEP"}, {"alg": "RS512"}, {"n": "AQAB"}, {"n": 7}, {"kid": 7}, {"e": ""}]
)
def test_keys_of_another_kind(sso, keys, change):
    sso.answers[sso.certs] = (200, {}, json.dumps({"keys": [OLD.listed | change, NEW.listed]}).encode())
    assert keys.find("old", "RS256") is None
    assert is_found(keys, NEW)


def test_certificates_are_checked(sso, tmp_path, clock, caplog):
    (tmp_path / "other").mkdir()
    other, _ = self_signed(tmp_path / "other")
    for certificates in (other, None):
        caplog.clear()
        with caplog.at_level(logging.WARNING), pytest.raises(UnavailableError):
            ProviderKeys(sso.issuer, certificates, clock).find("old", "RS256")
        assert "CERTIFICATE_VERIFY_FAILED" in caplog.text
    assert not sso.asked


def test_certificates_that_are_none(tmp_path):
    path = tmp_path / "ca.pem"
    for content in (None, "no certificate"):
        if content:
            path.write_text(content)
        with pytest.raises(SettingsError) as caught:
            ProviderKeys("https://127.0.0.1", path)
        assert str(caught.value) == (
            f"access.oidc.certificates = '{path}' holds no certificates; give a PEM file with some"
        )


def test_many_ask_and_one_fetches(sso, keys):
    threads = [threading.Thread(target=keys.find, args=("old", "RS256")) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sso.asked == {sso.discovery: 1, sso.certs: 1}


def test_while_one_waits_for_the_provider_others_go_on(sso, keys, clock):
    assert is_found(keys, OLD)
    clock.now += FRESH_S
    sso.seconds_a_byte = 0.02
    waiting = threading.Thread(target=keys.find, args=("old", "RS256"))
    waiting.start()
    while sso.asked[sso.discovery] < 2:
        time.sleep(0.01)
    assert is_found(keys, OLD)
    assert waiting.is_alive()
    sso.seconds_a_byte = 0.0
    waiting.join()


def test_a_provider_that_dawdles(sso, keys, monkeypatch, caplog):
    """Each byte comes in time, and the whole would take a minute."""
    monkeypatch.setattr(provider_client, "_TIMEOUT_S", 0.5)
    sso.answers[sso.discovery] = (200, {}, b" " * 600)
    sso.seconds_a_byte = 0.1
    with caplog.at_level(logging.WARNING), pytest.raises(UnavailableError):
        keys.find("old", "RS256")
    assert caplog.messages[0].endswith("is too large or too slow")
