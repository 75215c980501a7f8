"""A studies folder of small CTs, as far as endpoints use it."""

from types import SimpleNamespace

import numpy as np
import pytest

from lib.settings import Settings
from lib.store import images
from lib.store.images import FileState
from lib.store.label_store import LabelStore
from lib.store.layout import Layout
from lib.store.ledger import Ledger
from lib.volume import Volume
from lib.volume_io import write_image, write_label

AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])


@pytest.fixture
def store(tmp_path):
    """A store with the images a, b and c, whose files are there."""
    layout, settings = Layout(tmp_path / "studies"), Settings()
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    found = []
    for name in ("a", "b", "c"):
        path = layout.image(name, ".nii.gz")
        path.parent.mkdir(exist_ok=True)
        write_image(path, Volume(np.zeros((6, 5, 4), np.int16), AFFINE))
        found.append((name, FileState.of(path, ".nii.gz")))
    with ledger.writing() as connection:
        images.register(connection, found)
    labels = LabelStore(ledger, layout, settings)
    yield SimpleNamespace(ledger=ledger, layout=layout, settings=settings, labels=labels, save=labels.save)
    ledger.close()


@pytest.fixture
def label_file(tmp_path):
    """Makes the file of a label with so many voxels of liver."""

    def make(voxels, shape=(6, 5, 4)):
        array = np.zeros(shape, np.uint8)
        array.ravel()[:voxels] = 1
        path = tmp_path / f"label-{voxels}.nii.gz"
        write_label(path, Volume(array, AFFINE))
        return path

    return make
