import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.access.tokens import digest, is_token, is_valid, new_token


def test_tokens_are_ours_and_all_different():
    made = {new_token() for _ in range(1000)}
    assert len(made) == 1000
    assert all(is_token(token) and len(token) == 53 for token in made)
    assert len({digest(token) for token in made}) == 1000


def test_what_is_kept_is_a_hash():
    token = new_token()
    assert digest(token) == hashlib.sha256(token.encode()).hexdigest()


@pytest.mark.parametrize(
    "change", [str.upper, lambda t: t[:-1], lambda t: t + "A", lambda t: t + "\n", lambda t: t[10:]]
)
def test_no_tokens(change):
    assert not is_token(change(new_token()))


@given(st.text(max_size=80))
def test_others_are_no_tokens(text):
    assert not is_token(text)


@given(st.floats(0, 1e10), st.floats(0, 1e10), st.none() | st.floats(0, 1e10))
def test_a_token_counts_until_it_ends(now, expires_at, revoked_at):
    assert is_valid(now, expires_at, revoked_at) == (now < expires_at and revoked_at is None)
    assert not is_valid(expires_at, expires_at, None)
