#!/usr/bin/env python3
"""Who may log in to a server: add users, list them, change roles and passwords, keep users out.

    scripts/users.py add ann --role annotator --studies ~/livers
    scripts/users.py list --studies ~/livers
    scripts/users.py disable ann --studies ~/livers

Passwords are asked for twice, or read as one line where the input is no terminal; they are never an argument. All of
it works while a server runs on the folder, and counts from its next request. docs/access.md explains every command.
Exit code: 0, or 2 for wrong input.
"""

import argparse
import getpass
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.venv import enter_environment

enter_environment()

from lib.access.roles import Role
from lib.console import Parser, run
from lib.errors import BadInputError
from lib.inference.command_line import settings_from
from lib.store.accounts import Accounts, User
from lib.store.command_line import add_ledger_options, check_studies
from lib.store.leases import iso_time
from lib.store.opening import open_store
from lib.store.report import local_time, table

Answer = tuple[Any, str]  # for --json, for people


def main() -> None:
    """Run one command and print its answer."""
    arguments = _arguments()
    settings = settings_from(arguments)
    # The first user is added before a server ever ran.
    check_studies(arguments.studies, may_be_new=arguments.name == "add")
    store = open_store(arguments.studies, settings, arguments.app, follow_classes=False)
    try:
        values, text = arguments.command(Accounts(store.ledger, settings.access.token_hours), arguments)
    finally:
        store.close()
    print(json.dumps(values, indent=2, ensure_ascii=False) if arguments.json else text)


def _add(accounts: Accounts, arguments: argparse.Namespace) -> Answer:
    accounts.check_new(arguments.user)
    user = accounts.add(arguments.user, _new_password(), Role(arguments.role), by=arguments.by)
    return _as_json(user), f"added {user.name} as {user.role}"


def _list(accounts: Accounts, _: argparse.Namespace) -> Answer:
    found = accounts.listed()
    rows = [
        (
            user.name,
            user.role,
            local_time(user.created_at),
            local_time(user.password_changed_at),
            user.logins,
            user.disabled_at and local_time(user.disabled_at),
        )
        for user in found
    ]
    headers = ["user", "role", "added", "password set", "logins", "disabled"]
    return [_as_json(user) for user in found], table(headers, rows, "no users; add one with: scripts/users.py add NAME")


def _role(accounts: Accounts, arguments: argparse.Namespace) -> Answer:
    accounts.set_role(arguments.user, Role(arguments.role), by=arguments.by)
    return {"user": arguments.user, "role": arguments.role}, f"{arguments.user} is {arguments.role} now"


def _password(accounts: Accounts, arguments: argparse.Namespace) -> Answer:
    accounts.check_user(arguments.user)
    ended = accounts.set_password(arguments.user, _new_password(), by=arguments.by)
    return _ended(arguments.user, f"{arguments.user} has a new password", ended)


def _disable(accounts: Accounts, arguments: argparse.Namespace) -> Answer:
    ended = accounts.disable(arguments.user, by=arguments.by)
    return _ended(arguments.user, f"{arguments.user} can't log in any more", ended)


def _enable(accounts: Accounts, arguments: argparse.Namespace) -> Answer:
    accounts.enable(arguments.user, by=arguments.by)
    return {"user": arguments.user}, f"{arguments.user} can log in"


def _revoke(accounts: Accounts, arguments: argparse.Namespace) -> Answer:
    ended = accounts.revoke_all(arguments.user, by=arguments.by)
    return _ended(arguments.user, f"{arguments.user} is logged out everywhere", ended)


def _ended(user: str, what: str, logins: int) -> Answer:
    return {"user": user, "logins_ended": logins}, f"{what}; {logins} {'login' if logins == 1 else 'logins'} ended"


def _as_json(user: User) -> dict[str, Any]:
    times = {name: at and iso_time(at) for name, at in asdict(user).items() if name.endswith("_at")}
    return {"user": user.name, "role": user.role.value, **times, "logins": user.logins}


def _new_password() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass("New password: ")
    if getpass.getpass("Once more: ") != password:
        msg = "the two passwords are not the same; nothing was changed"
        raise BadInputError(msg)
    return password


def _arguments() -> argparse.Namespace:
    common = argparse.ArgumentParser(add_help=False)
    add_ledger_options(common, after_command=True)
    of_user = argparse.ArgumentParser(add_help=False)
    of_user.add_argument("user", metavar="NAME")
    of_user.add_argument("--by", default=getpass.getuser(), metavar="NAME", help="who does that (default: you)")
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_ledger_options(parser, after_command=False)
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[Accounts, argparse.Namespace], Answer], summary: str, *more: Any) -> Any:
        added = commands.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", parents=[common, *more]
        )
        added.set_defaults(command=command)
        return added

    roles = {"choices": [role.value for role in Role], "metavar": "ROLE", "help": "annotator, reviewer or admin"}
    adding = add("add", _add, "add a user, with a password of at least 12 characters", of_user)
    adding.add_argument("--role", required=True, **roles)
    add("list", _list, "all users, their roles and how often they are logged in now")
    changing = add("role", _role, "give a user another role, from the next request on", of_user)
    changing.add_argument("role", **roles)
    add("password", _password, "give a user another password, and log them out everywhere", of_user)
    add("disable", _disable, "keep a user out, from the next request on", of_user)
    add("enable", _enable, "let a disabled user log in again", of_user)
    add("revoke", _revoke, "log a user out everywhere; they may log in again", of_user)
    arguments, more = parser.parse_known_args()
    if more:  # not to be repeated
        parser.error("too many arguments; a password is asked for, or read from the input, and never one of them")
    if arguments.studies is None:
        parser.error("--studies DIR is required, the folder with the images or the address of a PACS")
    return arguments


if __name__ == "__main__":
    run(main)
