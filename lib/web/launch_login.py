"""Whether people must log in to a server that is to start, and whether anybody could; read from its ledger.

Only the standard library is imported at the top, as in `launch.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lib.errors import BadInputError

if TYPE_CHECKING:
    from lib.settings import Settings
    from lib.web.logins import Logins

_TURN_ON = "add a user with: scripts/users.py add NAME --role admin --studies {studies}, then start again"
_TRUE = {"1", "on", "t", "true", "y", "yes"}  # as MONAI Label reads it


@dataclass(frozen=True)
class LoginState:
    """How things stand before the start.

    Args:
        needed: nobody gets in without a login.
        possible: somebody could log in.
        issuer: address of the identity provider; None: there is none.
    """

    needed: bool
    possible: bool
    issuer: str | None = None


def check_environment(environment: Mapping[str, str]) -> None:
    """Refuse MONAI Label's own login, which can't read a token and would stand beside ours.

    Raises:
        BadInputError: it is switched on.
    """
    if environment.get("MONAI_LABEL_AUTH_ENABLE", "").strip().lower() in _TRUE:
        msg = (
            "MONAI_LABEL_AUTH_ENABLE is set, and MONAI Label's own login does not work; unset it, and add users with "
            "scripts/users.py or set access.oidc for an identity provider (docs/access.md)"
        )
        raise BadInputError(msg)


def login_state(studies: str, settings: "Settings", app: Path) -> LoginState:
    """Look into the ledger of a studies folder or a PACS; one that does not exist yet is not made.

    Args:
        studies: the folder, or the address of a PACS.
        settings: of the app.
        app: the app folder.

    Raises:
        SettingsError: the PACS has no working folder, or the ledger can't be this folder's.
        StorageError: the ledger can't be opened.
    """
    from lib.store.accounts import Accounts  # brings much, so it comes after the quick checks
    from lib.store.layout import Layout
    from lib.store.ledger import open_ledger
    from lib.store.studies import is_pacs
    from lib.web.logins import Logins

    folder = Path(studies)
    if is_pacs(studies):
        from lib.store.opening import working_folder

        folder = working_folder(studies, settings, app)
    layout = Layout(folder.resolve())
    if not (layout.ledger / "id").is_file():
        return _state(Logins(settings.access, None))
    ledger = open_ledger(layout, settings.ledger)
    try:
        return _state(Logins(settings.access, Accounts(ledger)))
    finally:
        ledger.close()


def _state(logins: "Logins") -> LoginState:
    return LoginState(logins.needed(), logins.possible(), logins.issuer)


def check_login(state: LoginState, setting: str, *, host: str, loopback: bool, studies: str) -> None:
    """Refuse a start that would leave the server open to the network, or closed to everybody.

    Args:
        state: how things stand.
        setting: `access.login`.
        host: of `--host`.
        loopback: only this machine reaches it.
        studies: of `--studies`.

    Raises:
        BadInputError: with what to do.
    """
    turn_on = _TURN_ON.format(studies=studies)
    if not loopback and setting == "off":
        msg = (
            f"--host {host} would open the server to the network, and access.login is off; keep 127.0.0.1 and put a "
            "proxy in front that asks for a login, or let access.login be auto"
        )
        raise BadInputError(msg)
    if state.needed and not state.possible:
        msg = f"a login is required, and there is nobody who could log in; {turn_on}"
        raise BadInputError(msg)
    if not loopback and not state.needed:
        msg = f"--host {host} would open the server to the network, and nobody has to log in yet; {turn_on}"
        raise BadInputError(msg)
