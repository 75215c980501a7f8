import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.access.claims import Identity, claim_at, identity
from lib.access.roles import Role
from lib.errors import ForbiddenError, LoginError

ROLES = {Role.ANNOTATOR: ("students", "radiology"), Role.ADMIN: ("it",), Role.REVIEWER: ("seniors",)}
CLAIMS = {"sub": "7", "iss": "https://sso", "exp": 99, "name": "Ann", "groups": ["students", "x"]}


def who(**changes):
    return identity(CLAIMS | changes, "name", "groups", ROLES)


def test_the_highest_role_counts():
    assert who() == Identity("Ann", Role.ANNOTATOR, "7", "https://sso", 99.0)
    assert who(groups=["students", "it", "seniors"]).role is Role.ADMIN
    assert who(groups=["seniors", "radiology"]).role is Role.REVIEWER
    assert who(groups="openid it").role is Role.ADMIN  # as `scope` is written


@pytest.mark.parametrize("groups", [None, [], {}, 7, "IT", ["IT"], [["it"]], {"it": True}, [7], "item"])
def test_no_role_of_ours(groups):
    with pytest.raises(ForbiddenError) as caught:
        who(groups=groups)
    assert str(caught.value) == (
        "Ann has no role in LiverLoop; let the identity provider put one of access.oidc.roles in groups"
    )


@pytest.mark.parametrize("name", [None, 7, ["ann"]])
def test_no_name(name):
    with pytest.raises(LoginError) as caught:
        who(name=name)
    assert str(caught.value) == (
        "the token has no name; let the identity provider add it, or name another claim in access.oidc"
    )


@pytest.mark.parametrize("name", ["", "server", "CLINIC\\ann", "a b", "../x"])
def test_a_name_that_no_user_can_have(name):
    with pytest.raises(LoginError, match=r"^the token's name can't be used: (a user's name has|the name 'server')"):
        who(name=name)


def test_claims_by_path():
    claims = {"a": {"b": {"c": 1}, "b.c": 2}, "https://x.org/roles": 3, "a.b": 4, "n": None}
    assert claim_at(claims, "a.b.c") == 1
    assert claim_at(claims, "https://x.org/roles") == 3
    assert claim_at(claims, "a.b") == 4
    for path in ("", ".", "a.", "a.x", "n.a", "https://x", "a.b.c.d"):
        assert claim_at(claims, path) is None


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
)


@given(_JSON, _JSON)
def test_whatever_a_provider_says_there_is_an_answer(name, groups):
    try:
        found = who(name=name, groups=groups)
    except (LoginError, ForbiddenError):
        return
    assert found.role in Role
