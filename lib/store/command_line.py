"""What the scripts that work on a ledger ask for alike: which studies."""

import argparse
from pathlib import Path

from lib.errors import BadInputError, NotFoundError
from lib.inference.command_line import add_command_options
from lib.store.layout import Layout
from lib.store.studies import is_pacs, named_studies


def add_ledger_options(parser: argparse.ArgumentParser, *, after_command: bool) -> None:
    """Add `--studies` and what every script with commands has; they may stand before a command or behind it."""
    add_command_options(parser, after_command=after_command)
    default = argparse.SUPPRESS if after_command else None
    parser.add_argument(
        "--studies",
        default=default,
        type=named_studies,
        metavar="DIR|URL",
        help="folder with the images, or address of a PACS; required",
    )


def check_studies(studies: str | Path, *, may_be_new: bool) -> None:
    """Make sure that a mistyped folder gets no ledger.

    Args:
        studies: the folder, or the address of a PACS, which has its own checks.
        may_be_new: the folder need not have a ledger yet.

    Raises:
        NotFoundError: there is no such folder.
        BadInputError: it has no ledger.
    """
    if is_pacs(studies):
        return
    studies = Path(studies)
    if not studies.is_dir():
        msg = f"there is no studies folder {studies}"
        raise NotFoundError(msg)
    if not may_be_new and not (Layout(studies.resolve()).ledger / "id").is_file():
        msg = f"{studies} has no ledger yet; start a server on it, or use scripts/ledger.py rescan"
        raise BadInputError(msg)
