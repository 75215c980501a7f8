"""Counts of a ledger, on both databases."""

import pytest

from lib.settings import Settings
from lib.store import images, leases, trainings
from lib.store.figures import LedgerFigures
from lib.store.store import Store
from tests.store.filled import add_image, label_file


@pytest.fixture
def store(ledger_url, tmp_path):
    for seed, name in enumerate("abcd"):
        add_image(tmp_path, name, seed)
    opened = Store(tmp_path, Settings(ledger=ledger_url))
    opened.look()
    yield opened
    opened.close()


def test_counts(store, tmp_path):
    figures = LedgerFigures(store.ledger, kept_s=0)
    assert figures.get().labels == {}
    for seed in (1, 2):
        store.save("a", label_file(tmp_path / "label.nii.gz", seed), "final", {}, author="anna")
    with store.ledger.writing() as connection:
        images.exclude(connection, "b", "not a liver", "anna")
        leases.acquire(connection, "c", "ben", strategy="first", reason="", score=None, seconds=60)
        for published in (True, False):
            number = trainings.begin(connection)
            trainings.end(connection, number, "", succeeded=True, published=published)
        trainings.end(connection, trainings.begin(connection), "bad", succeeded=False)
        trainings.begin(connection)
    found = figures.get()
    assert found.images == {"total": 4, "completed": 1, "open": 2, "excluded": 1, "unfit": 0}
    assert (found.leases, found.labels, found.segs) == (1, {"client": 2}, {})
    assert found.trainings == {"published": 1, "kept": 1, "failed": 1, "running": 1}
    store.save("c", label_file(tmp_path / "label.nii.gz", 3), "final", {}, author="ben")
    assert figures.get().labels == {"client": 3}


def test_they_are_kept_for_a_while(store, tmp_path):
    figures = LedgerFigures(store.ledger, kept_s=3600)
    before = figures.get()
    store.save("a", label_file(tmp_path / "label.nii.gz", 1), "final", {}, author="anna")
    assert figures.get() is before
