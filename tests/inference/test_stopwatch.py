import pytest

from lib.inference.stopwatch import Stopwatch


def test_steps_are_added_up_in_the_order_they_came():
    watch = Stopwatch()
    for step in ("read", "network", "read"):
        with watch(step):
            pass
    assert list(watch.seconds) == ["read", "network"]
    assert min(watch.seconds.values()) >= 0


def test_a_step_that_fails_is_counted_too():
    watch = Stopwatch()
    with pytest.raises(KeyError), watch("read"):
        raise KeyError
    assert "read" in watch.seconds
