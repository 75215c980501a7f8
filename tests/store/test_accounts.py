import logging
import time

import pytest
from argon2 import PasswordHasher
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event as sql_event
from sqlalchemy import select, update

from lib.access import passwords
from lib.access.roles import Role
from lib.access.throttle import Pauses, Throttle
from lib.access.tokens import digest
from lib.errors import BadInputError, LoginError, NotFoundError, StorageError, TooManyLoginsError, UnavailableError
from lib.store import accounts as accounts_module
from lib.store.accounts import Accounts, LoggedIn, User
from lib.store.events import SERVER, history
from lib.store.ledger import Ledger
from lib.store.schema import metadata, tokens, users
from tests.clock import Clock

GOOD, OTHER = "correct horse battery", "another horse battery"
HERE = "10.0.0.1"


@pytest.fixture
def clock():
    return Clock(1_800_000_000.0)


@pytest.fixture
def accounts(ledger, clock, cheap_hashes):
    return Accounts(ledger, token_hours=2, throttle=Throttle(clock=clock), clock=clock)


@pytest.fixture
def ann(accounts):
    return accounts.add("Ann", GOOD, Role.ANNOTATOR, by="root")


def happened(ledger):
    """(kind, actor, detail) of all events, the oldest first."""
    with ledger.reading() as connection:
        return [(one.kind, one.actor, one.detail) for one in reversed(history(connection, limit=10_000))]


def refusal(accounts, name="ann", password="wrong horse battery", address=HERE):
    with pytest.raises(LoginError) as caught:
        accounts.login(name, password, address)
    return str(caught.value)


def test_a_user_is_added(ledger, accounts, clock):
    assert accounts.is_empty()
    assert accounts.listed() == []
    added = accounts.add("Ann", GOOD, Role.REVIEWER, by="root", address="10.0.0.7")
    assert added == User("Ann", Role.REVIEWER, clock.now, clock.now, None, 0)
    assert not accounts.is_empty()
    assert accounts.listed() == [added]
    detail = {"user": "Ann", "from": "10.0.0.7", "role": "reviewer"}
    assert happened(ledger) == [("user added", "root", detail)]


@pytest.mark.parametrize("name", ["Ann", "ann", "ANN", "ａｎｎ"])
def test_a_name_is_one_persons(ledger, accounts, ann, name):
    with pytest.raises(BadInputError) as caught:
        accounts.add(name, OTHER, Role.ADMIN, by="root")
    assert str(caught.value) == "there is a user 'Ann' already; choose another name, or enable that one"
    with pytest.raises(BadInputError, match="there is a user 'Ann' already"):
        accounts.check_new(name)
    assert [user.role for user in accounts.listed()] == [Role.ANNOTATOR]
    assert len(happened(ledger)) == 1


def test_bad_names_and_passwords(accounts):
    with pytest.raises(BadInputError, match=r"^a user's name has 1 to 64 letters and digits"):
        accounts.add("../ann", GOOD, Role.ADMIN, by="root")
    with pytest.raises(BadInputError, match=r"^the password has fewer than 12 characters; choose"):
        accounts.add("ann", "short", Role.ADMIN, by="root")
    with pytest.raises(BadInputError, match=r"^the password has fewer than 12 characters besides the user's own name"):
        accounts.add("ann", "Annannannann", Role.ADMIN, by="root")
    accounts.check_new("ann")
    assert accounts.is_empty()


def test_users_are_listed_by_name(accounts):
    for name in ("bob", "Ann", "Zoe", "ämilie"):
        accounts.add(name, GOOD, Role.ANNOTATOR, by="root")
    accounts.login("bob", GOOD, HERE)
    accounts.login("bob", GOOD, HERE)
    assert [(user.name, user.logins) for user in accounts.listed()] == [
        ("Ann", 0),
        ("bob", 2),
        ("Zoe", 0),
        ("ämilie", 0),
    ]


