"""Fixtures that many tests share, and how tests are given to several workers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from filelock import FileLock
from hypothesis import HealthCheck, settings

from lib.access import passwords
from lib.datasets.samples import DEFAULT_FOLDER, REAL, complete_kind, ensure_samples
from lib.imports import begin_imports, end_imports
from tests import screenshots
from tests.alone_last import AloneLast, put_last
from tests.orthanc import Orthanc, orthanc_or_skip
from tests.store.postgresql import PostgreSQL, postgresql_or_skip

# Other work on the machine must not decide whether a test passes.
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")


def pytest_configure() -> None:
    """Most of the collection's time is that of imports."""
    begin_imports()


def pytest_collection_finish() -> None:
    """Tests run with the collector on."""
    end_imports()


@pytest.hookimpl(tryfirst=True)
def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Files in tests' names would differ from process to process, as gzip keeps the time, and none could share them."""
    return argname if isinstance(val, bytes) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is better alone comes last, in a single process too."""
    put_last(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> AloneLast | None:
    """In place of pytest-xdist's own for `--dist loadfile`, which scripts/test asks for."""
    return AloneLast(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say where the screenshots are, if a test took some."""
    reports = [report for group in terminalreporter.stats.values() for report in group]
    if any(getattr(report, "nodeid", "").startswith("tests/loop/test_loop_ohif.py") for report in reports):
        terminalreporter.write_line(f"screenshots of the viewer: {screenshots.FOLDER}")


@pytest.fixture
def cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Argon2 without the work that makes it safe and tests slow."""
    monkeypatch.setattr(passwords, "_HASHER", PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
    passwords._nobodys.cache_clear()
    yield
    passwords._nobodys.cache_clear()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A server for all tests, started by the first that needs it."""
    with postgresql_or_skip() as server:
        yield server


@pytest.fixture(scope="session")
def real_samples(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The studies folder with the real sample CTs; read-only. Skips where pip reaches no registry."""
    if complete_kind(DEFAULT_FOLDER) == REAL:
        return DEFAULT_FOLDER
    # Of several workers the first fetches them for all; each has a folder of its own inside one of the whole run.
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if worker_id != "master" else own) / "real-samples"
    with FileLock(f"{folder}.lock"):
        ensure_samples(folder)
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
