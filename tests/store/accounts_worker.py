"""What a second process does with the accounts of a ledger: `python accounts_worker.py URL WHAT COUNT`."""

import sys

from argon2 import PasswordHasher

from lib.access import passwords
from lib.access.roles import Role
from lib.access.throttle import Pauses, Throttle
from lib.errors import BadInputError, LoginError
from lib.store.accounts import Accounts
from lib.store.ledger import Ledger

GOOD = "correct horse battery"


def main(url: str, what: str, count: int) -> None:
    passwords._HASHER = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    ledger = Ledger(url)
    accounts = Accounts(ledger, throttle=Throttle(Pauses(10_000), Pauses(10_000)))
    done = 0
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(count):
        try:
            if what == "add":
                accounts.add(f"user{number}", GOOD, Role.ANNOTATOR, by="worker")
            elif what == "login":
                accounts.login("ann", GOOD, "10.0.0.1")
            elif what == "disable":
                (accounts.disable if number % 2 == 0 else accounts.enable)("ann", by="worker")
        except (BadInputError, LoginError):
            continue
        done += 1
    print(done, flush=True)
    ledger.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