def test_login_and_who(ledger, accounts, ann, clock):
    found = accounts.login("aNN", GOOD, HERE)
    assert (found.name, found.role, found.expires_at) == ("Ann", Role.ANNOTATOR, clock.now + 7200)
    assert accounts.who(found.token) == LoggedIn("Ann", Role.ANNOTATOR, clock.now + 7200)
    assert happened(ledger)[1:] == [("logged in", "Ann", {"user": "Ann", "from": HERE})]
    assert found.token not in repr(found)


def test_a_token_ends(accounts, ann, clock):
    token = accounts.login("ann", GOOD, HERE).token
    clock.now += 7199.9
    assert accounts.who(token) is not None
    clock.now += 0.1
    assert accounts.who(token) is None
    assert accounts.listed()[0].logins == 0


@pytest.mark.parametrize(
    "token", ["", "x", "liverloop_", "\0", "\ud800", f"liverloop_{'A' * 43}", f"liverloop_{'A' * 43}\n", "' OR 1=1 --"]
)
def test_no_token_is_nobodys(accounts, ann, token):
    accounts.login("ann", GOOD, HERE)
    assert accounts.who(token) is None
    assert accounts.revoke(token, address=HERE) is False


def test_the_hash_of_a_token_opens_nothing(accounts, ann):
    token = accounts.login("ann", GOOD, HERE).token
    assert accounts.who(digest(token)) is None
    assert accounts.who(f"liverloop_{digest(token)[:43]}") is None


def test_wrong_unknown_and_disabled_say_the_same(ledger, accounts, ann):
    accounts.add("bob", GOOD, Role.ADMIN, by="root")
    accounts.disable("bob", by="root")
    before = len(happened(ledger))
    said = {
        refusal(accounts),
        refusal(accounts, "nobody here", GOOD),
        refusal(accounts, "bob", GOOD),
        refusal(accounts, "server", GOOD),
        refusal(accounts, "ann", ""),
        refusal(accounts, "ann\0", GOOD),
        refusal(accounts, "\ud800", "\ud800"),
        refusal(accounts, "a" * 100_000, "a" * 100_000, "10.0.0.2"),
    }
    assert said == {"wrong user name or password"}
    known = [detail["user"] for _, _, detail in happened(ledger)[before:]]
    assert known == ["Ann", None, "bob", None, "Ann", None, None, None]
    assert {actor for _, actor, _ in happened(ledger)[before:]} == {SERVER}
    assert [detail.get("disabled") for _, _, detail in happened(ledger)[before:]].count(True) == 1


def test_a_password_typed_as_a_name_is_not_kept(ledger, accounts, ann):
    refusal(accounts, GOOD, "")
    refusal(accounts, "hunter2secret", "")
    assert "hunter2" not in str(happened(ledger))
    assert GOOD not in str(happened(ledger))


def test_roles_count_from_the_next_request(ledger, accounts, ann):
    token = accounts.login("ann", GOOD, HERE).token
    accounts.set_role("ANN", Role.ADMIN, by="root")
    accounts.set_role("ann", Role.ADMIN, by="root")  # changes nothing, so nothing is noted
    assert accounts.who(token).role is Role.ADMIN
    detail = {"user": "Ann", "from": "console", "role": "admin", "before": "annotator"}
    assert happened(ledger)[2:] == [("role changed", "root", detail)]


def test_a_new_password_ends_all_logins(ledger, accounts, ann, clock):
    logins = [accounts.login("ann", GOOD, HERE).token for _ in range(3)]
    clock.now += 1
    assert accounts.set_password("ann", OTHER, by="root") == 3
    assert [accounts.who(token) for token in logins] == [None] * 3
    assert refusal(accounts, "ann", GOOD) == "wrong user name or password"
    assert accounts.who(accounts.login("ann", OTHER, HERE).token).name == "Ann"
    assert accounts.listed()[0].password_changed_at == clock.now
    assert ("password changed", "root", {"user": "Ann", "from": "console", "tokens_revoked": 3}) in happened(ledger)


def test_a_new_password_is_checked_for_the_name_as_it_is_kept(accounts, ann):
    with pytest.raises(BadInputError, match="besides the user's own name"):
        accounts.set_password("ANN", "annannannann", by="root")
    assert accounts.login("ann", GOOD, HERE)


