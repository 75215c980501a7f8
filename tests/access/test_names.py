import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.access.names import LONGEST, RESERVED, name_key, user_name
from lib.errors import BadInputError

FORM = (
    "a user's name has 1 to 64 letters and digits, with . _ - or @ between them; choose one such as ann or "
    "ann.lee@example.org"
)
SCRIPTS = "a user's name has letters of one script only, so that no two names look the same; choose another"


@pytest.mark.parametrize(
    "name",
    ["ann", "Ann", "a", "7", "ann.lee@example.org", "jürgen-2", "Ольга", "李明", "たろうタロウ太郎", "a" * LONGEST],
)
def test_names(name):
    assert user_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "", " ", "ann lee", " ann", "ann\n", "ann\x00", ".ann", "ann-", "_", "../ann", "a/b", "a\\b", "a" * 65, "a:b",
        "²³¼", "a\u200bn", "a\u202en", "\ud800", "a\u0300\u0301", "=ann", "-rf", "ann;", "Ⅷ¾", "a٣",
    ],
)  # fmt: skip
def test_no_names(name):
    with pytest.raises(BadInputError) as caught:
        user_name(name)
    assert str(caught.value) == FORM


@pytest.mark.parametrize("name", ["аnn", "annа", "Ωann"])  # Cyrillic and Greek letters among Latin ones
def test_letters_of_two_scripts(name):
    with pytest.raises(BadInputError) as caught:
        user_name(name)
    assert str(caught.value) == SCRIPTS


@pytest.mark.parametrize("name", ["server", "Server", "ADMINISTRATOR", "ｓｅｒｖｅｒ"])
def test_names_of_what_no_user_does(name):
    with pytest.raises(BadInputError, match=r"^the name '.*' stands for what no user did; choose another$"):
        user_name(name)
    assert name_key(name) in RESERVED


def test_spellings_of_one_name():
    assert user_name("ａｎｎ") == "ann"
    assert user_name("Ju\u0308rgen") == "Jürgen"
    assert name_key("JÜRGEN") == name_key("ju\u0308rgen") == name_key("Jürgen")
    assert name_key("STRASSE") == name_key("straße")
    assert name_key("ann") != name_key("anna")


@given(st.text(max_size=80))
def test_whatever_passes_is_safe(text):
    try:
        name = user_name(text)
    except BadInputError:
        return
    assert user_name(name) == name == unicodedata.normalize("NFKC", name)
    assert 1 <= len(name) <= LONGEST
    assert not set(name) & set(" /\\:;<>\"'`$%&|*?=+\n\r\t\0")
    assert name[0] not in ".-_@"
    assert name.isprintable()


@given(st.text(max_size=80))
def test_a_refusal_does_not_repeat_what_was_typed(text):
    text = f"my secret {text}"
    with pytest.raises(BadInputError) as caught:
        user_name(text)
    assert str(caught.value) == FORM


@given(st.text(max_size=80))
def test_a_key_has_one_spelling(text):
    assert name_key(name_key(text)) == name_key(text)
