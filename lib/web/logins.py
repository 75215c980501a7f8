"""Who may use the server: users of the ledger and, where one is configured, of an identity provider.

Nothing here knows of requests; all methods block and are safe for many threads.
"""

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace

from lib.access import tokens as token_form
from lib.access.claims import Identity
from lib.access.names import name_key
from lib.access.oidc import TokenCheck
from lib.access.password_grant import PasswordGrant
from lib.access.provider_client import ProviderClient
from lib.access.settings import AccessSettings
from lib.access.throttle import Throttle
from lib.errors import ForbiddenError, LoginError, StorageError, TooManyLoginsError
from lib.store.accounts import WRONG, Accounts, LoggedIn

logger = logging.getLogger(__name__)

SECRET = "LIVERLOOP_OIDC_CLIENT_SECRET"

_ASKED_EVERY_S = 1.0  # so seldom is the ledger asked whether there is a user by now
_LONGEST_HOURS = 12.0
_MOST = 10_000  # logins of a provider's users that are remembered
_LONGEST_NAME, _LONGEST_PASSWORD = 256, 1024  # characters that are sent to a provider
_ENDED = "this login has ended, or never was one; log in again"


class Logins:
    """Logs people in and out, and tells who they are.

    Args:
        access: the settings.
        accounts: our own users; None where there is no ledger.
        environment: may hold `LIVERLOOP_OIDC_CLIENT_SECRET`.
        clock: seconds since the epoch.

    Raises:
        SettingsError: the identity provider's certificates can't be read.
    """

    def __init__(
        self,
        access: AccessSettings,
        accounts: Accounts | None,
        environment: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._access, self._accounts = access, accounts
        self._throttle = accounts.throttle if accounts else Throttle()
        self._clock = clock
        self._lock = threading.Lock()
        self._has_users, self._asked_at = False, float("-inf")
        self._foreign = _Remembered(min(access.token_hours, _LONGEST_HOURS) * 3600, clock)
        provider = access.oidc.provider()
        self._check = TokenCheck(provider) if provider else None
        self._grant = None
        if provider and provider.client_id:
            client = ProviderClient(provider.issuer, provider.certificates)
            self._grant = PasswordGrant(client, provider.client_id, environment.get(SECRET, ""))

    @property
    def issuer(self) -> str | None:
        """Address of the identity provider; None where there is none."""
        return self._check.provider.issuer if self._check else None

    @property
    def client_id(self) -> str | None:
        """What this server is called at the identity provider, which compares passwords for it; None if it doesn't."""
        return self._check.provider.client_id if self._check and self._grant else None

    def needed(self) -> bool:
        """Whether nobody gets in without a login.

        By `access.login: auto` as soon as there is a user, also a disabled one: from then on for good, and a second
        after the first was added at the latest.

        Raises:
            StorageError: the ledger can't be asked.
        """
        if self._access.login != "auto":
            return self._access.login == "required"
        if self._check is not None or self._has_users:
            return True
        if self._accounts is None:
            return False
        with self._lock:
            now = time.monotonic()
            if not self._has_users and now - self._asked_at >= _ASKED_EVERY_S:
                self._has_users = not self._accounts.is_empty()
                self._asked_at = now
            return self._has_users

    def possible(self) -> bool:
        """Whether anybody could log in: there is a user who is not disabled, or an identity provider.

        Raises:
            StorageError: the ledger can't be asked.
        """
        if self._check is not None:
            return True
        return self._accounts is not None and any(user.disabled_at is None for user in self._accounts.listed())

    def who(self, token: str) -> LoggedIn:
        """Who got this token, from here or from the identity provider.

        Raises:
            LoginError: it doesn't count, or not any more.
            ForbiddenError: the provider's user has no role here, or the name of one of our own users.
            UnavailableError: the provider's keys are not known and can't be asked for.
            StorageError: the ledger can't be asked.
        """
        if not token_form.is_token(token):
            if self._check is None:
                raise LoginError(_ENDED)
            identity = self._check.who(token)
            self._refuse_namesakes(identity.name)
            return LoggedIn(identity.name, identity.role, identity.expires_at)
        found = self._foreign.find(token)
        if found is not None:
            self._refuse_namesakes(found.name)
            return found
        found = self._accounts.who(token) if self._accounts else None
        if found is None:
            raise LoginError(_ENDED)
        return found

    def login(self, name: str, password: str, address: str) -> LoggedIn:
        """Give a token to who knows the password: of our own user, else of the identity provider's.

        What is wrong is never told. How long it takes may tell a name of our own from others, which the provider is
        asked about; it never gets the password of a user of ours.

        Args:
            name: as somebody typed it.
            password: likewise.
            address: where it comes from; failures of one address count together.

        Raises:
            LoginError: wrong, or disabled; or the provider's token can't be trusted.
            ForbiddenError: as `who`.
            TooManyLoginsError: after too many failures, or too many at once; how many seconds to wait.
            UnavailableError: the provider can't be asked, or refuses this server; the try doesn't count as failed.
            StorageError: the ledger can't be read or written; likewise.
        """
        ours = self._accounts
        if ours is not None and (self._grant is None or ours.is_known(name)):
            return ours.login(name, password, address)
        key = name_key(name[:_LONGEST_NAME])
        pause_s = self._throttle.begin(key, address)
        try:
            identity = self._identity(name, password)
        except (StorageError, TooManyLoginsError, LoginError):
            self._throttle.undecided(key, address)
            raise
        except ForbiddenError:
            self._throttle.succeeded(key, address)
            raise
        if identity is None:
            if ours is not None:
                ours.note_foreign("login failed", None, address, {"pause_s": pause_s} if pause_s else {})
            raise LoginError(WRONG)
        self._throttle.succeeded(key, address)
        self._refuse_namesakes(identity.name)
        logged_in = self._foreign.add(identity)
        if ours is not None:
            ours.note_foreign("logged in", identity.name, address, {"provider": identity.issuer})
        return logged_in

    def logout(self, token: str, address: str) -> bool:
        """End a login of ours; False where it did not count any more. A provider's own tokens can't be ended here.

        Raises:
            StorageError: the ledger can't be written; the login goes on.
        """
        ended = self._foreign.forget(token)
        if ended is not None:
            if self._accounts is not None:
                self._accounts.note_foreign("logged out", ended.name, address, {"provider": self.issuer})
            return True
        return self._accounts is not None and self._accounts.revoke(token, address=address)

    def _identity(self, name: str, password: str) -> Identity | None:
        """Whom the provider knows by name and password; None: nobody."""
        if self._grant is None or self._check is None or not name or not password:
            return None
        if (
            len(name) > _LONGEST_NAME
            or len(password) > _LONGEST_PASSWORD
            or not (_is_text(name) and _is_text(password))
        ):
            return None
        token = self._grant.token(name, password)
        return None if token is None else self._check.who(token)

    def _refuse_namesakes(self, name: str) -> None:
        """Nobody else is the author of what one of our own users did."""
        if self._accounts is not None and self._accounts.is_known(name):
            msg = (
                f"{name} is a user of this server and of the identity provider; log in as the user of this server, or "
                "let its administrator give one of the two another name"
            )
            raise ForbiddenError(msg)


class _Remembered:
    """Logins of a provider's users, in this process's memory only: a restart ends them.

    The provider's tokens live for minutes, and an annotator would have to log in again and again.
    """

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds, self._clock = seconds, clock
        self._lock = threading.Lock()
        self._known: OrderedDict[str, LoggedIn] = OrderedDict()  # by digest, the first to end first

    def add(self, identity: Identity) -> LoggedIn:
        token = token_form.new_token()
        known = LoggedIn(identity.name, identity.role, self._clock() + self._seconds)
        with self._lock:
            self._known[token_form.digest(token)] = known
            if len(self._known) > _MOST:
                self._known.popitem(last=False)
        return replace(known, token=token)

    def find(self, token: str) -> LoggedIn | None:
        digest = token_form.digest(token)
        with self._lock:
            known = self._known.get(digest)
            if known is not None and not token_form.is_valid(self._clock(), known.expires_at, None):
                del self._known[digest]
                return None
        return known

    def forget(self, token: str) -> LoggedIn | None:
        """End a login; None where there was none."""
        if not token_form.is_token(token) or self.find(token) is None:
            return None
        with self._lock:
            return self._known.pop(token_form.digest(token), None)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
