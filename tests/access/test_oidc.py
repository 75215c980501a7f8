import base64
import hashlib
import hmac
import json
import time
from contextlib import suppress

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lib.access.claims import Identity
from lib.access.oidc import LONGEST, TokenCheck
from lib.access.provider import Provider
from lib.access.roles import Role
from lib.errors import ForbiddenError, LoginError
from tests.access.identity_provider import AUDIENCE, IdentityProvider, SigningKey, unsigned

ROLES = {Role.ANNOTATOR: ("liverloop-annotators",), Role.ADMIN: ("liverloop-admins",)}
RSA, EC = SigningKey("rsa"), SigningKey("ec", "ES256")
OTHER = SigningKey("rsa")  # of somebody else, under the same id


@pytest.fixture(scope="module")
def sso(tmp_path_factory):
    with IdentityProvider(tmp_path_factory.mktemp("sso"), [RSA, EC]) as provider:
        yield provider


@pytest.fixture(scope="module")
def check(sso):
    return TokenCheck(Provider(sso.issuer, AUDIENCE, "realm_access.roles", ROLES, certificates=sso.certificates))


def refusal(check, token):
    with pytest.raises(LoginError) as caught:
        check.who(token)
    message = str(caught.value)
    assert caught.value.__cause__ is None
    assert message.startswith("the token can't be trusted: ")
    return message.removeprefix("the token can't be trusted: ")


@pytest.mark.parametrize("key", [RSA, EC], ids=["RS256", "ES256"])
def test_who_has_a_token_of_the_provider(sso, check, key):
    expires_at = int(time.time()) + 60
    found = check.who(sso.token(key, exp=expires_at))
    assert found == Identity("ann", Role.ANNOTATOR, "f3b1-7", sso.issuer, float(expires_at))
    assert check.who(sso.token(key, realm_access={"roles": ["liverloop-admins"]})).role is Role.ADMIN
    assert check.who(sso.token(key, {"typ": "at+jwt"}, typ=None, aud=AUDIENCE)).name == "ann"


def test_another_name_and_role_claim(sso):
    provider = Provider(
        sso.issuer, AUDIENCE, "https://x.org/groups", {Role.REVIEWER: ("7",)}, "email", sso.certificates
    )
    found = TokenCheck(provider).who(sso.token(email="ann@x.org", **{"https://x.org/groups": ["7"]}))
    assert (found.name, found.role) == ("ann@x.org", Role.REVIEWER)


def test_no_role_here(sso, check):
    with pytest.raises(ForbiddenError, match=r"^ann has no role in LiverLoop; let the identity provider put one of "):
        check.who(sso.token(realm_access={"roles": ["offline_access"]}))


NOW = int(time.time())
DAMAGED, LACKS = "it is damaged", "it lacks one of exp, iat, iss, aud and sub"
EXPIRED = "it has expired; log in again"
EARLY = "it is not valid yet; compare the clocks of server and identity provider"
AUDIENCES = "it is for another audience than access.oidc.audience"
ISSUERS = "it is from another issuer than access.oidc.issuer"
NO_ACCESS = "it is no access token"
UNSIGNED = "it is not signed by RS256 or ES256"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": NOW - 40}, EXPIRED),
        ({"nbf": NOW + 600}, EARLY),
        ({"iat": NOW + 600}, EARLY),
        ({"aud": "account"}, AUDIENCES),
        ({"aud": ["account", AUDIENCE.upper()]}, AUDIENCES),
        ({"aud": []}, LACKS),
        ({"aud": {"x": 1}}, AUDIENCES),
        ({"iss": "https://127.0.0.1/realms/hospital"}, ISSUERS),
        *(({name: None}, LACKS) for name in ("exp", "iat", "sub", "aud", "iss")),
        ({"exp": "tomorrow"}, DAMAGED),
        ({"exp": 1e400}, DAMAGED),
        ({"typ": "ID"}, NO_ACCESS),
        ({"typ": "Refresh"}, NO_ACCESS),
    ],
)
def test_refused_claims(sso, check, changes, reason):
    assert refusal(check, sso.token(**changes)) == reason


def test_clocks_may_differ_a_little(sso, check):
    now = int(time.time())
    assert check.who(sso.token(exp=now - 10)).name == "ann"
    assert check.who(sso.token(nbf=now + 20, iat=now + 20)).name == "ann"


def test_a_token_signed_by_another_key(sso, check):
    assert refusal(check, sso.token(OTHER)) == "its signature is wrong"


def test_a_changed_token(sso, check):
    header, _, signature = sso.token().split(".")
    stronger = sso.token(realm_access={"roles": ["liverloop-admins"]}).split(".")[1]
    assert refusal(check, ".".join((header, stronger, signature))) == "its signature is wrong"


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "NONE", "", None, "HS256", "HS512", "RS384", "PS256", "ES384", "EdDSA"]
)
def test_other_algorithms_never_count(sso, check, algorithm):
    for signature in (b"", b"x" * 32):
        assert refusal(check, unsigned({"alg": algorithm, "kid": "rsa"}, sso.claims(), signature)) in {
            UNSIGNED,
            DAMAGED,
        }


