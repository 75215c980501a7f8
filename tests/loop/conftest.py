"""One server that most tests of the loop share; tests that train, stop or start one have their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from monailabel.client import MONAILabelClient

from lib.phantom import Phantom
from tests.faulty_pacs import FaultyPacs
from tests.loop.faulty_site import FaultySite
from tests.loop.preparation import WARM, Preparation
from tests.loop.running_server import RunningServer, make_app
from tests.loop.studies import write_studies
from tests.orthanc import Orthanc


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Preparation]:
    """What servers that start within some seconds are copies of."""
    with Preparation(tmp_path_factory.mktemp("warm"), program=WARM) as prepared:
        yield prepared


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared server's folder: `studies`, `app` and `run`."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="session")
def cases(shared_folder: Path) -> dict[str, Phantom]:
    """The phantoms of the shared server by image id."""
    return write_studies(shared_folder / "studies", range(20, 24))


@pytest.fixture(scope="session")
def server(warm: Preparation, cases: dict[str, Phantom], shared_folder: Path) -> Iterator[RunningServer]:
    """A server over the phantoms, started from an app folder outside the repository."""
    app = make_app(shared_folder / "app")
    with RunningServer(warm, shared_folder / "studies", shared_folder / "run", app=app) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> MONAILabelClient:
    """MONAI Label's own client, connected to the shared server."""
    return server.client()


@pytest.fixture(scope="session")
def preparation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Preparation]:
    """What servers that start within a second are copies of."""
    with Preparation(tmp_path_factory.mktemp("preparation")) as prepared:
        yield prepared


@pytest.fixture
def pacs(orthanc: Orthanc) -> Iterator[FaultyPacs]:
    """The Orthanc behind a proxy that can be told to fail."""
    with FaultyPacs(orthanc) as made:
        yield made


@pytest.fixture
def site(preparation: Preparation, orthanc: Orthanc, pacs: FaultyPacs, tmp_path: Path) -> FaultySite:
    """Some CTs in that PACS, and a server's folders."""
    return FaultySite(preparation, orthanc, pacs, tmp_path)
