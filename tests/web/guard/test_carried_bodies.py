"""What forms and JSON bodies may hold."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.errors import BadInputError
from lib.web.guard import carried_bodies as bodies
from lib.web.guard.carried import FORBIDDEN, checked


def refused(model, sent, what="form"):
    with pytest.raises(BadInputError) as caught:
        checked(model, sent, what)
    return str(caught.value)


def info(notes):
    return {"info": json.dumps(notes)}


@pytest.mark.parametrize(
    ("model", "sent", "expected"),
    [
        (bodies.NoForm, {}, {}),
        (bodies.InferForm, {}, {}),
        (bodies.InferForm, {"params": ""}, {"params": {}}),
        (bodies.InferForm, {"params": '{"device": "cpu"}'}, {"params": {"device": "cpu"}}),
        (bodies.SaveLabelForm, {"params": '{"client_id": null}'}, {"params": {"client_id": None}}),
        (bodies.AddImageForm, {"params": '{"client_id": "ann"}'}, {"params": {"client_id": "ann"}}),
        (bodies.InfoForm, info({"quality": [1, {"a": True}]}), {"info": {"quality": [1, {"a": True}]}}),
        (bodies.CreateSessionForm, {"client_id": "user-xyz"}, {"client_id": "user-xyz"}),
        (bodies.LoginForm, {"name": "", "password": "", "next": ""}, {"name": "", "password": "", "next": ""}),
        (bodies.LogoutForm, {}, {}),
    ],
    ids=lambda value: None,
)
def test_what_clients_send_passes(model, sent, expected):
    assert checked(model, sent, "form").sent() == expected


def test_a_login_is_that_of_oauth2():
    sent = {"username": "ann", "password": " säßß\U0001f600", "grant_type": "password"}
    assert checked(bodies.TokenForm, sent, "form").sent() == sent
    assert refused(bodies.TokenForm, {**sent, "grant_type": "x"}) == (
        "grant_type = 'x' can't be used; expected 'password' or ''"
    )
    assert refused(bodies.TokenForm, {"username": "ann"}) == "password is missing"
    assert refused(bodies.TokenForm, {**sent, "password": "x" * 1025}) == (
        "password can't be used; expected at most 1024 characters"
    )
    assert refused(bodies.TokenForm, {**sent, "pasword": "secret"}) == (
        "the form must not hold pasword; did you mean password?"
    )


def test_bodies_of_the_ledger_and_of_models():
    assert checked(bodies.Restoration, {"number": 3}).tag == "final"
    assert checked(bodies.Decision, {"reason": " motion \n", "client_id": "bob"}).reason == "motion"
    assert checked(bodies.Publication, {"reason": "better"}).client_id is None
    assert refused(bodies.Restoration, {"number": "3"}, "params") == (
        "params.number = '3' can't be used; expected a whole number"
    )
    assert refused(bodies.Restoration, {"tag": "final"}, "params") == "params.number is missing"
    assert refused(bodies.Decision, {"reason": " "}, "params") == (
        "params.reason can't be used; expected 1 to 500 characters, none of them control"
    )
    assert refused(bodies.Publication, {"reason": "x", "actor": "ann"}, "params") == (
        "params must not hold actor; it may hold client_id, reason"
    )


_NESTED = {"a": {"b": {"c": {"d": 1}}}}
_KEYS = "; notes hold no files, paths or addresses, and nothing that the server itself tells"


@pytest.mark.parametrize(
    ("notes", "expected"),
    [
        ([1], "info must be a JSON object, not list"),
        ({"a": {"b": {"c": {"d": {}}}}}, "info can't be used; expected at most 4 levels of objects and lists"),
        ([[[[[]]]]], "info must be a JSON object, not list"),
        ({"a": [[[[1]]]]}, "info can't be used; expected at most 4 levels of objects and lists"),
        ({"a": list(range(200))}, "info can't be used; expected at most 200 values"),
        ({"a": "x" * 2001}, "info can't be used; expected texts of at most 2000 characters, none of them control"),
        ({"a": ["\0"]}, "info can't be used; expected texts of at most 2000 characters, none of them control"),
        ({"a": [1, float("inf")]}, "info can't be used; expected numbers below 1e+18"),
        ({"a": float("nan")}, "info can't be used; expected numbers below 1e+18"),
        ({"a": -(10**18)}, "info can't be used; expected numbers below 1e+18"),
        ({"": 1}, "info can't be used; expected keys of 1 to 80 characters that can be printed"),
        ({"x" * 81: 1}, "info can't be used; expected keys of 1 to 80 characters that can be printed"),
        ({"a\n": 1}, "info can't be used; expected keys of 1 to 80 characters that can be printed"),
        ({"a": [{"b\0": 1}]}, "info can't be used; expected keys of 1 to 80 characters that can be printed"),
        ({"image_path": "/etc/passwd"}, f"info must not hold image_path{_KEYS}"),
        ({"a": {"Report_Path": "x"}}, f"info must not hold Report_Path{_KEYS}"),
        ({"name": "../../.bashrc"}, f"info must not hold name{_KEYS}"),
        ({"checksum": "x"}, f"info must not hold checksum{_KEYS}"),
    ],
    ids=lambda value: None,
)
def test_notes_are_few_short_and_no_addresses(notes, expected):
    assert refused(bodies.InfoForm, info(notes)) == expected


def test_notes_may_be_as_many_as_that():
    for notes in (
        _NESTED,
        {"a": list(range(199))},
        {"a": "x" * 2000},
        {"x" * 80: 1},
        {"a": [[[1]]]},
        {"a": "b\tc\nd"},
        {"a": [True, None, -5, 0.5]},
    ):
        assert checked(bodies.InfoForm, info(notes)).info == notes


@given(st.sampled_from(sorted(FORBIDDEN)), st.booleans())
def test_notes_hold_no_word_of_the_server(key, inside):
    notes = {"a": [{key: 1}]} if inside else {key: 1}
    assert refused(bodies.AddImageForm, {"params": json.dumps(notes)}) == f"params must not hold {key}{_KEYS}"


@pytest.mark.parametrize("model", [bodies.InferForm, bodies.SaveLabelForm, bodies.AddImageForm, bodies.InfoForm])
@given(
    text=st.text(max_size=40)
    | st.sampled_from(["[" * 9000, '{"a":' * 9000, "NaN", "1e999", '{"a": 1e999}', "\ufeff{}"])
)
def test_any_text_is_read_or_refused(model, text):
    field = next(iter(model.model_fields))
    try:
        found = checked(model, {field: text}, "form").sent()[field]
    except BadInputError:
        return
    json.dumps(found, allow_nan=False)
