import pytest

from lib.access.provider import Provider
from lib.access.roles import Role
from lib.errors import SettingsError

ROLES = {Role.ADMIN: ("it",)}


@pytest.mark.parametrize(
    "issuer", ["http://sso.example.org", "sso.example.org", "https://", "https://ann:secret@sso", "https://sso?a=b", ""]
)
def test_only_https(issuer):
    with pytest.raises(SettingsError) as caught:
        Provider(issuer, "liverloop", "roles", ROLES)
    assert str(caught.value).endswith("is no https address; give it as the identity provider says it")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("audience", "roles", "missing"), [("", ROLES, "audience"), ("x", {}, "roles")])
def test_half_a_provider(audience, roles, missing):
    with pytest.raises(SettingsError) as caught:
        Provider("https://sso.example.org", audience, "roles", roles)
    assert str(caught.value) == (
        f"access.oidc.issuer is set and access.oidc.{missing} is empty; set it, or nobody could log in"
    )


def test_a_role_without_names_gives_nobody_a_role():
    with pytest.raises(SettingsError, match="roles is empty"):
        Provider("https://sso.example.org", "x", "roles", {Role.ADMIN: ()})
