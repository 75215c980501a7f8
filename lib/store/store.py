"""A studies folder and what is known of it: the one object that servers and scripts open.

`lib.store.opening` opens it, for a folder and for a PACS alike.
"""

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from lib.dicomweb.client import Pacs
from lib.errors import LiverLoopError, SettingsError, StorageError
from lib.files import writable_folder
from lib.settings import Settings
from lib.store import versions
from lib.store.found_labels import FoundLabels, UnsettledError
from lib.store.image_files import FolderImages, ImageFiles
from lib.store.label_store import LabelStore, Noting
from lib.store.layout import FINAL, ORIGINAL, Layout, checked_tag
from lib.store.ledger import open_ledger
from lib.store.pacs_images import PacsImages
from lib.store.scan import Changes
from lib.store.seg_exchange import SegExchange
from lib.store.versions import Version
from lib.store.watch import Watcher

logger = logging.getLogger(__name__)


class Store:
    """Images, labels and the ledger of a studies folder.

    At the first opening the folder is looked through and adopted; later ones know it already.

    Args:
        studies: the folder; made if it is missing.
        settings: classes, limits, and which database.
        follow_classes: bring labels to the numbers of `settings` where they were saved with others; False: refuse.
        pacs: where the images come from; `studies` is then the working folder. None: they lie in the folder.

    Raises:
        SettingsError: the ledger belongs to another folder, its URL can't be used, or its labels have other numbers;
            or a folder is a PACS's working folder.
        BadInputError: MONAI Label's own `datastore_v2.json` is damaged.
        StorageError: folder or database can't be written.
    """

    def __init__(
        self, studies: str | Path, settings: Settings, *, follow_classes: bool = True, pacs: Pacs | None = None
    ) -> None:
        self.settings = settings
        self.layout = Layout(Path(studies).resolve())
        if pacs is None and self.layout.pacs.is_file():
            address = self.layout.pacs.read_text(encoding="utf-8").strip()
            msg = f"{self.layout.studies} is the working folder of the PACS at {address}; let --studies name that"
            raise SettingsError(msg)
        for folder in (self.layout.tag(FINAL), self.layout.tag(ORIGINAL), self.layout.ledger):
            writable_folder(folder)
        self.ledger = open_ledger(self.layout, settings.ledger)
        self.images = self._image_files(pacs)
        self.labels = LabelStore(self.ledger, self.layout, settings, self.images, self._sent_soon)
        self.found_labels = FoundLabels(self.ledger, self.layout, settings, self.labels)
        self._watcher: Watcher | None = None
        self._on_found: Callable[[Version], object] = lambda _: None
        self.segs = self._seg_exchange()
        with self.ledger.reading() as connection:
            known = self.ledger.fact(connection, "scanned_at") is not None
        if not known:
            self.look()
        self._follow_classes(allowed=follow_classes)

    def look(self, progress: Callable[[int], object] | None = None) -> Changes:
        """Bring the ledger in line with the folder; labels are noticed, not yet read.

        Args:
            progress: called with the number of files looked at so far.
        """
        changes = self.images.look(progress)
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
        changes.unsettled += self._each(changes.labels_found, self.found_labels.take_in)
        self._each(changes.labels_missing, self.found_labels.note_missing)

    def take_in(self, tag: str | None = None) -> None:
        """Read the labels that lie in the folder and are not versions yet, so that nothing is trained without them."""
        with self.ledger.reading() as connection:
            waiting = versions.pending(connection, tag)
        self._each(waiting, self.found_labels.take_in)

    def save(
        self,
        image_id: str,
        path: str | Path,
        tag: str,
        info: Mapping[str, Any] | None = None,
        *,
        author: str,
        source: str = "client",
        noting: Noting | None = None,
    ) -> Version:
        """`LabelStore.save`; a label that lies in the folder and was not taken in yet becomes the version before.

        Raises:
            NotFoundError: no image has this id.
            BadInputError: see `LabelStore.save`.
            StorageError: the disk or the ledger refused.
        """
        with self.ledger.reading() as connection:
            row = versions.shown(connection, image_id, checked_tag(tag))
        if row is not None and row.version_id is None and row.problem is None:
            self._each([(image_id, tag)], self.found_labels.take_in)
        return self.labels.save(image_id, path, tag, info, author=author, source=source, noting=noting)

    def datalist(self, limit: int | None = None) -> list[dict[str, str]]:
        """`[{"image": path, "label": path}, ...]` of the images to train on, by name.

        Left out are images that are gone, unfit or excluded or that can't be fetched now, and labels that don't fit
        their image.

        Args:
            limit: of the first so many; None: of all.
        """
        self.take_in(FINAL)
        with self.ledger.reading() as connection:
            pairs = versions.labelled_pairs(connection, FINAL)[:limit]
        paths = self.images.paths([(image_id, suffix) for image_id, suffix, _ in pairs])
        if not self.images.in_folder:  # some may have turned out to be others than those their labels were made on
            with self.ledger.reading() as connection:
                pairs = versions.labelled_pairs(connection, FINAL)
        return [
            {"image": str(paths[image_id]), "label": str(self.layout.shown(image_id, FINAL, label_suffix))}
            for image_id, _, label_suffix in pairs
            if image_id in paths
        ]

    def take_in_from_pacs(self, image_id: str) -> None:
        """Take in what others stored for an image in the PACS, before somebody works on it; a folder has nothing.

        Never fails: while the PACS can't be asked, what is here counts.
        """
        if self.segs is not None:
            self.segs.look(image_id)

    def watch(self, on_found: Callable[[Version], object] = lambda _: None) -> None:
        """Notice from now on what others change in folder and PACS, in threads that end with the process or `close`.

        Args:
            on_found: called with each version that was found in the PACS, in whatever thread.
        """
        if self._watcher is not None:
            return
        self._on_found = on_found
        every_s = self.settings.store.rescan_minutes * 60
        self._watcher = Watcher(
            self.ledger, self.layout, self.follow, self.rescan, every_s, of_images=self.images.in_folder
        )
        self._watcher.start()
        self.images.watch()
        if self.segs is not None:
            self.segs.start()

    def close(self) -> None:
        """End the threads and close the ledger."""
        if self._watcher is not None:
            self._watcher.stop()
        self.images.stop()
        if self.segs is not None:
            self.segs.stop()
        self.ledger.close()

    @property
    def pacs_images(self) -> PacsImages | None:
        """The images as series of a PACS; None where they lie in a folder."""
        return self.images if isinstance(self.images, PacsImages) else None

    def _image_files(self, pacs: Pacs | None) -> ImageFiles:
        if pacs is None:
            return FolderImages(self.ledger, self.layout)
        writable_folder(self.layout.series)
        every_s = self.settings.store.rescan_minutes * 60
        return PacsImages(
            self.ledger, self.layout, self.settings.pacs, pacs, every_s, on_listed=self._listed, on_back=self._sent_soon
        )

    def _seg_exchange(self) -> SegExchange | None:
        images = self.pacs_images
        if images is None:
            return None
        every_s = self.settings.store.rescan_minutes * 60
        return SegExchange(
            self, images.pacs, images, lambda version: self._on_found(version),
            poll_s=self.settings.pacs.poll_seconds, walk_s=every_s,
        )  # fmt: skip

    def _listed(self) -> None:
        """Series that came may have brought their SEGs with them."""
        if self.segs is not None:
            self.segs.look_through_soon()

    def _sent_soon(self, _: Version | None = None) -> None:
        if self.segs is not None:
            self.segs.wake()

    def _follow_classes(self, *, allowed: bool) -> None:
        """Where the site numbers its classes anew, labels get new versions with the new numbers."""
        indices = json.dumps(self.settings.label_indices())
        with self.ledger.reading() as connection:
            before = self.ledger.fact(connection, "label_indices")
            changed = versions.all_current(connection) if before not in {None, indices} else []
        if not allowed and before not in {None, indices}:
            self.close()
            msg = (
                f"the labels in {self.layout.studies} are numbered {before}, and these settings say {indices}; name "
                "the app of the server by --app, or start a server with these settings first"
            )
            raise SettingsError(msg)
        self._each(changed, self.labels.remap)
        if before != indices:
            with self.ledger.writing() as connection:
                self.ledger.set_fact(connection, "label_indices", indices)

    @staticmethod
    def _each(found: Iterable[tuple[str, str]], action: Callable[[str, str], object]) -> list[Path]:
        """One label that can't be handled doesn't keep the others from it; a disk that refuses does.

        Returns:
            Files that must be looked at again soon.
        """
        unsettled = []
        for image_id, tag in found:
            try:
                action(image_id, tag)
            except StorageError:
                raise
            except UnsettledError as error:
                unsettled.append(error.path)
            except (LiverLoopError, OSError) as error:
                logger.warning("the label %s of %s: %s", tag, image_id, error)
        return unsettled
