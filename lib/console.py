"""What every script does alike: one clear line for an error, an exit code that a shell can trust."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from lib.errors import BadInputError, LiverLoopError, StorageError
from lib.files import try_writing
from lib.imports import end_imports


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line that `run` prints, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong with the arguments.

        Raises:
            BadInputError: always.
        """
        msg = f"{message}; see {self.prog} --help"
        raise BadInputError(msg)


def check_output_folder(folder: Path) -> None:
    """Make sure that files can be written to a folder, before the work whose result would be lost. Makes nothing.

    Args:
        folder: where files will go; it need not exist yet, but then it must be possible to make it.

    Raises:
        StorageError: a part of the path is a file, or the file system refuses.
    """
    try:
        existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        try_writing(existing)
    except OSError as error:
        msg = f"can't write to the folder {folder} ({error.strerror}); choose another or change its permissions"
        raise StorageError(msg) from error


def check_output_file(path: Path) -> None:
    """Make sure that a file can be written, before the work whose result would be lost. Makes nothing.

    Raises:
        BadInputError: there is a folder of this name.
        StorageError: as for `check_output_folder`.
    """
    if path.is_dir():
        msg = f"can't write {path}: it is a folder; name a file"
        raise BadInputError(msg)
    check_output_folder(path.parent)


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run `main` and exit with its result, or 0 for None.

    2 with one line for a `LiverLoopError` or too little memory, 130 on Ctrl-C, 141 when the reader of a pipe has gone.
    """
    end_imports()
    try:
        sys.exit(main() or 0)
    except LiverLoopError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        sys.exit(2)
    except MemoryError as error:
        sys.stderr.write(f"error: not enough memory ({str(error) or 'nothing more is known'})\n")
        sys.exit(2)
    except BrokenPipeError:
        # As other programs end under `| head`; what Python would still flush goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
