import threading
from types import SimpleNamespace

import pytest

from lib.access.roles import Role
from lib.access.settings import AccessSettings
from lib.access.throttle import Pauses, Throttle
from lib.access.tokens import is_token
from lib.errors import ForbiddenError, LoginError, SettingsError, StorageError, TooManyLoginsError, UnavailableError
from lib.store.accounts import Accounts
from lib.store.events import history
from lib.store.ledger import Ledger
from lib.web import logins as logins_module
from lib.web.logins import SECRET, Logins
from tests.access.identity_provider import IdentityProvider, SigningKey
from tests.clock import Clock

KEY = SigningKey("key", "ES256")
GOOD, HERE = "correct horse battery", "10.0.0.1"
WRONG = "wrong user name or password"
ENDED = "this login has ended, or never was one; log in again"


pytestmark = pytest.mark.usefixtures("cheap_hashes")


@pytest.fixture
def clock():
    return Clock(1_800_000_000.0)


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    yield ledger
    ledger.close()


@pytest.fixture
def accounts(ledger, clock):
    return Accounts(ledger, 2, Throttle(Pauses(2), clock=clock), clock)


@pytest.fixture
def sso(tmp_path):
    with IdentityProvider(tmp_path, [KEY]) as provider:
        yield provider


def oidc(sso, **more):
    roles = {"annotator": ["liverloop-annotators"], "admin": ["it"]}
    return {"issuer": sso.issuer, "audience": "liverloop", "roles": roles, "certificates": str(sso.certificates)} | more


def with_provider(sso, accounts, clock, hours=12, **more):
    access = AccessSettings.model_validate({"oidc": oidc(sso, client_id="labels", **more), "token_hours": hours})
    return Logins(access, accounts, {SECRET: "of the server"}, clock)


def happened(ledger):
    with ledger.reading() as connection:
        return [(one.kind, one.actor, one.detail) for one in reversed(history(connection))]


def refused(logins, error=LoginError, name="bea", password=GOOD):
    with pytest.raises(error) as caught:
        logins.login(name, password, HERE)
    return str(caught.value)


@pytest.mark.parametrize(
    ("login", "before", "after"), [("auto", False, True), ("required", True, True), ("off", False, False)]
)
def test_whether_it_is_needed(accounts, monkeypatch, login, before, after):
    monkeypatch.setattr(logins_module, "_ASKED_EVERY_S", 0)
    logins = Logins(AccessSettings(login=login), accounts)
    assert (logins.needed(), logins.possible()) == (before, False)
    accounts.add("ann", GOOD, Role.ADMIN, by="root")
    assert (logins.needed(), logins.possible()) == (after, True)
    accounts.disable("ann", by="root")
    assert (logins.needed(), logins.possible()) == (after, False)


def test_the_ledger_is_asked_now_and_then_and_at_the_end_never(accounts, monkeypatch):
    asked, answers = [], iter([True, True, False])
    monkeypatch.setattr(accounts, "is_empty", lambda: asked.append(1) or next(answers))
    logins = Logins(AccessSettings(), accounts)
    monkeypatch.setattr(logins_module, "_ASKED_EVERY_S", 3600)
    assert [logins.needed() for _ in range(5)] == [False] * 5
    assert len(asked) == 1
    monkeypatch.setattr(logins_module, "_ASKED_EVERY_S", 0)
    assert [logins.needed() for _ in range(4)] == [False, True, True, True]
    assert len(asked) == 3


def test_a_ledger_that_can_not_be_asked_lets_nobody_in(accounts, monkeypatch):
    def fail():
        raise UnavailableError("the ledger is away")

    monkeypatch.setattr(accounts, "is_empty", fail)
    logins = Logins(AccessSettings(), accounts)
    for _ in range(2):
        with pytest.raises(StorageError, match=r"^the ledger is away$"):
            logins.needed()


def test_without_a_ledger():
    logins = Logins(AccessSettings(), None)
    assert (logins.needed(), logins.possible(), logins.issuer, logins.client_id) == (False, False, None, None)
    assert refused(logins) == WRONG
    assert not logins.logout("liverloop_" + "x" * 43, HERE)
    assert Logins(AccessSettings(login="required"), None).needed()


