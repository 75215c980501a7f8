"""LiverLoop's store as its server uses it, for the benchmark."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from lib.activelearning.next_image import next_sample
from lib.case_scores import CaseScores, Span
from lib.files import atomic_write
from lib.settings import Settings
from lib.store import leases, scores
from lib.store.folder import FolderDatastore
from lib.store.layout import FINAL

_MODEL_VERSION = "v1"
_SLICES, _FEATURES = 100, 256  # of a usual CT through the liver, and of the default network
_SCORED_AT_ONCE = 5000


class OurStore:
    """A studies folder in LiverLoop's store; `lib.benchmarks.stock_store.StockStore` is the same in MONAI Label's.

    Args:
        folder: the studies.
        label_info: what the values of labels mean, as clients tell it.
    """

    answers_during_rescan = True

    def __init__(self, folder: Path, label_info: list[dict[str, Any]]) -> None:
        settings = Settings()
        self._datastore = FolderDatastore(str(folder), settings)
        self._strategy = settings.active_learning.strategies[0]
        self._rng = np.random.default_rng()
        self._label_info = label_info

    def serve(self) -> None:
        """What a server does besides, once it has opened the store: the folder is looked through and watched."""
        self._datastore.store.watch()

    def next_sample(self, client_id: str) -> str:
        """The image that a client is given by the default strategy; the client has it from now on."""
        lease = next_sample(
            self._datastore.store, self._strategy, client_id, model_version=_MODEL_VERSION, rng=self._rng
        )
        assert lease is not None
        self._datastore.get_image_info(lease.image_id)
        return lease.image_id

    def score_all(self) -> None:
        """Made-up scores of all images, as a model leaves them that has looked at each."""
        ledger = self._datastore.store.ledger
        while True:
            with ledger.writing() as connection:
                ids = scores.waiting(connection, _MODEL_VERSION, _SCORED_AT_ONCE)
                found = {image_id: self._made_up_scores() for image_id in ids}
                scores.note_many(connection, found, _MODEL_VERSION)
            if not ids:
                return

    def _made_up_scores(self) -> CaseScores:
        entropy, bald, liver, tumor = self._rng.random(4)
        by_slice = self._rng.random((2, _SLICES)).tolist()
        embedding = self._rng.standard_normal(_FEATURES, dtype=np.float32)
        return CaseScores(
            entropy=entropy,
            classes={"liver": liver, "tumor": tumor},
            bald=bald,
            ml={"liver": 1500.0, "tumor": 10.0 * tumor},
            lesions=2,
            first_slice=_SLICES // 2,
            slices={"liver": tuple(by_slice[0]), "tumor": tuple(by_slice[1])},
            spans=(Span("tumor", 90, 97, 0.5), Span("liver", 60, 67, 0.1)),
            embedding=embedding / np.linalg.norm(embedding),
        )

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
