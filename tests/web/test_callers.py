from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from lib.access.roles import Role
from lib.web.guard.callers import COOKIE, NOBODY, SCOPE_KEY, Caller, caller_of, token_of


def test_who_asks_stands_in_the_scope():
    ann = Caller("ann", Role.ANNOTATOR)
    assert caller_of(SimpleNamespace(scope={SCOPE_KEY: ann})) is ann
    for scope in ({}, {SCOPE_KEY: None}, {SCOPE_KEY: "ann"}):
        assert caller_of(SimpleNamespace(scope=scope)) is NOBODY
    assert (NOBODY.name, NOBODY.role) == (None, Role.ADMIN)


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ({}, None),
        ({"authorization": "Bearer abc"}, "abc"),
        ({"authorization": "bearer  abc "}, "abc"),
        ({"authorization": "BEARER abc"}, "abc"),
        ({"authorization": "Bearer"}, None),
        ({"authorization": "Bearer "}, None),
        ({"authorization": "Basic YTpi"}, None),
        ({"authorization": "abc"}, None),
        ({"cookie": f"{COOKIE}=abc"}, "abc"),
        ({"cookie": f"a=1; {COOKIE}=abc;b=2"}, "abc"),
        ({"cookie": f'odd cookie; "=;[]=1; {COOKIE}=abc'}, "abc"),
        ({"cookie": f"{COOKIE}=first; {COOKIE}=second"}, "first"),
        ({"cookie": f"{COOKIE}="}, None),
        ({"cookie": f"x{COOKIE}=abc; {COOKIE}x=abc; {COOKIE.upper()}=abc"}, None),
        ({"authorization": "Bearer abc", "cookie": f"{COOKIE}=def"}, "abc"),
        ({"authorization": "Basic YTpi", "cookie": f"{COOKIE}=def"}, "def"),
    ],
    ids=str,
)
def test_the_token_of_a_request(headers, token):
    assert token_of(headers) == token
    assert token_of(Headers({name.title(): value for name, value in headers.items()})) == token


@given(st.text(), st.text())
def test_no_header_breaks_it(authorization, cookie):
    assert token_of({"authorization": authorization, "cookie": cookie}) != ""
