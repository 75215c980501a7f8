"""A server with a user of each role, in a folder of its own with all that it may touch, and things that it may not."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
import schemathesis
from sqlalchemy import func, select

from lib.access.roles import Role
from lib.store.accounts import Accounts
from lib.store.ledger import Ledger
from lib.store.schema import events
from lib.volume_io import write_image, write_label
from lib.web.guard.rows import Off, Row
from lib.web.guard.table import TABLE
from tests.loop.preparation import Preparation
from tests.loop.running_server import OURS, RunningServer, make_app, wait_until
from tests.loop.schema_files import tiny_files
from tests.loop.schema_values import TINY, Known
from tests.loop.studies import phantom

LABELLED, IMAGES, SPARE = range(20, 23), range(20, 25), range(25, 29)
PASSWORD = "correct horse battery {}"
_ORDER = ("PUT", "POST", "GET", "HEAD", "DELETE")  # so that there is something to get and to remove
_JOBS = {"/train/": "/train/", "/scoring/": "/scoring/", "/batch/infer/": "/batch/infer"}


@dataclass
class Site:
    """The running server and what belongs to it.

    Args:
        root: the folder that holds everything, also what nobody may touch.
        server: it.
        ledger: a second way into the server's ledger.
        known: what requests may name.
    """

    root: Path
    server: RunningServer
    ledger: Ledger
    known: Known
    tokens: dict[Role, str] = field(default_factory=dict)
    sessions: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tokens = {role: self.new_token(role) for role in Role}

    def new_token(self, role: Role) -> str:
        """A login of the user of this role."""
        return Accounts(self.ledger).login(role.value, PASSWORD.format(role.value), "console").token

    def headers(self, role: Role | None) -> dict[str, str]:
        """What a request of this user carries; None: of nobody."""
        return {} if role is None else {"Authorization": f"Bearer {self.tokens[role]}"}

    def operations(self) -> list[Any]:
        """What the server says of itself, and beside that what its table has: pages, old addresses, what is off."""
        content = requests.get(f"{self.server.url}/openapi.json", headers=self.headers(Role.ADMIN), timeout=60).json()
        for row in TABLE:
            path = row.path.replace(":path}", "}")
            if row.method.lower() not in content["paths"].get(path, {}):
                content["paths"].setdefault(path, {})[row.method.lower()] = _anything(row, path)
        schema = schemathesis.openapi.from_dict(content)
        found = [one.ok() for one in schema.get_all_operations()]
        return sorted(found, key=lambda one: (_ORDER.index(one.method.upper()), one.label))

    def stop_jobs(self, label: str) -> None:
        """End the training, scoring or batch that a request of this operation has just started."""
        address = next((stop for start, stop in _JOBS.items() if label.startswith(f"POST {start}")), None)
        if address is None:
            return
        headers = self.headers(Role.ADMIN)

        def has_ended() -> bool:
            requests.delete(self.server.url + address, headers=headers, timeout=60)
            told = requests.get(self.server.url + address, headers=headers, timeout=60).json()
            return told.get("status") not in {"SUBMITTED", "RUNNING"}

        wait_until(has_ended, f"the end of what {label} started", pause_s=0.02)

    def events(self) -> Counter[str]:
        """How many events of each kind the ledger has."""
        query = select(events.c.kind, func.count()).group_by(events.c.kind)
        with self.ledger.reading() as connection:
            return Counter(dict(connection.execute(query).tuples().all()))


@contextlib.contextmanager
def running_site(warm: Preparation, root: Path) -> Iterator[Site]:
    """Write the images, add the users, start the server."""
    studies, home = root / "studies", root / "home"
    for seed in (*IMAGES, *SPARE):
        made = phantom(seed, TINY)
        write_image(studies / f"case_{seed}.nii.gz", made.image)
        if seed in LABELLED:
            write_label(studies / "labels" / "final" / f"case_{seed}.nii.gz", made.label)
    for decoy in (
        root / "decoy" / "case_90.nii.gz",
        studies / "notes.txt",
        studies / "private" / "notes.txt",
        home / "x",
    ):
        decoy.parent.mkdir(exist_ok=True)
        decoy.write_text("nobody may touch this")
    server = RunningServer(
        warm,
        studies,
        root / "run",
        app=make_app(root / "app"),
        conf={"inference.engine": "pytorch", "training.max_epochs": 1},
        environment={"HOME": str(home), "XDG_CACHE_HOME": str(home)},
        command=OURS,
    )
    database = studies / "ledger" / "ledger.sqlite"
    database.parent.mkdir()
    ledger = Ledger(f"sqlite:///{database}")
    try:
        for role in Role:
            Accounts(ledger).add(role.value, PASSWORD.format(role.value), role, by="test")
        with server:
            known = Known(
                images=[f"case_{seed}" for seed in IMAGES],
                spare=[f"case_{seed}" for seed in SPARE],
                uploads=tiny_files(root / "sent", phantom(99, TINY), phantom(IMAGES[0], TINY)),
            )
            yield Site(root, server, ledger, known)
    finally:
        ledger.close()


def _anything(row: Row | Off, path: str) -> Mapping[str, Any]:
    """An operation of which nothing is known."""
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    parameters = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
    operation: dict[str, Any] = {"parameters": parameters, "responses": {"default": {"description": "anything"}}}
    if row.method in {"POST", "PUT"}:
        kinds = ("application/json", "application/x-www-form-urlencoded", "multipart/form-data")
        operation["requestBody"] = {"content": {kind: {"schema": {"type": "object"}} for kind in kinds}}
    return operation
