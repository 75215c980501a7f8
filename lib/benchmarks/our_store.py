"""LiverLoop's store as its server uses it, for the benchmark."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from lib.activelearning.next_image import next_sample
from lib.files import atomic_write
from lib.settings import Settings
from lib.store import leases
from lib.store.folder import FolderDatastore
from lib.store.layout import FINAL


class OurStore:
    """A studies folder in LiverLoop's store; `lib.benchmarks.stock_store.StockStore` is the same in MONAI Label's.

    Args:
        folder: the studies.
        label_info: what the values of labels mean, as clients tell it.
    """

    answers_during_rescan = True

    def __init__(self, folder: Path, label_info: list[dict[str, Any]]) -> None:
        self._datastore = FolderDatastore(str(folder), Settings())
        self._rng = np.random.default_rng()
        self._label_info = label_info

    def serve(self) -> None:
        """What a server does besides, once it has opened the store: the folder is looked through and watched."""
        self._datastore.store.watch()

    def next_sample(self, client_id: str) -> str:
        """The image that a client is given by the strategy `random`; the client has it from now on."""
        lease = next_sample(self._datastore.store, "random", client_id, model_version="v1", rng=self._rng)
        assert lease is not None
        self._datastore.get_image_info(lease.image_id)
        return lease.image_id

    def save_label(self, image_id: str, label: Path, client_id: str) -> None:
        """Save a final label."""
        info = {"label_info": self._label_info, "client_id": client_id}
        self._datastore.save_label(image_id, str(label), FINAL, info)

    def copy_label(self, image_id: str, label: Path, scratch: Path) -> None:
        """Only what `save_label` does with files: a version to keep, and one more for other tools, both on disk."""
        for target in (scratch / "versions" / image_id / FINAL / label.name, scratch / FINAL / f"{image_id}.nii.gz"):
            with atomic_write(target) as temporary:
                shutil.copyfile(label, temporary)

    def status(self) -> dict[str, Any]:
        """How many images there are and how many are labelled."""
        return self._datastore.status()

    def rescan(self) -> None:
        """Look through the whole folder."""
        self._datastore.refresh()

    def give_back(self, image_id: str, client_id: str) -> None:
        """A client doesn't label the image it was given."""
        with self._datastore.store.ledger.writing() as connection:
            leases.free(connection, image_id, actor=client_id, why="not needed any more")

    def close(self) -> None:
        """Leave the folder."""
        self._datastore.store.close()
