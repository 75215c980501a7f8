from types import SimpleNamespace

import pytest

from lib.access.roles import Role
from lib.errors import BadInputError
from lib.web.clients import address_of, client_of
from lib.web.guard.callers import SCOPE_KEY, Caller


def asked(host, **scope):
    return SimpleNamespace(client=host and SimpleNamespace(host=host), scope=scope)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"client_id": "anna"}, "anna"),
        ({"client_id": "Ана Ђ, ward 3"}, "Ана Ђ, ward 3"),
        ({"client_id": "x" * 120}, "x" * 120),
        ({}, "anonymous@10.0.0.7"),
        ({"client_id": None}, "anonymous@10.0.0.7"),
        ({"client_id": ""}, "anonymous@10.0.0.7"),
        ({"client_id": "user-xyz"}, "user-xyz@10.0.0.7"),
    ],
)
def test_names_tell_clients_apart(params, expected):
    assert client_of(params, asked("10.0.0.7")) == expected


def test_an_unknown_address():
    assert client_of({}, asked(None)) == "anonymous@unknown"


@pytest.mark.parametrize("name", [5, True, ["anna"], {"a": 1}, "x" * 121, "a\nb", "a\x00", "\x7f", "\x85", "\ud800"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(BadInputError) as caught:
        client_of({"client_id": name}, asked("10.0.0.7"))
    assert str(caught.value) == (
        f"client_id = {str(name)[:80]!r} can't be used; expected at most 120 characters, none of them control"
    )


@pytest.mark.parametrize(
    "params", [{}, {"client_id": "bob"}, {"client_id": "user-xyz"}, {"client_id": "a\nb"}, {"client_id": 5}]
)
def test_who_is_logged_in_can_not_say_otherwise(params):
    scope = {SCOPE_KEY: Caller("ann", Role.ANNOTATOR)}
    assert client_of(params, asked("10.0.0.7", **scope)) == "ann"


def test_addresses():
    assert (address_of(asked("10.0.0.7")), address_of(asked(None))) == ("10.0.0.7", "unknown")
