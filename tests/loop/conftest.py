"""One server that most tests of the loop share; tests that train or stop have their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from monailabel.client import MONAILabelClient

from lib.phantom import Phantom
from tests.loop.running_server import RunningServer, make_app
from tests.loop.studies import write_studies


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Phantom]:
    """The phantoms of the shared server by image id."""
    return write_studies(tmp_path_factory.mktemp("shared") / "studies", range(20, 24))


@pytest.fixture(scope="session")
def server(cases: dict[str, Phantom], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server over the phantoms, started from an app folder outside the repository."""
    folder = next(path for path in tmp_path_factory.getbasetemp().glob("shared*") if path.is_dir())
    app = make_app(folder / "app")
    conf = {"active_learning.dropout_passes": 2, "active_learning.slices_per_score": 3}
    with RunningServer(folder / "studies", folder / "run", app=app, conf=conf) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> MONAILabelClient:
    """MONAI Label's own client, connected to the shared server."""
    return server.client()


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    """A folder for files that a test sends."""
    return tmp_path
