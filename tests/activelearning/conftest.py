"""A studies folder as the ledger knows it, without files."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lib.activelearning import next_image
from lib.settings import Settings
from lib.store import images, inspection
from lib.store.image_files import FolderImages
from lib.store.images import FileState
from lib.store.layout import Layout
from lib.store.ledger import Ledger


class Studies(SimpleNamespace):
    """As much of a `Store` as handing out needs."""

    segs = None  # they lie in a folder

    def __init__(self, url: str, folder: Path, settings: Settings | None = None) -> None:
        ledger, layout = Ledger(url), Layout(folder)
        files = FolderImages(ledger, layout)
        super().__init__(ledger=ledger, layout=layout, settings=settings or Settings(), images=files)

    def register(self, *names):
        with self.ledger.writing() as connection:
            images.register(connection, [(name, FileState(".nii.gz", 1, 1)) for name in names])

    def ask(self, client="anna", strategy="first", **options):
        """The lease that a client gets."""
        options = {"model_version": "v1", "rng": np.random.default_rng(0)} | options
        return next_image.next_sample(self, strategy, client, **options)


@pytest.fixture
def problems(monkeypatch):
    """`{image id: problem}` that the look at a file before it is handed out finds; noted as the real one does."""
    found = {}

    def ensure_fit(ledger, layout, image_id):
        problem = found.get(image_id)
        if problem:
            with ledger.writing() as connection:
                images.note_problem(connection, image_id, problem)
        return problem

    monkeypatch.setattr(inspection, "ensure_fit", ensure_fit)
    return found


@pytest.fixture
def studies(problems, tmp_path):
    made = Studies(f"sqlite:///{tmp_path}/ledger.sqlite", tmp_path)
    yield made
    made.ledger.close()
