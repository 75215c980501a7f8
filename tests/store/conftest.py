"""Ledgers on both databases."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import Connection

from lib.store.ledger import Ledger
from tests.orthanc import Orthanc
from tests.store.pacs_site import Site
from tests.store.postgresql import PostgreSQL


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


class _UndoneError(Exception):
    """Ends a transaction without a trace."""


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared_ledger(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """A ledger on either database for tests that leave nothing in it, see `undone`."""
    if request.param == "sqlite":
        opened = Ledger(f"sqlite:///{tmp_path_factory.mktemp('shared')}/ledger.sqlite")
        yield opened
        opened.close()
        return
    server: PostgreSQL = request.getfixturevalue("postgresql")
    url = server.new_database()
    opened = Ledger(url)
    yield opened
    opened.close()
    server.drop_database(url)


@pytest.fixture
def undone(shared_ledger: Ledger) -> Iterator[Connection]:
    """A transaction in an empty ledger on either database; in the end everything is undone."""
    with suppress(_UndoneError), shared_ledger.writing() as connection:
        yield connection
        raise _UndoneError


@pytest.fixture
def site(orthanc: Orthanc, tmp_path: Path) -> Iterator[Site]:
    """A CT in a PACS, and a store to exchange labels with it."""
    made = Site(orthanc, tmp_path)
    yield made
    made.store.close()
