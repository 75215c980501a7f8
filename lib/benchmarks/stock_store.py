"""MONAI Label's own store as MONAI Label's server uses it, for the benchmark."""

import shutil
import time
from pathlib import Path
from typing import Any

from monailabel.datastore.local import LocalDatastore
from monailabel.tasks.activelearning.random import Random

from lib.store.layout import FINAL

_STRATEGY = "random"


class StockStore:
    """A studies folder in `LocalDatastore`.

    It is opened without watching the folder, which is in its favor: a server that watches looks through the whole
    folder after each label.

    Args:
        folder: the studies.
        label_info: what the values of labels mean, as clients tell it.
    """

    answers_during_rescan = False  # its list of images changes under those who ask

    def __init__(self, folder: Path, label_info: list[dict[str, Any]]) -> None:
        self._datastore = LocalDatastore(str(folder), auto_reload=False)
        self._strategy = Random()
        self._label_info = label_info

    def serve(self) -> None:
        """Nothing: the store has looked through the folder before it could be used."""

    def next_sample(self, client_id: str) -> str:
        """The image that a client is given by the strategy `random`, with what MONAI Label's endpoint notes then."""
        chosen = self._strategy({"strategy": _STRATEGY, "client_id": client_id}, self._datastore)
        image_id = str(chosen["id"])
        self._datastore.get_image_uri(image_id)
        noted = self._datastore.get_image_info(image_id).get("strategy", {})
        noted[_STRATEGY] = {"ts": int(time.time()), "client_id": client_id}
        self._datastore.update_image_info(image_id, {"strategy": noted})
        return image_id

    def score_all(self) -> None:
        """Nothing: its strategy knows no scores."""

    def save_label(self, image_id: str, label: Path, client_id: str) -> None:
        """Save a final label."""
        info = {"label_info": self._label_info, "client_id": client_id}
        self._datastore.save_label(image_id, str(label), FINAL, info)

    def copy_label(self, image_id: str, label: Path, scratch: Path) -> None:
        """Only what `save_label` does with files: one copy, which nobody makes sure is on disk."""
        folder = scratch / FINAL
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(label, folder / f"{image_id}.nii.gz")

    def status(self) -> dict[str, Any]:
        """How many images there are and how many are labelled."""
        return dict(self._datastore.status())

    def rescan(self) -> None:
        """Look through the whole folder."""
        self._datastore.refresh()

    def give_back(self, image_id: str, client_id: str) -> None:
        """Nothing: no image is kept for anybody."""

    def close(self) -> None:
        """Leave the folder."""
