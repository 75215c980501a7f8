"""The table of a studies folder, `datastore_v2.json`, safe for several threads and processes.

MONAI Label's `LocalDatastore` changes its table in place, from the threads that answer requests and from the one that
watches the folder: whoever reads meanwhile meets an empty table or an exception. Here every change is made to a copy,
on top of what other processes (a batch, a scoring) wrote last, and swapped in whole.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore, LocalDatastoreModel
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException

from lib.errors import BadInputError, LiverLoopError
from lib.files import atomic_write
from lib.volume_io import LABEL_SUFFIXES, stem_of

logger = logging.getLogger(__name__)

_PREFERRED = ".nii.gz"  # where one name has files of several formats


class TableDatastore(LocalDatastore):
    """`LocalDatastore` whose readers see the table before or after a change, never within one.

    Args:
        path: the studies folder.
        options: those of `LocalDatastore`.

    Raises:
        BadInputError: `datastore_v2.json` is damaged.
    """

    def __init__(self, path: str, **options: Any) -> None:
        self._seen: tuple[int, int, int] | None = None  # which state of the file the table is from
        self._one_writer = threading.RLock()
        super().__init__(path, **options)
        if self._auto_reload:
            self._handler.on_moved = self._on_moved  # copying tools write aside and rename, as we do

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Note something about an image."""
        with self._changing() as objects:
            entry = objects.get(image_id)
            if entry is None:
                msg = f"Image {image_id} not found"
                raise ImageNotFoundException(msg)
            image = DataModel(ext=entry.image.ext, info={**entry.image.info, **info})
            objects[image_id] = ImageLabelModel(image=image, labels=entry.labels)

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Note something about a label."""
        with self._changing() as objects:
            entry = objects.get(label_id)
            known = entry.labels.get(label_tag) if entry else None
            if entry is None or known is None:
                msg = f"Label: {label_id} Tag: {label_tag} not found"
                raise LabelNotFoundException(msg)
            label = DataModel(ext=known.ext, info={**known.info, **info})
            objects[label_id] = ImageLabelModel(image=entry.image, labels={**entry.labels, label_tag: label})

    @contextmanager
    def _changing(self) -> Iterator[dict[str, ImageLabelModel]]:
        """The table to change: entries are replaced, never changed in place; written at the end if anything was."""
        with self._one_writer, FileLock(self._lock_file):
            self._read_table()
            before = self._datastore.objects
            objects = dict(before)
            yield objects
            if objects != before:
                self._datastore.objects = objects
                self._update_datastore_file(lock=False)

    def _reconcile_datastore(self) -> None:
        """Bring the table in line with the files in the folder."""
        with self._changing() as objects:
            found = self._files(Path(self._datastore.image_path()))
            for image_id in [image_id for image_id in objects if image_id not in found]:
                logger.info("image %s is gone", image_id)
                del objects[image_id]
            labels_folder = Path(self._datastore.label_path(None))
            tags = sorted(path.name for path in labels_folder.iterdir() if path.is_dir())
            labels = {tag: self._files(labels_folder / tag) for tag in tags}
            for image_id, suffixes in found.items():
                known = objects.get(image_id)
                entries = {
                    tag: _entry(known.labels.get(tag) if known else None, image_id, files[image_id])
                    for tag, files in labels.items()
                    if image_id in files
                }
                image = _entry(known.image if known else None, image_id, suffixes)
                objects[image_id] = ImageLabelModel(image=image, labels=entries)

    def _files(self, folder: Path) -> dict[str, list[str]]:
        """Names and suffixes of our formats in a folder, the preferred suffix first; hidden files do not count.

        macOS leaves "._name" beside every file on network shares; ours in the making start with a dot as well.
        """
        is_images = os.path.samefile(folder, self._datastore.image_path())
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_file())
        found: dict[str, list[str]] = {}
        for name in names:
            suffix = name[len(stem_of(name)) :]
            if suffix and not (is_images and suffix.lower() == ".seg.nrrd"):
                found.setdefault(stem_of(name), []).append(suffix)
        order = {suffix: position for position, suffix in enumerate((_PREFERRED, *LABEL_SUFFIXES))}
        return {name: sorted(suffixes, key=lambda s: min(order[s.lower()], 1)) for name, suffixes in found.items()}

    def _read_table(self) -> None:
        path = Path(self._datastore_config_path)
        try:
            state = _state(path)
        except FileNotFoundError:
            return
        if state == self._seen:
            return
        try:
            table = LocalDatastoreModel.model_validate_json(path.read_text(encoding="utf-8"))
        except ValueError as error:
            msg = (
                f"{path} is damaged; move it away: images and labels are found again without it, only notes about "
                "them are lost"
            )
            raise BadInputError(msg) from error
        table.base_path = self._datastore_path
        self._datastore, self._seen = table, state

    def _init_from_datastore_file(self, throw_exception: bool = False) -> None:
        with self._one_writer, FileLock(self._lock_file):
            self._read_table()

    def _update_datastore_file(self, lock: bool = True) -> None:
        with FileLock(self._lock_file) if lock else nullcontext():
            content = json.dumps(self._datastore.model_dump(exclude={"base_path"}), indent=2, default=str)
            with atomic_write(self._datastore_config_path) as temporary:
                temporary.write_text(content, encoding="utf-8")
            self._seen = _state(Path(self._datastore_config_path))

    def _on_any_event(self, event: Any) -> None:
        try:
            self.refresh()
        except (LiverLoopError, OSError) as error:  # the thread that watches must go on
            logger.warning("the studies folder can't be looked through: %s", error)

    def _on_modify_event(self, event: Any) -> None:
        if event.src_path == self._datastore_config_path:
            self._on_table_written()

    def _on_moved(self, event: Any) -> None:
        if event.dest_path == self._datastore_config_path:
            self._on_table_written()
        else:
            self._on_any_event(event)

    def _on_table_written(self) -> None:
        try:
            self._init_from_datastore_file()  # does nothing when it was our own writing
        except (LiverLoopError, OSError) as error:
            logger.warning("%s", error)


def _state(path: Path) -> tuple[int, int, int]:
    """Differs after every rename, even within one tick of the file system's clock."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


def _entry(known: DataModel | None, name: str, suffixes: list[str]) -> DataModel:
    """What is known of a file, or a new entry where nothing is or where it is another file now."""
    if known is not None and known.ext in suffixes:
        return known
    return DataModel(ext=suffixes[0], info={"ts": int(time.time()), "name": f"{name}{suffixes[0]}"})
