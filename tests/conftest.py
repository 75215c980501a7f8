"""Fixtures that many tests share."""

from pathlib import Path

import pytest

from lib.datasets.samples import DEFAULT_FOLDER, REAL, complete_kind, ensure_samples


@pytest.fixture(scope="session")
def real_samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The studies folder with the real sample CTs; read-only. Skips where pip reaches no registry."""
    if complete_kind(DEFAULT_FOLDER) == REAL:
        return DEFAULT_FOLDER
    folder = ensure_samples(tmp_path_factory.mktemp("samples") / "ct")
    if complete_kind(folder) != REAL:
        pytest.skip("pip reaches no registry that has the sample CTs")
    return folder
