"""Fixtures that many tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lib.datasets.samples import DEFAULT_FOLDER, REAL, complete_kind, ensure_samples
from tests.orthanc import Orthanc, orthanc_or_skip


@pytest.fixture(scope="session")
def real_samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The studies folder with the real sample CTs; read-only. Skips where pip reaches no registry."""
    if complete_kind(DEFAULT_FOLDER) == REAL:
        return DEFAULT_FOLDER
    folder = ensure_samples(tmp_path_factory.mktemp("samples") / "ct")
    if complete_kind(folder) != REAL:
        pytest.skip("pip reaches no registry that has the sample CTs")
    return folder


@pytest.fixture(scope="session")
def running_orthanc() -> Iterator[Orthanc]:
    """A PACS with a login for all tests, started by the first that needs it; ask for `orthanc`."""
    with orthanc_or_skip({"annotator": "correct horse ü"}) as server:
        yield server


@pytest.fixture
def orthanc(running_orthanc: Orthanc) -> Orthanc:
    """A PACS with nothing in it."""
    running_orthanc.empty()
    return running_orthanc