def test_our_own_users(accounts, ledger):
    accounts.add("Ann", GOOD, Role.REVIEWER, by="root")
    logins = Logins(AccessSettings(), accounts)
    given = logins.login("ann", GOOD, HERE)
    found = logins.who(given.token)
    assert (found.name, found.role, found.expires_at, found.token) == ("Ann", Role.REVIEWER, given.expires_at, "")
    assert logins.logout(given.token, HERE)
    assert not logins.logout(given.token, HERE)
    with pytest.raises(LoginError) as caught:
        logins.who(given.token)
    assert str(caught.value) == ENDED
    assert refused(logins, name="ann", password="wrong horse battery") == WRONG
    assert [kind for kind, *_ in happened(ledger)] == ["user added", "logged in", "logged out", "login failed"]


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "liverloop_", "liverloop_" + "x" * 43, "\ud800"])
def test_tokens_that_never_were(accounts, token):
    with pytest.raises(LoginError) as caught:
        Logins(AccessSettings(), accounts).who(token)
    assert str(caught.value) == ENDED


def test_tokens_of_a_provider(sso, accounts, clock):
    logins = Logins(AccessSettings.model_validate({"oidc": oidc(sso)}), accounts)
    assert (logins.needed(), logins.possible(), logins.issuer, logins.client_id) == (True, True, sso.issuer, None)
    token = sso.token()
    found = logins.who(token)
    assert (found.name, found.role, found.token) == ("ann", Role.ANNOTATOR, "")
    assert not logins.logout(token, HERE)
    with pytest.raises(LoginError, match=r"^the token can't be trusted: it is damaged$"):
        logins.who("a.b.c")
    with pytest.raises(ForbiddenError, match=r"^ann has no role in LiverLoop; "):
        logins.who(sso.token(realm_access={}))
    # Nobody's password is sent there.
    assert refused(logins) == WRONG
    assert not sso.forms


@pytest.mark.parametrize("disabled", [False, True])
def test_nobody_of_the_provider_passes_for_one_of_ours(sso, accounts, clock, disabled):
    logins = with_provider(sso, accounts, clock)
    sso.users["a.smith", GOOD] = {"preferred_username": "ANN"}
    given = logins.login("a.smith", GOOD, HERE)
    assert logins.who(given.token).name == "ANN"
    accounts.add("Ann", "another horse battery", Role.ANNOTATOR, by="root")
    if disabled:
        accounts.disable("ann", by="root")
    message = (
        "ANN is a user of this server and of the identity provider; log in as the user of this server, or let its "
        "administrator give one of the two another name"
    )
    for token in (given.token, sso.token(preferred_username="ANN")):
        with pytest.raises(ForbiddenError) as caught:
            logins.who(token)
        assert str(caught.value) == message
    assert refused(logins, ForbiddenError, "a.smith") == message
    # A password for a name of ours is never sent away.
    sent = len(sso.forms)
    assert refused(logins, name="aNN") == WRONG
    assert len(sso.forms) == sent


def test_a_password_of_the_provider(sso, accounts, ledger, clock):
    logins = with_provider(sso, accounts, clock)
    assert logins.client_id == "labels"
    sso.users["Bea", GOOD] = {"realm_access": {"roles": ["it"]}}
    given = logins.login("Bea", GOOD, HERE)
    assert is_token(given.token)
    assert given.token not in repr(vars(logins._foreign))
    assert (given.name, given.role, given.expires_at) == ("Bea", Role.ADMIN, clock.now + 12 * 3600)
    clock.now += 12 * 3600 - 1
    found = logins.who(given.token)
    assert (found.name, found.role, found.expires_at, found.token) == ("Bea", Role.ADMIN, given.expires_at, "")
    clock.now += 1
    with pytest.raises(LoginError, match=r"^this login has ended"):
        logins.who(given.token)
    assert not logins.logout(given.token, HERE)
    assert happened(ledger) == [("logged in", "Bea", {"user": "Bea", "from": HERE, "provider": sso.issuer})]
    assert GOOD not in repr(happened(ledger))


def test_logging_out_and_a_restart_end_it(sso, accounts, ledger, clock):
    logins = with_provider(sso, accounts, clock, hours=1)
    sso.users["bea", GOOD] = {}
    given, other = logins.login("bea", GOOD, HERE), logins.login("bea", GOOD, HERE)
    assert given.expires_at == clock.now + 3600
    assert logins.logout(given.token, HERE)
    assert not logins.logout(given.token, HERE)
    with pytest.raises(LoginError):
        logins.who(given.token)
    assert logins.who(other.token).name == "bea"
    with pytest.raises(LoginError):
        with_provider(sso, accounts, clock).who(other.token)
    assert happened(ledger)[-1] == ("logged out", "bea", {"user": "bea", "from": HERE, "provider": sso.issuer})


