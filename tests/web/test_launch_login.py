import pytest

from lib.access.roles import Role
from lib.errors import BadInputError
from lib.settings import Settings
from lib.store.accounts import Accounts
from lib.store.opening import open_store
from lib.web.launch_login import LoginState, check_environment, check_login, login_state

pytestmark = pytest.mark.usefixtures("cheap_hashes")
OPEN, ASKED, CLOSED = LoginState(False, False), LoginState(True, True), LoginState(True, False)
NOBODY = "nobody has to log in yet"
TURN_ON = "add a user with: scripts/users.py add NAME --role admin --studies livers, then start again"


def settings(login="auto", **oidc):
    return Settings.model_validate({"access": {"login": login, "oidc": oidc}})


@pytest.fixture
def studies(tmp_path):
    folder = tmp_path / "studies"
    folder.mkdir()
    return folder


def added(studies, disabled=False):
    store = open_store(studies, Settings(), follow_classes=False)
    accounts = Accounts(store.ledger)
    accounts.add("ann", "correct horse battery", Role.ADMIN, by="root")
    if disabled:
        accounts.disable("ann", by="root")
    store.close()


def state(studies, login="auto", **oidc):
    return login_state(str(studies), settings(login, **oidc), studies)


def test_a_new_folder_gets_no_ledger(studies):
    assert state(studies) == OPEN
    assert state(studies, "off") == OPEN
    assert state(studies, "required") == CLOSED
    assert state(studies.parent / "missing") == OPEN
    assert list(studies.iterdir()) == []


def test_users(studies):
    added(studies)
    assert state(studies) == ASKED
    assert state(studies, "required") == ASKED
    assert state(studies, "off") == LoginState(False, True)


def test_users_who_are_all_disabled(studies):
    added(studies, disabled=True)
    assert state(studies) == CLOSED


def test_a_provider(studies):
    oidc = {"issuer": "https://sso.example", "audience": "x", "roles": {"admin": ["it"]}}
    assert state(studies, **oidc) == LoginState(True, True, "https://sso.example")
    assert list(studies.iterdir()) == []
    added(studies)
    assert state(studies, **oidc) == LoginState(True, True, "https://sso.example")


def test_a_pacs_has_a_folder(studies):
    url = "http://127.0.0.1:1/dicom-web"
    assert login_state(url, settings(), studies) == OPEN
    assert list(studies.iterdir()) == []


@pytest.mark.parametrize(
    ("found", "setting", "loopback"),
    [
        (OPEN, "auto", True),
        (OPEN, "off", True),
        (ASKED, "auto", True),
        (ASKED, "auto", False),
        (ASKED, "required", False),
    ],
)
def test_starts_that_are_allowed(found, setting, loopback):
    check_login(found, setting, host="0.0.0.0", loopback=loopback, studies="livers")


@pytest.mark.parametrize(
    ("found", "setting", "loopback", "message"),
    [
        (OPEN, "auto", False, f"--host 0.0.0.0 would open the server to the network, and {NOBODY}; {TURN_ON}"),
        (CLOSED, "auto", False, f"a login is required, and there is nobody who could log in; {TURN_ON}"),
        (CLOSED, "required", True, f"a login is required, and there is nobody who could log in; {TURN_ON}"),
        (
            LoginState(False, True), "off", False,
            "--host 0.0.0.0 would open the server to the network, and access.login is off; keep 127.0.0.1 and put a "
            "proxy in front that asks for a login, or let access.login be auto",
        ),
    ],
    ids=["open", "closed", "closed on this machine", "off"],
)  # fmt: skip
def test_starts_that_are_refused(found, setting, loopback, message):
    with pytest.raises(BadInputError) as caught:
        check_login(found, setting, host="0.0.0.0", loopback=loopback, studies="livers")
    assert str(caught.value) == message


@pytest.mark.parametrize("value", ["true", "True", "1", "yes", "on", " TRUE "])
def test_the_login_of_monai_label(value):
    with pytest.raises(BadInputError) as caught:
        check_environment({"MONAI_LABEL_AUTH_ENABLE": value})
    assert str(caught.value) == (
        "MONAI_LABEL_AUTH_ENABLE is set, and MONAI Label's own login does not work; unset it, and add users with "
        "scripts/users.py or set access.oidc for an identity provider (docs/access.md)"
    )


@pytest.mark.parametrize("value", ["", "false", "0", "off"])
def test_the_login_of_monai_label_switched_off(value):
    check_environment({"MONAI_LABEL_AUTH_ENABLE": value})
    check_environment({})
