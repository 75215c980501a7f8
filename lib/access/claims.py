"""What an identity provider says of a user, in LiverLoop's words."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lib.access.names import user_name
from lib.access.roles import Role
from lib.errors import BadInputError, ForbiddenError, LoginError


@dataclass(frozen=True)
class Identity:
    """Somebody whom an identity provider vouches for.

    Args:
        name: as users of ours have one; the provider may give it to another person later.
        role: the highest that the claims give.
        subject: the provider's own key of the person, which stays.
        issuer: the provider.
        expires_at: when the token ends, seconds since the epoch.
    """

    name: str
    role: Role
    subject: str
    issuer: str
    expires_at: float


def identity(
    claims: Mapping[str, Any], name_claim: str, role_claim: str, roles: Mapping[Role, tuple[str, ...]]
) -> Identity:
    """The user of a token whose signature, issuer, audience and times are checked already.

    Args:
        claims: of the token.
        name_claim: which of them is the user's name.
        role_claim: which of them holds roles, see `claim_at`.
        roles: for each of our roles the provider's names of it.

    Raises:
        LoginError: there is no name that can be a user's.
        ForbiddenError: none of the roles is one of ours.
    """
    name = claim_at(claims, name_claim)
    if not isinstance(name, str):
        msg = f"the token has no {name_claim}; let the identity provider add it, or name another claim in access.oidc"
        raise LoginError(msg)
    try:
        name = user_name(name)
    except BadInputError as error:
        msg = f"the token's {name_claim} can't be used: {error}"
        raise LoginError(msg) from error
    given = set(_texts(claim_at(claims, role_claim)))
    ours = [role for role, names in roles.items() if given.intersection(names)]
    if not ours:
        msg = f"{name} has no role in LiverLoop; let the identity provider put one of access.oidc.roles in {role_claim}"
        raise ForbiddenError(msg)
    return Identity(name, max(ours), str(claims["sub"]), str(claims["iss"]), float(claims["exp"]))


def claim_at(claims: Mapping[str, Any], path: str) -> Any:
    """A claim by its name or by dotted names, such as `realm_access.roles`; None where there is none.

    A claim whose name has dots itself, such as `https://example.org/roles`, comes first.
    """
    if path in claims:
        return claims[path]
    found: Any = claims
    for part in path.split("."):
        if not isinstance(found, Mapping):
            return None
        found = found.get(part)
    return found


def _texts(value: Any) -> list[str]:
    """A list of texts, or one text of several words; anything else is none."""
    if isinstance(value, str):
        return value.split()
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
