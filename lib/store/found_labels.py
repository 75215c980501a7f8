"""Labels that somebody put into `labels/<tag>/`, or took away there, behind the server's back."""

import logging
import time
from pathlib import Path

from sqlalchemy import update

from lib.errors import LiverLoopError
from lib.files import file_sha256
from lib.settings import Settings
from lib.store import images, version_files, versions
from lib.store.door import named_in_errors
from lib.store.events import SERVER, record
from lib.store.images import FileState
from lib.store.label_store import LabelStore, OvertakenError
from lib.store.layout import STORED, Layout
from lib.store.ledger import Ledger
from lib.store.meaning import names_to_map
from lib.store.schema import labels as labels_table
from lib.store.versions import Version
from lib.volume_io import read_label, suffix_of

logger = logging.getLogger(__name__)

_SAME_PLACE_MM = 0.01  # formats round affines differently; a file that another program wrote stays as it is
_SETTLED_S = 10.0  # a file that was not changed for so long is not being written any more


class UnsettledError(LiverLoopError):
    """A file in the folder can't be read yet; somebody may still be writing it."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path.name} can't be used as it is; perhaps it is still being written")
        self.path = path


class FoundLabels:
    """Brings the ledger in line with labels that lie in the folder.

    Args:
        ledger: what is known.
        layout: where files lie.
        settings: classes and limits.
        labels: where versions are kept.
    """

    def __init__(self, ledger: Ledger, layout: Layout, settings: Settings, labels: LabelStore) -> None:
        self._ledger = ledger
        self._layout = layout
        self._settings = settings
        self._labels = labels

    def take_in(self, image_id: str, tag: str) -> Version | None:
        """Bring the ledger in line with a file that somebody put into `labels/<tag>/`.

        Returns:
            The version it became; None where it is what the ledger says already, or where it can't be used. A file that
            can't be used stays where it is with its problem noted; if it lies over a good version, it is moved
            to `labels/refused/` and the version is shown again.

        Raises:
            UnsettledError: a file over a good version can't be used, and was written a moment ago.
            StorageError: the disk or the ledger refused.
        """
        with self._ledger.reading() as connection:
            image = images.find(connection, image_id)
            row = versions.shown(connection, image_id, tag)
        if row is not None and row.version_id is not None and row.shown_size is None:
            self._labels.show(image_id, tag)  # the server ended between the commit and the copy
            return None
        if image is None:
            return None
        there = self._layout.shown_files(image_id, tag, row.suffix if row else STORED)
        # Before they are read: what is written into them from now on is another content, to be taken in later.
        files = {path: FileState.of(path, suffix_of(path)) for path in there if not self._labels.is_shown(path, row)}
        version = None
        # In every format, the last written last, so that it becomes the newest version.
        for path, state in sorted(files.items(), key=lambda entry: entry[1].modified_ns):
            version = self._version_of(image_id, tag, path, state) or version
        if version is None:
            return None
        stays = len(there) == 1 and self._shows(there[0], version)
        self._labels.note_shown(version, files[there[0]] if stays else None)
        self._labels.show(image_id, tag)
        if row is not None and row.version_id == version.id:
            return None
        logger.info("the label %s of %s in the folder is version %d now", tag, image_id, version.number)
        return version

    def note_missing(self, image_id: str, tag: str) -> None:
        """The file in `labels/<tag>/` is gone: somebody took the label away. Its versions stay."""
        with self._ledger.reading() as connection:
            row = versions.shown(connection, image_id, tag)
        if row is None or self._layout.shown_files(image_id, tag, row.suffix):
            return
        if row.version_id is not None and row.shown_size is None:
            self._labels.show(image_id, tag)
            return
        if not self._layout.tag(tag).is_dir():  # nobody takes every label back by that
            logger.warning("the folder %s is gone; its labels stay what they were", self._layout.tag(tag))
            return
        logger.warning("the label %s of %s was removed from the folder; its versions are kept", tag, image_id)
        self._labels.forget(image_id, tag, "label vanished", SERVER, expected=row)

    def _version_of(self, image_id: str, tag: str, path: Path, state: FileState) -> Version | None:
        """The version that a file is or becomes; None where it can't be one, or not yet."""
        with self._ledger.reading() as connection:
            current = versions.current(connection, image_id, tag)
            row = versions.shown(connection, image_id, tag)
        if current is not None and version_files.comes_from(current, file_sha256(path)):
            return current  # copied or touched, not changed
        info = dict((row.info if row else None) or {})
        try:
            with named_in_errors(path, f"label {path.name}"):
                label = self._labels.checked(
                    path, self._labels.grid(image_id), names_to_map(info, self._settings) or None
                )
        except LiverLoopError as error:
            self._note_unfit(image_id, tag, path, state, str(error), current)
            return None
        source = "adopted" if info else "found"
        author = str(info.get("client_id") or info.get("user") or SERVER)
        try:
            return self._labels.keep(
                image_id,
                tag,
                path,
                label,
                self._labels.described(info, label),
                author=author,
                source=source,
                expected=row,
            )
        except OvertakenError:
            return None  # a client saved meanwhile; the next look sees what lies here then

    def _shows(self, path: Path, version: Version) -> bool:
        """Whether a file can stay as what other tools see of a version: the same voxels under our indices."""
        label = read_label(self._labels.path(version))
        return suffix_of(path) != ".seg.nrrd" and version_files.holds(path, label, _SAME_PLACE_MM)

    def _note_unfit(
        self, image_id: str, tag: str, path: Path, state: FileState, problem: str, current: Version | None
    ) -> None:
        """A file in `labels/<tag>/` that can't be used: noted where it is the only one, else moved out of the way."""
        if current is not None:
            if time.time() - state.modified_ns / 1e9 < _SETTLED_S or not state.is_of(path):
                raise UnsettledError(path)
            logger.warning("the label %s of %s in the folder is refused: %s", tag, image_id, problem)
            self._labels.refuse(image_id, tag, path, problem, SERVER, move=True)
            self._labels.note_shown(current, None)
            self._labels.show(image_id, tag)
            return
        with self._ledger.writing() as connection:
            key = (labels_table.c.image_id == image_id, labels_table.c.tag == tag, labels_table.c.version_id.is_(None))
            values = {
                "problem": problem,
                "suffix": state.suffix,
                "shown_size": state.size,
                "shown_modified_ns": state.modified_ns,
            }
            if not connection.execute(update(labels_table).where(*key).values(values)).rowcount:
                return  # a client saved meanwhile, and what lay here is kept aside
            record(connection, "label not usable", image_id, tag, detail={"reason": problem})
            images.reckon(connection, [image_id])  # it is to be labelled after all
        logger.warning("the label %s of %s is not used: %s", tag, image_id, problem)
