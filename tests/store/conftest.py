"""Ledgers on both databases."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lib.store.ledger import Ledger
from tests.orthanc import Orthanc
from tests.store.pacs_site import Site
from tests.store.postgresql import PostgreSQL, postgresql_or_skip


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A server for all tests, started by the first that needs it."""
    with postgresql_or_skip() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database of either kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/ledger.sqlite"
        return
    server: PostgreSQL = request.getfixturevalue("postgresql")
    url = server.new_database()
    yield url
    server.drop_database(url)


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    """An empty ledger on either database."""
    opened = Ledger(ledger_url)
    yield opened
    opened.close()


@pytest.fixture
def site(orthanc: Orthanc, tmp_path: Path) -> Iterator[Site]:
    """A CT in a PACS, and a store to exchange labels with it."""
    made = Site(orthanc, tmp_path)
    yield made
    made.store.close()