def test_disabled_and_enabled(ledger, accounts, ann, clock):
    token = accounts.login("ann", GOOD, HERE).token
    assert accounts.disable("ann", by="root") == 1
    assert accounts.disable("ann", by="root") == 0
    assert accounts.listed()[0].disabled_at == clock.now
    assert accounts.who(token) is None
    refusal(accounts, "ann", GOOD)
    accounts.enable("ann", by="root")
    accounts.enable("ann", by="root")
    assert accounts.who(token) is None  # does not come back
    assert accounts.login("ann", GOOD, HERE)
    assert [kind for kind, _, _ in happened(ledger)] == [
        "user added", "logged in", "user disabled", "login failed", "user enabled", "logged in",
    ]  # fmt: skip


def test_a_token_of_a_disabled_user_never_counts(ledger, accounts, ann, clock):
    """Even where the ledger was changed by hand, and the token was not revoked."""
    token = accounts.login("ann", GOOD, HERE).token
    with ledger.writing() as connection:
        connection.execute(update(users).values(disabled_at=clock.now))
    assert accounts.who(token) is None


def test_one_login_ends_or_all(ledger, accounts, ann):
    first, second, third = (accounts.login("ann", GOOD, HERE).token for _ in range(3))
    assert accounts.revoke(first, address="10.0.0.8") is True
    assert accounts.revoke(first, address="10.0.0.8") is False
    assert [accounts.who(token) is None for token in (first, second, third)] == [True, False, False]
    assert accounts.revoke_all("ann", by="root", address="10.0.0.9") == 2
    assert accounts.revoke_all("ann", by="root") == 0
    assert [accounts.who(token) for token in (second, third)] == [None, None]
    assert happened(ledger)[-2:] == [
        ("logged out", "Ann", {"user": "Ann", "from": "10.0.0.8"}),
        ("tokens revoked", "root", {"user": "Ann", "from": "10.0.0.9", "tokens_revoked": 2}),
    ]


def test_no_such_user(ledger, accounts, ann):
    for call in (
        lambda name: accounts.set_role(name, Role.ADMIN, by="root"),
        lambda name: accounts.set_password(name, GOOD, by="root"),
        lambda name: accounts.disable(name, by="root"),
        lambda name: accounts.enable(name, by="root"),
        lambda name: accounts.revoke_all(name, by="root"),
        lambda name: accounts.check_user(name),
    ):
        for name in ("bob", "", "a\0b"):
            with pytest.raises(NotFoundError) as caught:
                call(name)
            assert str(caught.value) == f"there is no user {name!r}; scripts/users.py list names all"
    assert len(happened(ledger)) == 1


def test_guessing_is_slowed_down(ledger, accounts, ann, clock):
    for _ in range(6):
        refusal(accounts)
    with pytest.raises(TooManyLoginsError) as caught:
        accounts.login("Ann", GOOD, "10.9.9.9")
    assert (str(caught.value), caught.value.retry_after_s) == ("too many failed logins; try again in 1 s", 1)
    # Refused tries are not noted one by one, or whoever guesses could fill the ledger.
    failed = [detail for kind, _, detail in happened(ledger) if kind == "login failed"]
    assert [detail.get("pause_s") for detail in failed] == [None] * 5 + [1.0]
    clock.now += 1
    assert accounts.login("Ann", GOOD, "10.9.9.9")
    for _ in range(5):
        refusal(accounts)


def test_a_ledger_that_fails_does_not_count_against_the_user(accounts, ann, monkeypatch):
    def fail(*_):
        raise UnavailableError("the ledger is away")

    with monkeypatch.context() as patched:
        patched.setattr(accounts_module, "is_right", fail)
        for _ in range(20):
            with pytest.raises(UnavailableError):
                accounts.login("ann", GOOD, HERE)
    assert accounts.login("ann", GOOD, HERE)


@pytest.mark.parametrize("address", ["", "\0", "\ud800", "10.0.0.1\nforged: line", "x" * 100_000])
def test_whatever_an_address_is_guesses_count(ledger, accounts, ann, address):
    for _ in range(6):
        refusal(accounts, address=address)
    with pytest.raises(TooManyLoginsError):
        accounts.login("ann", GOOD, address)
    for _, _, detail in happened(ledger):
        assert detail["from"].isprintable()
        assert len(detail["from"]) <= 100


