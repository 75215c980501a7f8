import pytest

from lib.errors import BadInputError
from lib.web.clients import client_of


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
    assert client_of(params, "10.0.0.7") == expected


def test_an_unknown_address():
    assert client_of({}, None) == "anonymous@unknown"


@pytest.mark.parametrize("name", [5, True, ["anna"], {"a": 1}, "x" * 121, "a\nb", "a\x00", "\x7f", "\x85", "\ud800"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(BadInputError) as caught:
        client_of({"client_id": name}, "10.0.0.7")
    assert str(caught.value) == (
        f"client_id = {str(name)[:80]!r} can't be used; expected at most 120 characters, none of them control"
    )
