"""The keys of an identity provider: found by its discovery document, fetched over https, kept for a while."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from lib.access.provider_client import FAILURES, ProviderClient, reason_of
from lib.errors import UnavailableError

logger = logging.getLogger(__name__)

FRESH_S = 600.0  # after that they are fetched again
USABLE_S = 3600.0  # while they can't be fetched, these go on counting for so long
PAUSE_S = 10.0  # between two fetches, so that nobody can make us flood the provider with invented keys

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
        self._provider = ProviderClient(issuer, certificates)
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: dict[tuple[str | None, str], PublicKey] = {}
        self._fetched_at = self._tried_at = float("-inf")

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
                host = self._provider.host
                msg = f"the identity provider at {host} can't be asked for its keys; try again in {PAUSE_S:.0f} s"
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
            listed = self._provider.document(self._provider.endpoint("jwks_uri")).get("keys")
        except FAILURES as error:
            logger.warning("the identity provider at %s gave no keys: %s", self._provider.host, reason_of(error))
            return
        usable = map(_usable, listed if isinstance(listed, list) else [])
        self._keys = dict(one for one in usable if one is not None)
        self._fetched_at = now


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