def test_use_is_noted_now_and_then(ledger, accounts, ann, clock):
    token = accounts.login("ann", GOOD, HERE).token

    def used():
        with ledger.reading() as connection:
            return connection.scalar(select(tokens.c.last_used_at))

    assert used() is None
    accounts.who(token)
    first = clock.now
    clock.now += 599
    accounts.who(token)
    assert used() == first
    clock.now += 1
    accounts.who(token)
    assert used() == clock.now


def test_who_is_one_read(ledger, accounts, ann):
    token = accounts.login("ann", GOOD, HERE).token
    accounts.who(token)
    statements = []
    sql_event.listen(ledger.engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    assert accounts.who(token) is not None
    selects = [one for one in statements if not one.startswith("BEGIN")]
    assert len(selects) == 1
    assert selects[0].startswith("SELECT")


def test_who_works_where_nothing_can_be_written(accounts, ann, ledger, monkeypatch, caplog):
    token = accounts.login("ann", GOOD, HERE).token

    def fail():
        raise UnavailableError("can't use the ledger x: it is read-only")

    monkeypatch.setattr(ledger, "writing", fail)
    with caplog.at_level(logging.WARNING):
        assert accounts.who(token).name == "Ann"
    assert caplog.messages == ["can't note that a token was used: can't use the ledger x: it is read-only"]


def test_old_tokens_are_dropped(ledger, accounts, ann, clock):
    accounts.login("ann", GOOD, HERE)
    clock.now += 7200 + 7 * 86_400 + 1
    accounts.login("ann", GOOD, HERE)
    with ledger.reading() as connection:
        assert len(connection.execute(select(tokens)).all()) == 1


def test_stronger_parameters_come_with_the_next_login(ledger, accounts, ann, monkeypatch):
    def kept():
        with ledger.reading() as connection:
            return connection.scalar(select(users.c.password_hash))

    before = kept()
    token = accounts.login("ann", GOOD, HERE).token
    assert kept() == before
    stronger = PasswordHasher(time_cost=2, memory_cost=16, parallelism=1)
    monkeypatch.setattr(passwords, "_HASHER", stronger)
    refusal(accounts)
    assert kept() == before
    accounts.login("ann", GOOD, HERE)
    assert "m=16,t=2,p=1" in kept()
    assert accounts.who(token) is not None
    assert accounts.login("ann", GOOD, HERE)


@pytest.mark.parametrize("change", ["set_password", "disable"])
def test_what_changes_while_a_password_is_compared(ledger, accounts, ann, clock, monkeypatch, change):
    """As another process may do it; the login must not get a token that the change would have ended."""
    real = accounts_module.is_right

    def slow(password, kept):
        clock.now += 1
        if change == "disable":
            accounts.disable("ann", by="root")
        else:
            accounts.set_password("ann", OTHER, by="root")
        return real(password, kept)

    with monkeypatch.context() as patched:
        patched.setattr(accounts_module, "is_right", slow)
        assert refusal(accounts, "ann", GOOD) == "wrong user name or password"
    assert accounts.listed()[0].logins == 0


def test_nothing_secret_is_written_down(ledger, accounts, ann, caplog):
    with caplog.at_level(logging.DEBUG):
        token = accounts.login("ann", GOOD, HERE).token
        refusal(accounts, "ann", "my own secret 12")
        refusal(accounts, "typed here 123", GOOD)
        accounts.set_password("ann", OTHER, by="root")
        other = accounts.login("ann", OTHER, HERE).token
        accounts.revoke(other, address=HERE)
        with ledger.reading() as connection:
            rows = {name: connection.execute(select(table)).all() for name, table in metadata.tables.items()}
        kept = [row.password_hash for row in rows.pop("users")]
        sha256 = [row.sha256 for row in rows.pop("tokens")]
    secrets = [GOOD, OTHER, "my own secret 12", "typed here 123", token, other]
    written = str(rows) + caplog.text
    for secret in [*secrets, *kept, *sha256]:
        assert secret not in written
    assert not any(secret in str(kept) + str(sha256) for secret in secrets)


def test_an_error_of_the_database_shows_no_values(accounts, ann, ledger):
    """Nor does what it was raised from, which a log's traceback shows."""
    token = accounts.login("ann", GOOD, HERE).token
    with pytest.raises(StorageError) as caught, ledger.writing() as connection:
        connection.execute(tokens.insert().values(sha256=digest(token), user_key="nobody", issued_at=0, expires_at=0))
    shown, error = "", caught.value
    while error is not None:
        shown, error = shown + str(error), error.__cause__
    assert digest(token) not in shown.partition("DETAIL")[0]
    assert "parameters hidden" in shown


def test_an_unknown_role_in_the_ledger_is_none(accounts, ann, ledger):
    token = accounts.login("ann", GOOD, HERE).token
    with ledger.writing() as connection:
        connection.execute(update(users).values(role="root"))
    with pytest.raises(BadInputError, match="there is no role 'root'"):
        accounts.who(token)


def test_names_that_nobody_has_take_as_long(accounts, ann, clock, monkeypatch):
    monkeypatch.setattr(passwords, "_HASHER", PasswordHasher(time_cost=2, memory_cost=8192, parallelism=1))
    passwords._nobodys.cache_clear()
    accounts.set_password("ann", OTHER, by="root")
    refusal(accounts, "first", GOOD)
    took = {"ann": [], "nobody here": []}
    for _ in range(20):
        for name in took:  # in turn, so that other work on the machine meets both
            clock.now += 3600  # no pauses
            start = time.perf_counter()
            refusal(accounts, name)
            took[name].append(time.perf_counter() - start)
    ratio = min(took["nobody here"]) / min(took["ann"])  # other work only makes it longer
    assert 0.5 < ratio < 2, ratio


_STEP = st.one_of(
    st.tuples(st.just("add"), st.sampled_from(["ann", "ANN", "bob"]), st.sampled_from(Role)),
    st.tuples(st.just("login"), st.sampled_from(["ann", "Bob"]), st.booleans()),
    st.tuples(st.sampled_from(["disable", "enable", "password", "revoke"]), st.sampled_from(["Ann", "bob"]), st.none()),
    st.tuples(st.just("wait"), st.none(), st.sampled_from([60.0, 7200.0])),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.lists(_STEP, max_size=25))
def test_exactly_the_tokens_that_should_count_do(cheap_hashes, tmp_path_factory, steps):
    clock = Clock()
    ledger = Ledger(f"sqlite:///{tmp_path_factory.mktemp('model')}/ledger.sqlite")
    accounts = Accounts(ledger, 2, Throttle(Pauses(1000), Pauses(1000), clock), clock)
    enabled, counting = {}, {}  # by key; token: (key, until)
    for what, name, more in steps:
        key = (name or "").lower()
        if what == "wait":
            clock.now += more
        elif what == "add":
            if key in enabled:
                with pytest.raises(BadInputError):
                    accounts.add(name, GOOD, more, by="root")
            else:
                accounts.add(name, GOOD, more, by="root")
                enabled[key] = True
        elif what == "login":
            if more and enabled.get(key):
                counting[accounts.login(name, GOOD, HERE).token] = (key, clock.now + 7200)
            else:
                refusal(accounts, name, GOOD if more else OTHER)
        elif key in enabled:
            if what == "password":
                clock.now += 1
                accounts.set_password(name, GOOD, by="root")
            else:
                {"disable": accounts.disable, "enable": accounts.enable, "revoke": accounts.revoke_all}[what](
                    name, by="x"
                )
            if what in {"disable", "enable"}:
                enabled[key] = what == "enable"
            if what != "enable":
                counting = {token: kept for token, kept in counting.items() if kept[0] != key}
        for token, (_, until) in counting.items():
            assert (accounts.who(token) is not None) == (clock.now < until)
    logins = sum(user.logins for user in accounts.listed())
    assert logins == sum(clock.now < until for _, until in counting.values())
    ledger.close()