def test_so_many_are_remembered(sso, accounts, clock, monkeypatch):
    monkeypatch.setattr(logins_module, "_MOST", 3)
    logins = with_provider(sso, accounts, clock)
    sso.users["bea", GOOD] = {}
    given = [logins.login("bea", GOOD, HERE).token for _ in range(4)]
    assert len(logins._foreign._known) == 3
    with pytest.raises(LoginError):
        logins.who(given[0])
    assert all(logins.who(token) for token in given[1:])


def test_guessing_counts_together_whoever_compares(sso, accounts, ledger, clock):
    accounts.add("ann", GOOD, Role.ANNOTATOR, by="root")
    logins = with_provider(sso, accounts, clock)
    assert [refused(logins, password="wrong") for _ in range(3)] == [WRONG] * 3
    asked = len(sso.forms)
    assert refused(logins, TooManyLoginsError) == "too many failed logins; try again in 1 s"
    assert len(sso.forms) == asked == 3
    events = happened(ledger)[1:]
    assert [(kind, actor, detail) for kind, actor, detail in events] == [
        ("login failed", "server", {"user": None, "from": HERE}),
        ("login failed", "server", {"user": None, "from": HERE}),
        ("login failed", "server", {"user": None, "from": HERE, "pause_s": 1.0}),
    ]
    # One address is one address, whoever compares the passwords.
    one = Accounts(ledger, 2, Throttle(Pauses(9), Pauses(2), clock=clock), clock)
    logins = with_provider(sso, one, clock)
    refused(logins, name="ann", password="wrong")
    refused(logins, name="bea", password="wrong")
    refused(logins, name="ann", password="wrong")
    refused(logins, TooManyLoginsError, name="cat")


def test_a_provider_that_is_away_costs_no_try(sso, accounts, clock):
    logins = with_provider(sso, accounts, clock)
    sso.answers[sso.token_path] = (503, {}, b"")
    for _ in range(9):
        assert "refuses this server (HTTP 503, no token)" in refused(logins, UnavailableError)
    # Nor a token that it should not have given, or somebody without a role.
    del sso.answers[sso.token_path]
    sso.users["bea", GOOD] = {"aud": "account"}
    for _ in range(9):
        assert refused(logins) == "the token can't be trusted: it is for another audience than access.oidc.audience"
    sso.users["bea", GOOD] = {"realm_access": {}}
    for _ in range(9):
        assert refused(logins, ForbiddenError).startswith("bea has no role in LiverLoop; ")
    sso.users["bea", GOOD] = {}
    assert logins.login("bea", GOOD, HERE).name == "bea"


@pytest.mark.parametrize(
    ("name", "password"),
    [("", GOOD), ("bea", ""), ("b" * 257, GOOD), ("bea", "x" * 1025), ("\ud800", GOOD), ("bea", "\ud800")],
    ids=range(6),
)
def test_what_is_never_sent_to_a_provider(sso, accounts, clock, name, password):
    assert refused(with_provider(sso, accounts, clock), name=name, password=password) == WRONG
    assert not sso.forms


def test_without_a_ledger_a_provider_is_enough(sso, clock):
    logins = with_provider(sso, None, clock)
    sso.users["bea", GOOD] = {}
    given = logins.login("bea", GOOD, HERE)
    assert logins.who(given.token).name == "bea"
    assert logins.who(sso.token()).name == "ann"
    assert refused(logins, password="wrong") == WRONG
    assert logins.logout(given.token, HERE)


def test_the_secret_is_in_the_environment(sso, clock):
    logins = with_provider(sso, None, clock)
    refused(logins)
    assert sso.logins == ["Basic bGFiZWxzOm9mK3RoZStzZXJ2ZXI="]


def test_certificates_that_are_none(sso, tmp_path, clock):
    with pytest.raises(SettingsError, match=r"^access\.oidc\.certificates = "):
        with_provider(sso, None, clock, certificates=str(tmp_path / "none.pem"))


def test_many_at_once(sso, accounts, clock):
    logins = with_provider(sso, accounts, clock)
    sso.users["bea", GOOD] = {}
    accounts.add("ann", GOOD, Role.ANNOTATOR, by="root")
    seen = SimpleNamespace(names=[])

    def work(name):
        for _ in range(3):
            token = logins.login(name, GOOD, HERE).token
            seen.names.append(logins.who(token).name)
            assert logins.logout(token, HERE)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("ann", "bea") * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(seen.names) == ["ann"] * 6 + ["bea"] * 6
    assert not logins._foreign._known
