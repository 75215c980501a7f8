"""An identity provider as a site describes it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from lib.access.roles import Role
from lib.errors import SettingsError


@dataclass(frozen=True)
class Provider:
    """An identity provider and what its claims mean here.

    Args:
        issuer: its address, as it stands in its tokens, such as `https://sso.example.org/realms/hospital`.
        audience: what its tokens for this server have as `aud`.
        role_claim: where roles are, such as `realm_access.roles`.
        roles: for each of our roles the provider's names of it.
        name_claim: where the user's name is.
        certificates: PEM file with the authorities that may vouch for it; None for those that the system trusts.
        client_id: what this server is called there, to let the provider compare passwords; empty: it never does.

    Raises:
        SettingsError: a value is missing or the address is not one of https.
    """

    issuer: str
    audience: str
    role_claim: str
    roles: Mapping[Role, tuple[str, ...]]
    name_claim: str = "preferred_username"
    certificates: Path | None = None
    client_id: str = ""

    def __post_init__(self) -> None:
        parts = urlsplit(self.issuer)
        if parts.scheme != "https" or not parts.hostname or parts.username or parts.query or parts.fragment:
            shown = re.sub(r"//.*@", "//...@", self.issuer)  # a login
            msg = f"access.oidc.issuer = {shown!r} is no https address; give it as the identity provider says it"
            raise SettingsError(msg)
        if not self.audience or not any(self.roles.values()):
            missing = "roles" if self.audience else "audience"
            msg = f"access.oidc.issuer is set and access.oidc.{missing} is empty; set it, or nobody could log in"
            raise SettingsError(msg)
