"""Arguments of benchmarks that count something."""

import argparse

from lib.errors import BadInputError


def check_counts(arguments: argparse.Namespace, *names: str) -> None:
    """Refuse numbers below 1 among the named options; one that was not given is None.

    Raises:
        BadInputError: the first of them.
    """
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value < 1:
            msg = f"--{name} must be at least 1, not {value}"
            raise BadInputError(msg)
