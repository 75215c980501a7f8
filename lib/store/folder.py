"""A studies folder: images at the top, labels in `labels/<tag>/`, as MONAI Label users know it.

`lib.store.table` does the bookkeeping; this class decides what is let in and how it is written. Every
label is stored as `.nii.gz` with our indices on exactly the image's grid, so that whatever reads the folder can trust
it. A folder that MONAI Label's own store has kept so far is taken over as it is, its labels mapped by their names.
"""

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monailabel.config import settings as server
from monailabel.datastore.local import DataModel, ImageLabelModel

from lib.errors import BadInputError, LiverLoopError, NotFoundError
from lib.files import atomic_write
from lib.labels import find_index
from lib.settings import Settings
from lib.store.door import checked_identifier, checked_label, named_in_errors
from lib.store.table import TableDatastore
from lib.volume_io import IMAGE_SUFFIXES, LABEL_SUFFIXES, read_image, stem_of, suffix_of, write_label

logger = logging.getLogger(__name__)

_STORED = ".nii.gz"
_INDICES = "label_indices"  # in a label's info: what its values mean; only labels that went through our door have it
_ASIDE = ".replaced"  # folder within the studies folder


class FolderDatastore(TableDatastore):
    """MONAI Label datastore over a folder that refuses what could not be trained on.

    Args:
        path: the studies folder.
        settings: labels and limits.

    Raises:
        BadInputError: `datastore_v2.json` is damaged.
    """

    def __init__(self, path: str, settings: Settings) -> None:
        self._settings = settings
        super().__init__(
            path,
            extensions=[f"*{suffix}" for suffix in IMAGE_SUFFIXES],
            auto_reload=server.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=server.MONAI_LABEL_DATASTORE_READ_ONLY,
        )
        if not server.MONAI_LABEL_DATASTORE_READ_ONLY:
            self._take_over_labels()

    def image_path(self, image_id: str) -> Path:
        """The image's file.

        Raises:
            NotFoundError: no image has this id.
        """
        uri = self.get_image_uri(image_id)
        if not uri:
            msg = f"there is no image {image_id[:80]!r} in the studies folder"
            raise NotFoundError(msg)
        return Path(uri)

    def get_image_uri(self, image_id: str) -> str:
        """Path of the image, empty if there is none. A link is not followed: its name is the image's."""
        known = self._datastore.objects.get(image_id)
        return str(self._images() / f"{image_id}{known.image.ext}") if known else ""

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """What is noted about an image, and its path."""
        info: dict[str, Any] = super().get_image_info(image_id)
        return info | {"path": self.get_image_uri(image_id)} if info else info

    def datalist(self, full_path: bool = True) -> list[dict[str, str]]:
        """`[{"image": path, "label": path}, ...]` of labelled images, but for labels of unknown meaning."""
        found = []
        for image_id in self.get_labeled_images():
            if self._names_to_map(self.get_label_info(image_id, "final")):
                logger.warning("the label of %s is not used: its values are not known to be our indices", image_id)
                continue
            found.append({"image": self.get_image_uri(image_id), "label": self.get_label_uri(image_id, "final")})
        if full_path:
            return found
        return [{key: os.path.relpath(path, self._datastore_path) for key, path in entry.items()} for entry in found]

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Take in a CT; the same file under the same id again changes nothing.

        Raises:
            BadInputError: unfit id, not a readable CT, or the id is taken by another image.
            StorageError: the disk refused.
        """
        image_id = stem_of(checked_identifier(image_id or stem_of(image_filename), "image id"))
        with named_in_errors(image_filename, f"image {image_id!r}"):
            suffix = suffix_of(image_filename, IMAGE_SUFFIXES)
            read_image(image_filename)
        self.refresh()  # files may have been put into the folder by hand
        known = self.get_image_uri(image_id)
        if known:
            if _digest(known) == _digest(image_filename):
                return image_id
            msg = f"there is already another image {image_id!r}; upload this one under a different id"
            raise BadInputError(msg)
        name = f"{image_id}{suffix}"
        info = {**(image_info or {}), "ts": int(time.time()), "name": name}
        with self._changing() as objects:
            with atomic_write(self._images() / name) as temporary:
                shutil.copyfile(image_filename, temporary)
            objects[image_id] = ImageLabelModel(image=DataModel(info=info, ext=suffix))
        return image_id

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Check a label against its image, map it by name and store it.

        Raises:
            NotFoundError: no image has this id.
            BadInputError: the label doesn't fit its image or names an unknown segment.
            StorageError: the disk refused.
        """
        checked_identifier(label_tag, "label tag")
        image_path = self.image_path(image_id)
        image = read_image(image_path)
        info = dict(label_info or {})
        client_names = info.get("label_info")
        tolerance = self._settings.limits.affine_tolerance_mm
        with named_in_errors(label_filename, f"label for image {image_id!r}"):
            label = checked_label(label_filename, image, client_names, self._settings.labels, tolerance)
        if client_names:
            info["client_label_info"] = client_names
        indices = self._settings.label_indices()
        info["label_info"] = [{"name": name, "idx": index} for name, index in indices.items()]
        name = f"{image_id}{_STORED}"
        info |= {_INDICES: indices, "ts": int(time.time()), "name": name}
        write_label(self._labels(label_tag) / name, label)
        with self._changing() as objects:
            entry = objects.get(image_id) or ImageLabelModel(image=DataModel(ext=suffix_of(image_path)))
            labels = {**entry.labels, label_tag: DataModel(info=info, ext=_STORED)}
            objects[image_id] = ImageLabelModel(image=entry.image, labels=labels)
        return image_id

    def remove_image(self, image_id: str) -> None:
        """Remove an image and its labels; of a linked image the link only.

        Raises:
            NotFoundError: no image has this id.
        """
        path = self.image_path(image_id)
        for tag in self.get_labels_by_image_id(image_id):
            self._remove_label_files(image_id, tag)
        path.unlink(missing_ok=True)
        self.refresh()

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove one label.

        Raises:
            NotFoundError: the image has no label of this tag.
        """
        if not self.get_label_uri(label_id, label_tag):
            msg = f"there is no label {label_id[:80]!r} with the tag {label_tag[:80]!r}"
            raise NotFoundError(msg)
        self._remove_label_files(label_id, label_tag)
        self.refresh()

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """Path of a zip with the labelled images and their labels.

        Raises:
            NotFoundError: nothing is labelled yet.
        """
        if not self.datalist():
            msg = "no image is labelled yet, so there is no data set to download"
            raise NotFoundError(msg)
        return super().get_dataset_archive(limit_cases)

    def _images(self) -> Path:
        return Path(self._datastore.image_path()).resolve()

    def _labels(self, tag: str) -> Path:
        return Path(self._datastore.label_path(tag)).resolve()

    def _remove_label_files(self, label_id: str, tag: str) -> None:
        # In every format: a label in another one that was there before would come back in its place.
        for path in self._labels(tag).iterdir():
            if path.name.lower().endswith(LABEL_SUFFIXES) and stem_of(path) == label_id:
                path.unlink()

    def _names_to_map(self, info: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """The names of a label's values where the values are not our indices; empty where they are.

        A label without names holds our indices by agreement, such as one that was put into the folder by hand.
        """
        ours = self._settings.label_indices()
        if _INDICES in info:
            named = [{"name": name, "idx": index} for name, index in info[_INDICES].items()]
            return [] if all(ours.get(name) == index for name, index in info[_INDICES].items()) else named
        named = info.get("label_info") or []
        expected = [{"name": name, "idx": index} for name, index in ours.items()]
        return [] if _spelled_as(named, self._settings) == expected[: len(named)] else named

    def _take_over_labels(self) -> None:
        """Map labels that MONAI Label's own store saved as they came; the original file is kept aside."""
        for image_id, tag in [(i, tag) for i in self.list_images() for tag in self.get_labels_by_image_id(i)]:
            info = self.get_label_info(image_id, tag)
            names = self._names_to_map(info)
            if not names:
                continue
            original = Path(self.get_label_uri(image_id, tag))
            kept = Path(self._datastore_path) / _ASIDE / tag / f"{time.time_ns()}-{original.name[-100:]}"
            try:
                with atomic_write(kept) as temporary:
                    shutil.copyfile(original, temporary)
                self.save_label(image_id, str(original), tag, {**info, "label_info": names})
            except (LiverLoopError, OSError) as error:
                kept.unlink(missing_ok=True)
                logger.warning("the label %s of %s can't be mapped to our names: %s", tag, image_id, error)
            else:
                logger.info("the label %s of %s was mapped by its names; the original is %s", tag, image_id, kept)


def _spelled_as(named: Any, settings: Settings) -> list[dict[str, Any]] | None:
    """`label_info` with our spelling of the names; None if it is malformed."""
    names = {index: name for name, index in settings.label_indices().items()}
    try:
        return [
            {"name": names.get(find_index(str(entry["name"]), settings.labels) or 0), "idx": entry["idx"]}
            for entry in named
        ]
    except (KeyError, TypeError):
        return None


def _digest(path: str | Path) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
