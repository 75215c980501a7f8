"""Several processes, as several servers and scripts are, at work on the same users."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import select

from lib.access.roles import Role
from lib.store.accounts import Accounts
from lib.store.events import walk
from lib.store.schema import tokens
from tests.store.accounts_worker import GOOD

REPOSITORY = Path(__file__).resolve().parents[2]


def run(url, *jobs):
    """What each of the processes printed; they begin together."""
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.store.accounts_worker", url, what, str(count)],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for what, count in jobs
    ]
    try:
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = [process.communicate(timeout=120)[0] for process in processes]
        assert [process.returncode for process in processes] == [0] * len(processes)
        return [int(answer) for answer in answers]
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.fixture
def accounts(ledger, cheap_hashes):
    return Accounts(ledger)


def kinds(ledger):
    with ledger.reading() as connection:
        return [event.kind for event in walk(connection)]


def test_a_name_is_given_once(ledger_url, ledger, accounts):
    first, second = run(ledger_url, ("add", 40), ("add", 40))
    assert first + second == 40
    assert len(accounts.listed()) == 40
    assert kinds(ledger) == ["user added"] * 40


def test_who_is_kept_out_has_no_token_left(ledger_url, ledger, accounts):
    """However logins and disabling fall together."""
    accounts.add("ann", GOOD, Role.ANNOTATOR, by="root")
    logins, _, changes = run(ledger_url, ("login", 60), ("login", 60), ("disable", 41))
    assert changes == 41  # the last one disables
    with ledger.reading() as connection:
        rows = connection.execute(select(tokens)).all()
    assert accounts.listed()[0].disabled_at is not None
    assert all(row.revoked_at is not None for row in rows)
    happened = kinds(ledger)
    assert happened.count("logged in") == len(rows) >= logins
    enabled = True
    for kind in happened:
        enabled = {"user disabled": False, "user enabled": True}.get(kind, enabled)
        assert enabled or kind != "logged in"
