"""Requests to an identity provider: https only, with limits, and never elsewhere than asked."""

import json
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from lib.errors import SettingsError

FAILURES = (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError)  # what asking raises
_TIMEOUT_S = 10.0
_LARGEST = 1 << 20  # bytes of an answer


class ProviderClient:
    """Asks one provider. Safe for many threads; nothing stays open between two requests.

    Args:
        issuer: address of the provider.
        certificates: PEM file of the authorities that may vouch for it; None for those that the system trusts.

    Raises:
        SettingsError: the certificates can't be read.
    """

    def __init__(self, issuer: str, certificates: Path | None = None) -> None:
        self.issuer = issuer
        self.host = urlsplit(issuer).netloc
        try:
            self._tls = ssl.create_default_context(cafile=None if certificates is None else str(certificates))
        except (OSError, ssl.SSLError) as error:
            msg = f"access.oidc.certificates = {str(certificates)!r} holds no certificates; give a PEM file with some"
            raise SettingsError(msg) from error

    def endpoint(self, name: str) -> str:
        """An address that the provider's discovery document names, such as its `jwks_uri`.

        Raises:
            one of FAILURES: it can't be asked, or says nothing that can be used.
        """
        about = self.document(self.issuer.rstrip("/") + "/.well-known/openid-configuration")
        if about.get("issuer") != self.issuer:
            msg = "it calls itself by another address than access.oidc.issuer"
            raise ValueError(msg)
        address = str(about.get(name))
        if not address.startswith("https://"):
            msg = f"its {name} is no https address"
            raise ValueError(msg)
        return address

    def document(self, url: str) -> dict[str, Any]:
        """The JSON object at an address.

        Raises:
            one of FAILURES: there is none.
        """
        status, content = self._ask("GET", url)
        path = urlsplit(url).path
        if status != 200:
            msg = f"it answers {status} for {path}"
            raise ValueError(msg)
        return _object(content, path)

    def post(
        self, url: str, form: Mapping[str, str], login: tuple[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Send a form; returns the status and the JSON object that comes back, `{}` where it is none.

        Args:
            url: where to.
            form: names and values.
            login: name and password for basic authentication.

        Raises:
            one of FAILURES: there is no answer.
        """
        status, content = self._ask("POST", url, form, login)
        try:
            return status, _object(content, urlsplit(url).path)
        except ValueError:
            return status, {}

    def _ask(
        self, method: str, url: str, form: Mapping[str, str] | None = None, login: tuple[str, str] | None = None
    ) -> tuple[int, bytes]:
        until = time.monotonic() + _TIMEOUT_S
        content = bytearray()
        # A client for each time, so that nothing stays open for the minutes between.
        with (
            httpx.Client(verify=self._tls, timeout=_TIMEOUT_S, follow_redirects=False) as client,
            client.stream(
                method, url, headers={"Accept": "application/json"}, data=form, auth=login or httpx.USE_CLIENT_DEFAULT
            ) as answer,
        ):
            for chunk in answer.iter_bytes():
                content += chunk
                if len(content) > _LARGEST or time.monotonic() > until:
                    msg = f"its answer for {urlsplit(url).path} is too large or too slow"
                    raise ValueError(msg)
        return answer.status_code, bytes(content)


def reason_of(error: Exception) -> str:
    """Why it could not be asked, on one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _object(content: bytes, path: str) -> dict[str, Any]:
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        msg = f"its answer for {path} is no JSON"
        raise ValueError(msg) from error
    if not isinstance(values, dict):
        msg = f"its answer for {path} is no JSON object"
        raise ValueError(msg)
    return values
