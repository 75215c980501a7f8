import threading
import time
import unicodedata

import pytest
from argon2 import PasswordHasher
from hypothesis import given
from hypothesis import strategies as st

from lib.access import passwords
from lib.access.passwords import check_password, hashed, is_outdated, is_right
from lib.errors import BadInputError, TooManyLoginsError

GOOD = "correct horse battery"
CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


@pytest.fixture
def cheap(monkeypatch):
    """Argon2 without the work that makes it safe."""
    monkeypatch.setattr(passwords, "_HASHER", CHEAP)
    passwords._nobodys.cache_clear()
    yield
    passwords._nobodys.cache_clear()


def test_a_password_is_known_again():
    kept = hashed(GOOD)
    assert is_right(GOOD, kept)
    assert not is_right(GOOD + " ", kept)
    assert not is_right("", kept)
    assert kept.startswith("$argon2id$v=19$m=65536,t=3,p=4$")  # RFC 9106, second recommendation
    assert GOOD not in kept
    assert hashed(GOOD) != kept
    assert not is_outdated(kept)


def test_nobody_has_a_password(cheap):
    for password in ("", GOOD, "the password of a user who does not exist"):
        assert not is_right(password, None)


def test_what_is_kept_may_be_damaged(cheap):
    for kept in ("", "x", "$argon2id$v=19$m=8,t=1,p=1$x", CHEAP.hash(GOOD)[:-2]):
        assert not is_right(GOOD, kept)


def test_a_hash_of_weaker_parameters_is_outdated():
    kept = CHEAP.hash(GOOD)
    assert is_right(GOOD, kept)
    assert is_outdated(kept)


def test_an_umlaut_is_the_same_from_every_keyboard(cheap):
    assert is_right("u\u0308ber den wolken", hashed("über den wolken"))


@pytest.mark.parametrize("password", ["\ud800" * 12, "x" * 1025])
def test_what_can_be_no_password_is_wrong(cheap, password):
    assert not is_right(password, hashed(""))
    assert not is_right(password, None)


@given(st.text(min_size=12, max_size=40), st.text(max_size=40))
def test_only_the_same_is_right(one, other):
    one, other = (unicodedata.normalize("NFC", text) for text in (one, other))
    kept = CHEAP.hash(one.encode())
    assert is_right(one, kept)
    assert is_right(other, kept) == (one == other)


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("", "the password has fewer than 12 characters; choose a longer one, such as four words"),
        ("x" * 11, "the password has fewer than 12 characters; choose a longer one, such as four words"),
        ("x" * 1025, "the password has more than 1024 characters; choose a shorter one"),
        ("anna.annason", "the password has fewer than 12 characters besides the user's own name; choose another"),
        ("Anna.AnnaSon2026", "the password has fewer than 12 characters besides the user's own name; choose another"),
        ("\udcff" * 12, "the password holds something that is no text; choose another"),
    ],
)
def test_refused(password, reason):
    with pytest.raises(BadInputError) as caught:
        check_password(password, "anna.annason")
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    "password", ["x" * 12, "x" * 1024, "anna.annason and a horse", "zwölf Zeichen", "        7     "]
)
def test_allowed(password):
    check_password(password, "anna.annason")


@given(st.text("0123456789ABC", min_size=4, max_size=11))
def test_a_refusal_does_not_repeat_the_password(password):
    with pytest.raises(BadInputError) as caught:
        check_password(password, "ann")
    assert password not in str(caught.value)


def test_a_name_that_nobody_has_takes_as_long(cheap, monkeypatch):
    monkeypatch.setattr(passwords, "_HASHER", PasswordHasher(time_cost=2, memory_cost=8192, parallelism=1))
    kept = hashed(GOOD)
    is_right("the first one makes nobody's hash", None)
    took = {None: [], kept: []}
    for _ in range(25):
        for known in took:  # in turn, so that other work on the machine meets both
            start = time.perf_counter()
            assert not is_right("wrong horse battery", known)
            took[known].append(time.perf_counter() - start)
    ratio = min(took[None]) / min(took[kept])  # other work only makes it longer
    assert 0.5 < ratio < 2, ratio


def test_logins_wait_for_their_turn(cheap, monkeypatch):
    monkeypatch.setattr(passwords._turns, "wait_s", 0.05)
    with passwords._turns.turn(), passwords._turns.turn(), pytest.raises(TooManyLoginsError) as caught:
        hashed(GOOD)
    assert str(caught.value) == "too many people log in at this moment; try again in 5 s"
    assert caught.value.retry_after_s == 5
    assert is_right(GOOD, hashed(GOOD))


def test_no_more_than_two_at_once(cheap, monkeypatch):
    running, most = 0, 0
    lock = threading.Lock()

    class Counting:
        def verify(self, kept, given):
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.01)
            with lock:
                running -= 1
            return CHEAP.verify(kept, given)

        hash = CHEAP.hash

    kept = hashed(GOOD)
    monkeypatch.setattr(passwords, "_HASHER", Counting())
    threads = [threading.Thread(target=is_right, args=(GOOD, kept)) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 2
