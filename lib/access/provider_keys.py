"""The keys of an identity provider: found by its discovery document, fetched over https, kept for a while."""

import json
import logging
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from lib.errors import SettingsError, UnavailableError

logger = logging.getLogger(__name__)

FRESH_S = 600.0  # after that they are fetched again
USABLE_S = 3600.0  # while they can't be fetched, these go on counting for so long
PAUSE_S = 10.0  # between two fetches, so that nobody can make us flood the provider with invented keys

_TIMEOUT_S = 10.0
_LARGEST = 1 << 20  # bytes of a document
_SHORTEST_RSA = 2048  # bits

PublicKey = RSAPublicKey | EllipticCurvePublicKey


class ProviderKeys:
    """Public keys by their id. Safe for many threads.

    Args:
        issuer: address of the provider.
        certificates: PEM file of the authorities that may vouch for it; None for those that the system trusts.
        clock: seconds that never go back.

    Raises:
        SettingsError: the certificates can't be read.
    """

    def __init__(
        self, issuer: str, certificates: Path | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._issuer = issuer
        self._host = urlsplit(issuer).netloc
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: dict[tuple[str | None, str], PublicKey] = {}
        self._fetched_at = self._tried_at = float("-inf")
        try:
            self._tls = ssl.create_default_context(cafile=None if certificates is None else str(certificates))
        except (OSError, ssl.SSLError) as error:
            msg = f"access.oidc.certificates = {str(certificates)!r} holds no certificates; give a PEM file with some"
            raise SettingsError(msg) from error

    def find(self, key_id: str | None, algorithm: str) -> PublicKey | None:
        """The key of this id for this algorithm; without an id the only key for it.

        An unknown one is asked for, since providers change their keys.

        Raises:
            UnavailableError: no key is known, and the provider can't be asked.
        """
        found = self._known(key_id, algorithm)
        age = self._clock() - self._fetched_at
        if found is not None and age < FRESH_S:
            return found
        # One asks. Others wait for what it gets, or go on with what they have, as the provider may not answer.
        if not self._lock.acquire(blocking=found is None or age >= USABLE_S):
            return found
        try:
            now = self._clock()
            known = self._known(key_id, algorithm) is not None and now - self._fetched_at < FRESH_S
            if not known and now - self._tried_at >= PAUSE_S:
                self._tried_at = now
                self._refresh(now)
            if now - self._fetched_at >= USABLE_S:
                self._keys = {}
                msg = f"the identity provider at {self._host} can't be asked for its keys; try again in {PAUSE_S:.0f} s"
                raise UnavailableError(msg)
            return self._known(key_id, algorithm)
        finally:
            self._lock.release()

    def _known(self, key_id: str | None, algorithm: str) -> PublicKey | None:
        keys = self._keys  # replaced as a whole, never changed
        if key_id is not None:
            return keys.get((key_id, algorithm)) if isinstance(key_id, str) else None
        fitting = [key for (_, of), key in keys.items() if of == algorithm]
        return fitting[0] if len(fitting) == 1 else None

    def _refresh(self, now: float) -> None:
        try:
            # A client for each time, so that nothing stays open for the minutes between.
            with httpx.Client(verify=self._tls, timeout=_TIMEOUT_S, follow_redirects=False) as client:
                where = self._issuer.rstrip("/") + "/.well-known/openid-configuration"
                about = _document(client, where)
                if about.get("issuer") != self._issuer:
                    msg = "it calls itself by another address than access.oidc.issuer"
                    raise ValueError(msg)
                address = str(about.get("jwks_uri"))
                if not address.startswith("https://"):
                    msg = "its jwks_uri is no https address"
                    raise ValueError(msg)
                listed = _document(client, address).get("keys")
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            logger.warning("the identity provider at %s gave no keys: %s", self._host, reason)
            return
        usable = map(_usable, listed if isinstance(listed, list) else [])
        self._keys = dict(one for one in usable if one is not None)
        self._fetched_at = now


def _document(client: httpx.Client, url: str) -> dict[str, Any]:
    until = time.monotonic() + _TIMEOUT_S
    content = bytearray()
    with client.stream("GET", url, headers={"Accept": "application/json"}) as answer:
        if answer.status_code != 200:
            msg = f"it answers {answer.status_code} for {urlsplit(url).path}"
            raise ValueError(msg)
        for chunk in answer.iter_bytes():
            content += chunk
            if len(content) > _LARGEST or time.monotonic() > until:
                msg = f"its answer for {urlsplit(url).path} is too large or too slow"
                raise ValueError(msg)
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        msg = f"its answer for {urlsplit(url).path} is no JSON"
        raise ValueError(msg) from error
    if not isinstance(values, dict):
        msg = f"its answer for {urlsplit(url).path} is no JSON object"
        raise ValueError(msg)
    return values


def _usable(listed: Any) -> tuple[tuple[str | None, str], PublicKey] | None:
    """A key for signatures of a kind that we take, as (id, algorithm) and key; None for any other."""
    if not isinstance(listed, dict) or listed.get("use", "sig") != "sig":
        return None
    algorithm = {"RSA": "RS256", "EC": "ES256"}.get(str(listed.get("kty")))
    key_id = listed.get("kid")
    if algorithm is None or listed.get("alg", algorithm) != algorithm or not isinstance(key_id, str | None):
        return None
    try:
        key = jwt.PyJWK(listed, algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    if isinstance(key, RSAPublicKey) and key.key_size >= _SHORTEST_RSA:
        return (key_id, algorithm), key
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return (key_id, algorithm), key
    return None
