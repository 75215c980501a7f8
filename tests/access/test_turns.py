import threading

import pytest

from lib.access.turns import Turns
from lib.errors import TooManyLoginsError


def test_one_after_the_other():
    turns = Turns(at_once=1, waiting=0)
    for _ in range(3):
        with turns.turn():
            pass


def test_who_waits_too_long_is_refused():
    turns = Turns(at_once=1, waiting=1, wait_s=0.01)
    with turns.turn():
        for _ in range(3):
            with pytest.raises(TooManyLoginsError) as caught, turns.turn():
                pass
    assert str(caught.value) == "too many people log in at this moment; try again in 5 s"
    assert caught.value.retry_after_s == 5


def test_no_more_wait_than_may():
    """Else logins, which need no password, would take every thread of the server."""
    turns, held, done = Turns(at_once=1, waiting=3, wait_s=60), threading.Event(), []

    def wait():
        with turns.turn():
            done.append(True)

    with turns.turn():
        threads = [threading.Thread(target=wait) for _ in range(3)]
        for thread in threads:
            thread.start()
        while turns._places._value:
            held.wait(0.001)
        with pytest.raises(TooManyLoginsError), turns.turn():  # at once
            pass
    for thread in threads:
        thread.join()
    assert len(done) == 3
