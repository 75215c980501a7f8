"""Words for refusals, and the kinds of values."""

from typing import Annotated, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, Json, ValidationError

from lib.errors import BadInputError
from lib.web.guard.carried import (
    FORBIDDEN,
    Carried,
    CarriedText,
    Checksum,
    ClientId,
    Device,
    Gpus,
    ImageId,
    LogLevel,
    ModelName,
    Number,
    OrEmpty,
    OwnPage,
    Reason,
    Resume,
    RunName,
    SessionId,
    Skip,
    Tag,
    VersionId,
    checked,
    explain,
)

NAMES = "it must have 1 to 240 bytes, not begin with a dot and hold no slash, backslash or control character"


def refused(model, sent, what="params"):
    with pytest.raises(BadInputError) as caught:
        checked(model, sent, what)
    return str(caught.value)


class Inner(Carried):
    epochs: int = Field(default=1, ge=1, le=9)
    share: float = Field(default=0, ge=0, lt=0.5)
    deep: bool = False
    kind: Literal["a", "b"] = "a"
    text: str = Field(default="abc", min_length=2, max_length=3)
    few: Annotated[list[int], Field(min_length=1, max_length=2)] = Field(default=[1])


class Outer(CarriedText):
    params: Json[Inner]
    image: ImageId = "a"
    count: int = 0


class Secret(CarriedText):
    password: str = Field(max_length=8)
    client_secret: Annotated[str, Field(max_length=8)] = ""
    reason: Reason = "x"


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({"epochs": 0}, "params.epochs = 0 can't be used; expected at least 1"),
        ({"epochs": 10}, "params.epochs = 10 can't be used; expected at most 9"),
        ({"epochs": "5"}, "params.epochs = '5' can't be used; expected a whole number"),
        ({"epochs": True}, "params.epochs = True can't be used; expected a whole number"),
        ({"epochs": 1.5}, "params.epochs = 1.5 can't be used; expected a whole number"),
        ({"epochs": None}, "params.epochs = None can't be used; expected a whole number"),
        ({"share": -1}, "params.share = -1 can't be used; expected at least 0"),
        ({"share": 0.5}, "params.share = 0.5 can't be used; expected less than 0.5"),
        ({"share": "0.1"}, "params.share = '0.1' can't be used; expected a number"),
        ({"share": float("nan")}, "params.share = nan can't be used; expected a number"),
        ({"share": float("-inf")}, "params.share = -inf can't be used; expected a number"),
        ({"deep": 1}, "params.deep = 1 can't be used; expected true or false"),
        ({"deep": "true"}, "params.deep = 'true' can't be used; expected true or false"),
        ({"kind": "c"}, "params.kind = 'c' can't be used; expected 'a' or 'b'"),
        ({"text": 5}, "params.text = 5 can't be used; expected text"),
        ({"text": "a"}, "params.text = 'a' can't be used; expected at least 2 characters"),
        ({"text": "abcd"}, "params.text = 'abcd' can't be used; expected at most 3 characters"),
        ({"text": "a\ud800"}, "params.text = 'a\\ud800' can't be used; expected text"),
        ({"few": {}}, "params.few = {} can't be used; expected a list"),
        ({"few": []}, "params.few = [] can't be used; expected at least 1 entry"),
        ({"few": [1, 2, 3]}, "params.few = [1, 2, 3] can't be used; expected at most 2 entries"),
        ({"few": ["x"]}, "params.few.0 = 'x' can't be used; expected a whole number"),
        ({"kind": "x" * 100}, f"params.kind = '{'x' * 76}... can't be used; expected 'a' or 'b'"),
        ({"epoch": 1}, "params must not hold epoch; did you mean epochs?"),
        ({"x": 1}, "params must not hold x; it may hold epochs, share, deep, kind, text, few"),
        ({"\n": 1}, "params must not hold '\\n'; it may hold epochs, share, deep, kind, text, few"),
        ({"a": 1, "b": 1, "c": 1, "d": 1}, "params must not hold a, b, c and 1 more; it may hold epochs, share, deep, "
         "kind, text, few"),
        ({"bundle_path": 1, "x": 2}, "params must not hold bundle_path, x; that is set by the server itself"),
        ({"image": 1}, "params must not hold image; images, models, strategies and methods are named in the request's "
         "address"),
        ({"session": {}}, "params must not hold session; name a session by session_id in the request's address"),
        ({"skip_writer": 1}, "params must not hold skip_writer; result_write_to_file = false answers with the figures "
         "alone"),
        ([], "params must be a JSON object, not list"),
        ("x", "params must be a JSON object, not str"),
        (None, "params must be a JSON object, not NoneType"),
    ],
    ids=lambda value: None,
)  # fmt: skip
def test_an_error_names_the_place_the_value_and_what_is_expected(sent, expected):
    assert refused(Inner, sent) == expected


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({"params": '{"epochs": 0}'}, "params.epochs = 0 can't be used; expected at least 1"),
        ({"params": '{"epoch": 0}'}, "params must not hold epoch; did you mean epochs?"),
        ({"params": "{"}, "params is not valid JSON: EOF while parsing an object at line 1 column 1"),
        ({"params": "[]"}, "params must be a JSON object, not list"),
        ({}, "params is missing"),
        ({"params": "{}", "param": ""}, "the form must not hold param; did you mean params?"),
        ({"params": "{}", "image": "../x"}, f"image id '../x' is not allowed; {NAMES}"),
        ({"params": "{}", "count": "x"}, "count = 'x' can't be used; expected a whole number"),
    ],
    ids=lambda value: None,
)
def test_the_parts_of_a_form_have_names_of_their_own(sent, expected):
    assert refused(Outer, sent, "form") == expected


