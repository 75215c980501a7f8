"""One server that most tests of the loop share; tests that train, stop or start one have their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from monailabel.client import MONAILabelClient

from lib.phantom import Phantom
from tests.loop.running_server import RunningServer, make_app
from tests.loop.studies import write_studies


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared server's folder: `studies`, `app` and `run`."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="session")
def cases(shared_folder: Path) -> dict[str, Phantom]:
    """The phantoms of the shared server by image id."""
    return write_studies(shared_folder / "studies", range(20, 24))


@pytest.fixture(scope="session")
def server(cases: dict[str, Phantom], shared_folder: Path) -> Iterator[RunningServer]:
    """A server over the phantoms, started from an app folder outside the repository."""
    app = make_app(shared_folder / "app")
    with RunningServer(shared_folder / "studies", shared_folder / "run", app=app) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> MONAILabelClient:
    """MONAI Label's own client, connected to the shared server."""
    return server.client()
