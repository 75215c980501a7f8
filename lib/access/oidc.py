"""Bearer tokens of an identity provider, such as Keycloak: signature, issuer, audience and times (OpenID Connect).

Only RS256 and ES256 count. What a token says about where its key is (`jku`, `x5u`, `jwk`) is never read.
"""

from typing import Any

import jwt

from lib.access.claims import Identity, identity
from lib.access.provider import Provider
from lib.access.provider_keys import ProviderKeys
from lib.errors import LoginError

LONGEST = 16_384  # characters of a token; with many groups Keycloak's have some 4,000
ALGORITHMS = ("RS256", "ES256")
LEEWAY_S = 30  # by which clocks may differ

_TYPES = {"jwt", "at+jwt", "application/at+jwt"}
_REASONS: tuple[tuple[type[jwt.PyJWTError], str], ...] = (
    (jwt.ExpiredSignatureError, "it has expired; log in again"),
    (jwt.ImmatureSignatureError, "it is not valid yet; compare the clocks of server and identity provider"),
    (jwt.InvalidAudienceError, "it is for another audience than access.oidc.audience"),
    (jwt.InvalidIssuerError, "it is from another issuer than access.oidc.issuer"),
    (jwt.MissingRequiredClaimError, "it lacks one of exp, iat, iss, aud and sub"),
    (jwt.InvalidSignatureError, "its signature is wrong"),
)


class TokenCheck:
    """Tells who sent a token. Safe for many threads; reaches the provider only for its keys.

    Args:
        provider: whose tokens count.
        keys: where its keys come from; None: from the provider.
    """

    def __init__(self, provider: Provider, keys: ProviderKeys | None = None) -> None:
        self.provider = provider
        self._keys = keys or ProviderKeys(provider.issuer, provider.certificates)

    def who(self, token: str) -> Identity:
        """The user whom the provider gave this token.

        Raises:
            LoginError: the token can't be trusted; the message says why and never repeats any of it.
            ForbiddenError: the user has no role here.
            UnavailableError: the provider's keys are not known and can't be asked for.
        """
        header = _header(token)
        algorithm = header["alg"]
        key = self._keys.find(header.get("kid"), algorithm)
        if key is None:
            msg = "the token can't be trusted: the identity provider has no such key"
            raise LoginError(msg)
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self.provider.audience,
                issuer=self.provider.issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iat", "iss", "aud", "sub"]},
            )
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as error:
            reason = next((why for kind, why in _REASONS if isinstance(error, kind)), "it is damaged")
            msg = f"the token can't be trusted: {reason}"
            raise LoginError(msg) from None  # the cause may repeat what the token says
        # Keycloak's word for what a token is for; an ID token tells a client who logged in and opens nothing.
        if str(claims.get("typ", "Bearer")).lower() != "bearer":
            msg = "the token can't be trusted: it is no access token"
            raise LoginError(msg)
        return identity(claims, self.provider.name_claim, self.provider.role_claim, self.provider.roles)


def _header(token: str) -> dict[str, Any]:
    """The header, as far as it can be believed before the signature is checked."""
    if len(token) > LONGEST:
        msg = f"the token can't be trusted: it has more than {LONGEST} characters"
        raise LoginError(msg)
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        msg = "the token can't be trusted: it is damaged"
        raise LoginError(msg) from None
    if header.get("alg") not in ALGORITHMS:
        msg = f"the token can't be trusted: it is not signed by {' or '.join(ALGORITHMS)}"
        raise LoginError(msg)
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in _TYPES or "crit" in header:
        msg = "the token can't be trusted: it is no access token"
        raise LoginError(msg)
    return header