def test_numbers_of_forms_and_addresses_are_text():
    assert checked(Outer, {"params": "{}", "count": "3"}, "form").count == 3


def test_within_named_things_a_name_that_is_refused_says_where():
    class One(Carried):
        tag: Tag = "final"

    assert refused(One, {"tag": "a/b"}) == f"params.tag: label tag 'a/b' is not allowed; {NAMES}"


def test_at_most_three_errors_are_told():
    wrong = {"epochs": 0, "share": 1, "deep": 0, "kind": 0, "text": 0}
    assert refused(Inner, wrong) == (
        "params.epochs = 0 can't be used; expected at least 1; params.share = 1 can't be used; expected less than 0.5; "
        "params.deep = 0 can't be used; expected true or false; and 2 more"
    )


def test_what_is_sent_is_told_without_defaults():
    assert checked(Inner, {"epochs": 2}).sent() == {"epochs": 2}
    assert checked(Inner, {}).sent() == {}


@settings(max_examples=30)
@given(st.text(min_size=9, max_size=40), st.text(min_size=1, max_size=9).map(lambda text: text * 501))
def test_neither_secrets_nor_free_text_are_shown(secret, reason):
    told = refused(Secret, {"password": secret, "client_secret": secret, "reason": reason}, "form")
    assert told == (
        "password can't be used; expected at most 8 characters; client_secret can't be used; expected at most 8 "
        "characters; reason can't be used; expected 1 to 500 characters, none of them control"
    )


def test_errors_of_pydantic_itself_show_no_input():
    with pytest.raises(ValidationError) as caught:
        Secret.model_validate({"password": "much too long"})
    assert "much too long" not in str(caught.value)
    assert explain(caught.value, "form") == "password can't be used; expected at most 8 characters"


class One(Carried):
    image: ImageId | None = None
    tag: Tag | None = None
    run: RunName | None = None
    client: ClientId | None = None
    session: SessionId | None = None
    empty: Annotated[SessionId, OrEmpty] = ""
    model: ModelName | None = None
    version: VersionId | None = None
    checksum: Checksum | None = None
    page: OwnPage | None = None
    reason: Reason = "x"
    device: Device = "cpu"
    gpus: Gpus = ""
    level: LogLevel = "INFO"
    skipped: Skip = False
    resume: Resume = False
    number: Number = 1


