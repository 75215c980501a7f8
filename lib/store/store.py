"""A studies folder and what is known of it: the one object that servers and scripts open."""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from lib.errors import LiverLoopError, StorageError
from lib.files import writable_folder
from lib.settings import Settings
from lib.store import versions
from lib.store.adoption import adopt
from lib.store.found_labels import FoundLabels
from lib.store.inspection import inspect_all
from lib.store.label_store import LabelStore
from lib.store.layout import FINAL, ORIGINAL, Layout
from lib.store.ledger import Ledger
from lib.store.scan import Changes, scan
from lib.store.watch import Watcher

logger = logging.getLogger(__name__)


class Store:
    """Images, labels and the ledger of a studies folder.

    At the first opening the folder is looked through and adopted; later ones know it already.

    Args:
        studies: the folder; made if it is missing.
        settings: classes, limits, and which database.

    Raises:
        SettingsError: the ledger belongs to another folder, or its URL can't be used.
        BadInputError: MONAI Label's own `datastore_v2.json` is damaged.
        StorageError: folder or database can't be written.
    """

    def __init__(self, studies: str | Path, settings: Settings) -> None:
        self.settings = settings
        self.layout = Layout(Path(studies).resolve())
        for folder in (self.layout.tag(FINAL), self.layout.tag(ORIGINAL), self.layout.ledger):
            writable_folder(folder)
        url = settings.ledger or f"sqlite:///{self.layout.database}"
        self.ledger = Ledger(url, belongs_to=self.layout.studies_id())
        self.labels = LabelStore(self.ledger, self.layout, settings)
        self.found_labels = FoundLabels(self.ledger, self.layout, settings, self.labels)
        self._watcher: Watcher | None = None
        self._stop = threading.Event()
        self._inspector: threading.Thread | None = None
        with self.ledger.reading() as connection:
            known = self.ledger.fact(connection, "scanned_at") is not None
        if not known:
            self.look()
        self._follow_classes()

    def look(self, progress: Callable[[int], object] | None = None) -> Changes:
        """Bring the ledger's images in line with the folder; labels are noticed, not yet read.

        Args:
            progress: called with the number of files looked at so far.
        """
        changes = scan(self.ledger, self.layout, progress=progress)
        adopt(self.ledger, self.layout)
        with self.ledger.writing() as connection:
            self.ledger.set_fact(connection, "scanned_at", str(time.time()))
        return changes

    def rescan(self, progress: Callable[[int], object] | None = None) -> Changes:
        """Bring images and labels in line with the folder.

        Args:
            progress: called with the number of files looked at so far.
        """
        changes = self.look(progress)
        self.follow(changes)
        self.take_in()
        return changes

    def follow(self, changes: Changes) -> None:
        """Take in the labels that a look through the folder found, and note those that are gone."""
        self._each(changes.labels_found, self.found_labels.take_in)
        self._each(changes.labels_missing, self.found_labels.note_missing)

    def take_in(self, tag: str | None = None) -> None:
        """Read the labels that lie in the folder and are not versions yet, so that nothing is trained without them."""
        with self.ledger.reading() as connection:
            waiting = versions.pending(connection, tag)
        self._each(waiting, self.found_labels.take_in)

    def datalist(self) -> list[dict[str, str]]:
        """`[{"image": path, "label": path}, ...]` of the images to train on, by name.

        Left out are images that are gone, unfit or excluded, and labels that don't fit their image.
        """
        self.take_in(FINAL)
        with self.ledger.reading() as connection:
            pairs = versions.labelled_pairs(connection, FINAL)
        return [
            {
                "image": str(self.layout.image(image_id, suffix)),
                "label": str(self.layout.shown(image_id, FINAL, label_suffix)),
            }
            for image_id, suffix, label_suffix in pairs
        ]

    def watch(self) -> None:
        """Notice from now on what others change in the folder, in threads that end with the process or `close`."""
        if self._watcher is not None:
            return
        every_s = self.settings.store.rescan_minutes * 60
        self._watcher = Watcher(self.ledger, self.layout, self.follow, self.rescan, every_s)
        self._watcher.start()
        self._inspector = threading.Thread(
            target=inspect_all, args=(self.ledger, self.layout, self._stop), name="inspect-images", daemon=True
        )
        self._inspector.start()

    def close(self) -> None:
        """End the threads and close the ledger."""
        self._stop.set()
        if self._watcher is not None:
            self._watcher.stop()
        if self._inspector is not None:
            self._inspector.join(timeout=10)
        self.ledger.close()

    def _follow_classes(self) -> None:
        """Where the site numbers its classes anew, labels get new versions with the new numbers."""
        indices = json.dumps(self.settings.label_indices())
        with self.ledger.reading() as connection:
            before = self.ledger.fact(connection, "label_indices")
            changed = versions.all_current(connection) if before not in {None, indices} else []
        self._each(changed, self.labels.remap)
        if before != indices:
            with self.ledger.writing() as connection:
                self.ledger.set_fact(connection, "label_indices", indices)

    @staticmethod
    def _each(found: Iterable[tuple[str, str]], action: Callable[[str, str], object]) -> None:
        """One label that can't be handled doesn't keep the others from it; a disk that refuses does."""
        for image_id, tag in found:
            try:
                action(image_id, tag)
            except StorageError:
                raise
            except (LiverLoopError, OSError) as error:
                logger.warning("the label %s of %s: %s", tag, image_id, error)