def test_the_public_key_is_no_shared_secret(sso, check):
    """HS256 with the text of the public key as its secret, which libraries once took for a signature."""
    pem = RSA.private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    signed = unsigned({"alg": "HS256", "kid": "rsa"}, sso.claims()).rpartition(".")[0]
    signature = hmac.new(pem, signed.encode(), hashlib.sha256).digest()
    token = unsigned({"alg": "HS256", "kid": "rsa"}, sso.claims(), signature)
    assert token.startswith(signed)
    assert refusal(check, token) == UNSIGNED
    lying = unsigned({"alg": "RS256", "kid": "rsa"}, sso.claims(), signature)
    assert refusal(check, lying) == "its signature is wrong"


def test_a_key_counts_for_its_own_algorithm_only(sso, check):
    token = unsigned({"alg": "ES256", "kid": "rsa"}, sso.claims(), b"x" * 64)
    assert refusal(check, token) == "the identity provider has no such key"


def test_a_token_can_not_bring_its_key(sso, check):
    """`jwk`, `jku` and `x5u` in the header are never read."""
    asked = sso.asked.copy()
    for headers in ({"jwk": OTHER.listed}, {"jku": sso.address + "/mine"}, {"x5u": sso.address + "/mine"}):
        assert refusal(check, sso.token(OTHER, headers)) == "its signature is wrong"
    assert sso.asked["/mine"] == 0
    assert sso.asked == asked


@pytest.mark.parametrize("headers", [{"typ": "logout+jwt"}, {"typ": 7}, {"crit": ["exp"]}])
def test_other_kinds_of_tokens(sso, check, headers):
    token = unsigned({"alg": "RS256", "kid": "rsa", **headers}, sso.claims(), b"x" * 256)
    assert refusal(check, token) in {NO_ACCESS, DAMAGED}


@pytest.mark.parametrize(
    "token", ["", ".", "..", "a.b.c", "e30.e30.e30", "x" * 100, "\ud800", "é.é.é", "\0", "e30.e30", "[1].{}.x"]
)
def test_no_tokens(check, token):
    assert refusal(check, token) in {DAMAGED, UNSIGNED}


def test_a_huge_token(check):
    assert refusal(check, "x" * (LONGEST + 1)) == f"it has more than {LONGEST} characters"


def test_deep_json(check):
    deep = base64.urlsafe_b64encode(b"[" * 6000).rstrip(b"=").decode()
    assert refusal(check, f"{deep}.e30.x") == DAMAGED


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.data())
def test_no_changed_byte_is_overlooked(sso, check, data):
    token = _TOKEN.setdefault(sso.issuer, sso.token())
    place = data.draw(st.integers(0, len(token) - 1))
    letter = data.draw(st.characters())
    changed = token[:place] + letter + token[place + 1 :]
    try:
        found = check.who(changed)
    except (LoginError, ForbiddenError):
        return
    # The last letter of the signature has bits that mean nothing.
    assert changed == token or place == len(token) - 1
    assert found.role is Role.ANNOTATOR


_TOKEN: dict[str, str] = {}


_VALUES = st.none() | st.integers() | st.text(max_size=8) | st.lists(st.text(max_size=4))


@given(
    st.dictionaries(
        st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "cty"]), _VALUES | st.sampled_from(["RS256", "rsa"])
    ),
    st.binary(max_size=300),
)
def test_no_header_opens(sso, check, header, signature):
    with pytest.raises(LoginError):
        check.who(unsigned(header, sso.claims(), signature))


def test_no_claim_of_a_trusted_token_breaks_anything(sso, check):
    for value in (None, 7, [], {}, "x", [7], {"roles": 7}, {"roles": {"a": 1}}):
        for name in ("preferred_username", "realm_access", "sub", "typ", "nbf", "iat"):
            with suppress(LoginError, ForbiddenError):
                assert check.who(_signed(sso.claims() | {name: value})).role is Role.ANNOTATOR


def _signed(claims):
    return jwt.PyJWS().encode(json.dumps(claims).encode(), RSA.private, "RS256", headers={"kid": "rsa"})


@pytest.mark.filterwarnings("ignore:The RSA key is 1024 bits long")
def test_small_and_foreign_keys_are_not_listed(tmp_path):
    weak, odd = SigningKey("weak", bits=1024), SigningKey("odd", "ES256", curve=ec.SECP384R1())
    with IdentityProvider(tmp_path, [weak, odd, RSA]) as sso:
        check = TokenCheck(Provider(sso.issuer, AUDIENCE, "realm_access.roles", ROLES, certificates=sso.certificates))
        assert check.who(sso.token(RSA)).name == "ann"
        assert refusal(check, sso.token(weak)) == "the identity provider has no such key"
        forged = unsigned({"alg": "ES256", "kid": "odd"}, sso.claims(), b"x" * 96)
        assert refusal(check, forged) == "the identity provider has no such key"
