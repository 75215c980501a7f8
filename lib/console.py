"""What every script does alike: one clear line for an error, an exit code that a shell can trust."""

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from lib.errors import BadInputError, LiverLoopError


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line that `run` prints, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong with the arguments.

        Raises:
            BadInputError: always.
        """
        msg = f"{message}; see {self.prog} --help"
        raise BadInputError(msg)


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run `main` and exit: 0 or its result, 2 with one line for a `LiverLoopError`, 130 on Ctrl-C."""
    try:
        sys.exit(main() or 0)
    except LiverLoopError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