UUID = "0a1b2c3d-0a1b-11ee-8c99-0242ac120002"


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("image", ["case.1.2", "1.2.840.113619", "Müller", "a b", "%2e%2e%2fetc", "~root", "x" * 240]),
        ("tag", ["final", "original", "second reader"]),
        ("run", ["train_01", "second try"]),
        ("client", ["", "user-xyz", "Jörg", "x" * 120]),
        ("session", [UUID]),
        ("empty", ["", UUID]),
        ("model", ["liver_tumor", "a.b-c", "x" * 80]),
        ("version", ["published", "20250131-142500-000123", "sha256:0123", "x" * 100]),
        ("checksum", ["SHA256:" + "0aF" * 20, "0" * 64]),
        ("page", ["/", "/ohif/", "/ohif/viewer?StudyInstanceUIDs=1.2.3&x=%20[a]#b"]),
        ("reason", ["x", "Bewegung über\nzwei Schichten"]),
        ("device", ["", "cpu", "cuda:1", "Quadro RTX 6000/8000:0", ["cuda", "cpu"]]),
        ("gpus", ["", "all", "0", "0,1,15"]),
        ("level", ["info", "WARNING", "DEBUG"]),
        ("skipped", [True, False, "", "arms down"]),
        ("resume", [True, False, "20250131-142500"]),
        ("number", [1, 2**31 - 1]),
    ],
)
def test_values_of_each_kind(key, values):
    for value in values:
        assert getattr(checked(One, {key: value}), key) == value


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("image", ["", ".", "..", "../x", "/etc/passwd", "a\\b", "a\0", "a\n", ".x", "x" * 241, "ü" * 121, 5, ["a"]]),
        ("tag", ["", "a/b", "refused", "..", 1]),
        ("run", ["../../x", "/x", "", ".", 1]),
        ("client", ["a\n", "\x85", "x" * 121, 5, ["a"]]),
        ("session", ["", "nobody", "..", UUID.upper(), UUID + "\n", "../" + UUID, UUID[:-1]]),
        ("empty", ["x", " ", None, 0]),
        ("model", ["", "a/b", "a b", "ä", "x" * 81, "a\n", "m:1", 1]),
        ("version", ["", "/x", "../x", ".x", "a/b", "x" * 101, "a\n", 1]),
        ("checksum", ["", "x", "SHA256:", "SHA256:../..", "0" * 129, "sha_256:" + "0" * 64]),
        ("page", ["", "ohif", "//evil.example", "/\\evil.example", "https://evil.example", "/a b",
                  "/a\n", "/ü", "/" + "a" * 2000]),
        ("reason", ["", " \n ", "a\0", "x" * 501, None]),
        ("device", [None, 3, [], [1], "a\n", "x" * 121, ["cpu"] * 65, {}]),
        ("gpus", ["a", "0,", ",", "0;1", "../", "1" * 4, ",".join(["1"] * 33), "0\n", 5, None]),
        ("level", ["loud", "", 10, None]),
        ("skipped", [None, 1, "x" * 501, "a\0", ["x"]]),
        ("resume", [None, 1, "", "/etc/passwd", "../x", "a\n", []]),
        ("number", [0, 2**31, -1, 1.0, "1", True]),
    ],
)  # fmt: skip
def test_values_that_no_kind_takes(key, values):
    for value in values:
        assert refused(One, {key: value}).startswith(f"params.{key}"), (key, value)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=90), inner, max_size=3),
    max_leaves=8,
)
_KEYS = st.sampled_from([*One.model_fields, *FORBIDDEN])


@given(st.dictionaries(_KEYS | st.text(max_size=200), _JSON, max_size=6) | _JSON)
def test_any_refusal_is_one_short_line(sent):
    told = ""
    try:
        checked(One, sent)
    except BadInputError as error:
        told = str(error)
    assert told.isprintable()
    assert len(told) < 1500
