import io
import json
import os
import pty
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from lib.settings import Settings
from lib.store.accounts import Accounts
from lib.store.store import Store

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "users.py"
LEDGER = SCRIPT.with_name("ledger.py")
GOOD, OTHER = "correct horse battery", "another horse battery"


@pytest.fixture
def studies(tmp_path):
    (tmp_path / "studies").mkdir()
    return tmp_path / "studies"


@pytest.fixture
def call(studies, monkeypatch, capsys):
    """A script in this process, which spares its start-up time; answers code, output and errors."""

    def called(*arguments, typed="", script=SCRIPT, folder=studies):
        given = [str(script), *map(str, arguments), *(["--studies", str(folder)] if folder else [])]
        monkeypatch.setattr(sys, "argv", given)
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        capsys.readouterr()
        with pytest.raises(SystemExit) as exited:
            runpy.run_path(str(script), run_name="__main__")
        output = capsys.readouterr()
        return exited.value.code, output.out, output.err

    return called


@pytest.fixture
def ann(call):
    assert call("add", "Ann", "--role", "annotator", "--by", "eve", typed=f"{GOOD}\n")[0] == 0


def logged_in(studies, name, password):
    store = Store(studies, Settings())
    try:
        return Accounts(store.ledger).login(name, password, "10.0.0.1")
    finally:
        store.close()


def test_the_first_user_of_a_folder(call, studies):
    code, output, errors = call("add", "Ann", "--role", "admin", typed=f"{GOOD}\n")
    assert (code, output, errors) == (0, "added Ann as admin\n", "")
    assert logged_in(studies, "ann", GOOD).role.value == "admin"


def test_list(call, ann, studies):
    logged_in(studies, "ann", GOOD)
    code, output, _ = call("list")
    head, row = output.splitlines()
    assert code == 0
    assert head.split() == ["user", "role", "added", "password", "set", "logins", "disabled"]
    assert (row.split()[:2], row.split()[-1]) == (["Ann", "annotator"], "1")
    (user,) = json.loads(call("list", "--json")[1])
    assert (user["user"], user["role"], user["logins"], user["disabled_at"]) == ("Ann", "annotator", 1, None)
    assert set(user) == {"user", "role", "created_at", "password_changed_at", "disabled_at", "logins"}


def test_a_folder_without_users(call, ann, tmp_path):
    (tmp_path / "new").mkdir()
    Store(tmp_path / "new", Settings()).close()
    assert call("list", folder=tmp_path / "new")[1] == "no users; add one with: scripts/users.py add NAME\n"


def test_every_command(call, ann, studies):
    logged_in(studies, "ann", GOOD)
    assert call("role", "ann", "reviewer")[:2] == (0, "ann is reviewer now\n")
    assert call("password", "ann", typed=f"{OTHER}\n")[:2] == (0, "ann has a new password; 1 login ended\n")
    assert logged_in(studies, "ann", OTHER).role.value == "reviewer"
    assert call("revoke", "ann")[:2] == (0, "ann is logged out everywhere; 1 login ended\n")
    assert call("disable", "ann")[:2] == (0, "ann can't log in any more; 0 logins ended\n")
    assert call("enable", "ann")[:2] == (0, "ann can log in\n")
    assert json.loads(call("revoke", "ann", "--json")[1]) == {"user": "ann", "logins_ended": 0}


def test_what_was_done_is_exported(call, ann, studies, tmp_path):
    call("disable", "ann", "--by", "eve")
    code, output, _ = call("audit", script=LEDGER)
    lines = [json.loads(line) for line in output.splitlines()]
    assert code == 0
    assert [(line["kind"], line["actor"], line["detail"]["user"]) for line in lines] == [
        ("user added", "eve", "Ann"),
        ("user disabled", "eve", "Ann"),
    ]
    assert GOOD not in output
    target = tmp_path / "audit.csv"
    chosen = ("--user", "ANN", "--kind", "user disabled", "--since", "2020-01-01", "--before", "2100-01-01T08:30")
    assert call("audit", *chosen, "--format", "csv", "-o", target, script=LEDGER)[:2] == (0, "")
    assert len(target.read_text(encoding="utf-8").splitlines()) == 2
    assert call("audit", "--before", "2020-01-01", script=LEDGER)[:2] == (0, "")


NO_BOB = "there is no user 'bob'; scripts/users.py list names all"
NO_ROLE = (
    "argument --role: invalid choice: 'root' (choose from 'annotator', 'reviewer', 'admin'); see users.py add --help"
)
KNOWN = "there is a user 'Ann' already; choose another name, or enable that one"
SHORT = "the password has fewer than 12 characters; choose a longer one, such as four words"
TOO_MANY = (
    "too many arguments; a password is asked for, or read from the input, and never one of them; see users.py --help"
)


@pytest.mark.parametrize(
    ("arguments", "typed", "message"),
    [
        (("add", "ANN", "--role", "admin"), "", KNOWN),
        (("password", "bob"), "", NO_BOB),
        (("disable", "bob"), "", NO_BOB),
        (("add", "bob", "--role", "admin"), "short\n", SHORT),
        (("add", "bob", "--role", "root"), "", NO_ROLE),
        (("add", "bob"), "", "the following arguments are required: --role; see users.py add --help"),
        (("add", "bob", GOOD, "--role", "admin"), "", TOO_MANY),
        (("password", "ann", "--password", GOOD), "", TOO_MANY),
    ],
)
def test_errors_are_one_line(call, ann, arguments, typed, message):
    assert call(*arguments, typed=typed) == (2, "", f"error: {message}\n")


def test_a_mistyped_folder_gets_no_ledger(call, tmp_path):
    assert call("list", folder=tmp_path)[2] == (
        f"error: {tmp_path} has no ledger yet; start a server on it, or use scripts/ledger.py rescan\n"
    )
    assert call("add", "ann", "--role", "admin", folder=tmp_path / "none")[2] == (
        f"error: there is no studies folder {tmp_path / 'none'}\n"
    )
    assert call("list", folder=None)[2] == (
        "error: --studies DIR is required, the folder with the images or the address of a PACS; see users.py --help\n"
    )
    assert list(tmp_path.iterdir()) == [tmp_path / "studies"]


@pytest.mark.parametrize(("second", "code"), [(GOOD, 0), (OTHER, 2)])
def test_at_a_terminal_a_password_is_asked_for_twice_and_not_shown(studies, second, code):
    """A real terminal, where the program turns the echo off."""
    command = [sys.executable, SCRIPT, "add", "ann", "--role", "admin", "--studies", studies]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    shown = b""

    def wait_for(text):
        nonlocal shown
        while text not in shown:
            try:
                shown += os.read(ours, 1000)
            except OSError:  # the other end is closed
                return

    try:
        wait_for(b"New password: ")
        os.write(ours, f"{GOOD}\n".encode())
        wait_for(b"Once more: ")
        os.write(ours, f"{second}\n".encode())
        wait_for(b"never comes")
        assert process.wait(60) == code
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert GOOD.encode() not in shown
    last = b"added ann as admin" if code == 0 else b"error: the two passwords are not the same; nothing was changed"
    assert last in shown
