"""A studies folder: images at the top, labels in `labels/<tag>/`, as MONAI Label users know it.

MONAI Label's `LocalDatastore` does the bookkeeping; this class decides what is let in. Every label is stored as
`.nii.gz` with our indices on exactly the image's grid, so that whatever reads the folder can trust it.
"""

import hashlib
import logging
import tempfile
from pathlib import Path
from typing import Any

from monailabel.config import settings as server
from monailabel.datastore.local import LocalDatastore

from lib.errors import BadInputError, NotFoundError
from lib.settings import Settings
from lib.store.door import checked_identifier, checked_label, named_in_errors
from lib.volume_io import IMAGE_SUFFIXES, read_image, stem_of, suffix_of, write_label

logger = logging.getLogger(__name__)


class FolderDatastore(LocalDatastore):
    """MONAI Label datastore over a folder that refuses what could not be trained on.

    Args:
        path: the studies folder.
        settings: labels and limits.
    """

    def __init__(self, path: str, settings: Settings) -> None:
        self._settings = settings
        super().__init__(
            path,
            extensions=[f"*{suffix}" for suffix in IMAGE_SUFFIXES],
            auto_reload=server.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=server.MONAI_LABEL_DATASTORE_READ_ONLY,
        )

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

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Take in a CT; the same file under the same id again changes nothing.

        Raises:
            BadInputError: unfit id, not a readable CT, or the id is taken by another image.
        """
        suffix = suffix_of(image_filename, IMAGE_SUFFIXES)
        image_id = stem_of(checked_identifier(image_id or stem_of(image_filename), "image id"))
        with named_in_errors(image_filename, f"image {image_id!r}"):
            read_image(image_filename)
        known = self.get_image_uri(image_id)
        if known and Path(known).is_file():
            if _digest(known) == _digest(image_filename):
                return image_id
            msg = f"there is already another image {image_id!r}; upload this one under a different id"
            raise BadInputError(msg)
        # LocalDatastore takes the extension from the file's name.
        with tempfile.TemporaryDirectory() as folder:
            named = Path(folder) / f"image{suffix}"
            named.symlink_to(Path(image_filename).resolve())
            return super().add_image(image_id, str(named), image_info)

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Check a label against its image, map it by name and store it.

        Raises:
            NotFoundError: no image has this id.
            BadInputError: the label doesn't fit its image or names an unknown segment.
        """
        checked_identifier(label_tag, "label tag")
        image = read_image(self.image_path(image_id))
        info = dict(label_info or {})
        client_names = info.get("label_info")
        tolerance = self._settings.limits.affine_tolerance_mm
        with named_in_errors(label_filename, f"label for image {image_id!r}"):
            label = checked_label(label_filename, image, client_names, self._settings.labels, tolerance)
        if client_names:
            info["client_label_info"] = client_names
        info["label_info"] = [{"name": name, "idx": index} for name, index in self._settings.label_indices().items()]
        with tempfile.TemporaryDirectory() as folder:
            stored = Path(folder) / "label.nii.gz"
            write_label(stored, label)
            return super().save_label(image_id, str(stored), label_tag, info)

    def remove_image(self, image_id: str) -> None:
        """Remove an image and its labels.

        Raises:
            NotFoundError: no image has this id.
        """
        self.image_path(image_id)
        super().remove_image(image_id)

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove one label.

        Raises:
            NotFoundError: the image has no label of this tag.
        """
        if not self.get_label_uri(label_id, label_tag):
            msg = f"there is no label {label_id[:80]!r} with the tag {label_tag[:80]!r}"
            raise NotFoundError(msg)
        super().remove_label(label_id, label_tag)

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """Path of a zip with the labelled images and their labels.

        Raises:
            NotFoundError: nothing is labelled yet.
        """
        if not self.get_labeled_images():
            msg = "no image is labelled yet, so there is no data set to download"
            raise NotFoundError(msg)
        return super().get_dataset_archive(limit_cases)

    def _list_files(self, path: str, patterns: list[str]) -> dict[str, str]:
        # macOS leaves "._name" beside every file on network shares; ours in the making start with a dot as well.
        found = super()._list_files(path, patterns)
        return {name: file for name, file in found.items() if not name.startswith(".")}


def _digest(path: str | Path) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
