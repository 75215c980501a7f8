"""A token of an identity provider for a user's name and password (OAuth 2.0, RFC 6749, section 4.3).

3D Slicer knows no other way: its module sends name and password to the server.
"""

import logging
import re
import time
from collections.abc import Callable
from urllib.parse import quote_plus

from lib.access.provider_client import FAILURES, ProviderClient, reason_of
from lib.access.turns import Turns
from lib.errors import UnavailableError

logger = logging.getLogger(__name__)

_FRESH_S = 600.0  # after that its address is looked up again
_AT_ONCE, _WAITING = 4, 8
_ERROR = re.compile(r"[a-z_]{1,40}")  # what RFC 6749 calls errors; nothing else of an answer is repeated


class PasswordGrant:
    """Lets a provider compare passwords. Safe for many threads.

    Args:
        provider: whom to ask.
        client_id: what this server is called there.
        secret: of this server; empty where it needs none.
        clock: seconds that never go back.
    """

    def __init__(
        self, provider: ProviderClient, client_id: str, secret: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._provider, self._client_id, self._secret = provider, client_id, secret
        self._clock = clock
        self._turns = Turns(_AT_ONCE, _WAITING)
        self._endpoint = ("", float("-inf"))  # address, when it was looked up

    def token(self, name: str, password: str) -> str | None:
        """An access token, not checked yet; None where name or password are wrong or the user may not log in.

        Raises:
            TooManyLoginsError: too many are asked for at once.
            UnavailableError: the provider can't be asked, or refuses this server.
        """
        with self._turns.turn():
            try:
                return self._token(name, password)
            except FAILURES as error:
                if isinstance(error, UnavailableError):
                    raise
                self._endpoint = ("", float("-inf"))
                host = self._provider.host
                logger.warning("the identity provider at %s can't log in users: %s", host, reason_of(error))
                msg = f"the identity provider at {host} can't be asked; try again later"
                raise UnavailableError(msg) from None  # the cause may hold what was sent

    def _token(self, name: str, password: str) -> str | None:
        form = {"grant_type": "password", "username": name, "password": password}
        login = None
        if self._secret:
            login = (quote_plus(self._client_id), quote_plus(self._secret))  # section 2.3.1
        else:
            form["client_id"] = self._client_id
        status, answer = self._provider.post(self._found_endpoint(), form, login)
        token, error = answer.get("access_token"), answer.get("error")
        if status == 200 and isinstance(token, str) and str(answer.get("token_type")).lower() == "bearer":
            return token
        if error == "invalid_grant":
            return None
        why = error if isinstance(error, str) and _ERROR.fullmatch(error) else "no token"
        logger.error("the identity provider at %s refuses this server: HTTP %d, %s", self._provider.host, status, why)
        msg = (
            f"the identity provider at {self._provider.host} refuses this server (HTTP {status}, {why}); its "
            "administrator can tell whether access.oidc.client_id may log in users by password"
        )
        raise UnavailableError(msg)

    def _found_endpoint(self) -> str:
        address, found_at = self._endpoint
        now = self._clock()
        if now - found_at >= _FRESH_S:
            address = self._provider.endpoint("token_endpoint")
            self._endpoint = (address, now)
        return address
