import re

from lib.errors import frames_of


def test_where_it_happened_and_nothing_of_what_was_read():
    def read():
        return int("Doe^Jane")

    try:
        read()
    except ValueError as error:
        told = frames_of(error)
    assert re.fullmatch(
        r"ValueError \(test_errors\.py:\d+ test_where_it_happened_and_nothing_of_what_was_read > "
        r"test_errors\.py:\d+ read\)",
        told,
    )
