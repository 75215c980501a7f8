"""MONAI Label's `Datastore` over a ledger, of a studies folder or a PACS; `lib.store.store` does the work."""

import io
import json
import logging
import shutil
import tempfile
import threading
import zipfile
from enum import Enum
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore

from lib.errors import BadInputError, NotFoundError
from lib.files import atomic_write, file_sha256
from lib.settings import Settings
from lib.store import images, versions
from lib.store.door import checked_identifier, named_in_errors
from lib.store.events import record
from lib.store.images import FileState
from lib.store.inspection import fingerprint_of, release_twins
from lib.store.layout import FINAL
from lib.store.meaning import DECIDED
from lib.store.opening import open_store
from lib.store.store import Store
from lib.store.to_correct import name_those_in_review
from lib.volume import Grid
from lib.volume_io import IMAGE_SUFFIXES, read_image, stem_of, suffix_of

logger = logging.getLogger(__name__)

ADMINISTRATOR = "administrator"  # who removed something where nobody logs in
UNKNOWN = "unknown"  # who sent something without a name


class FolderDatastore(Datastore):
    """A studies folder or a PACS as MONAI Label's server, clients and tasks see it.

    Args:
        path: the studies folder, or the address of a PACS.
        settings: classes, limits, and which database.
        app_folder: see `lib.store.opening.open_store`.

    Raises:
        SettingsError: the ledger belongs to another folder, or its URL can't be used; or the PACS's address or login.
        BadInputError: MONAI Label's own `datastore_v2.json` is damaged.
        StorageError: folder or database can't be written, or a PACS that was never reached can't be.
    """

    def __init__(self, path: str, settings: Settings, app_folder: str | Path | None = None) -> None:
        self.store: Store = open_store(path, settings, app_folder)
        self._adding = threading.Lock()  # or the second of two images of one name would replace the first

    def name(self) -> str:
        """What the data set is called."""
        return self._fact("name") or self.store.layout.studies.name

    def set_name(self, name: str) -> None:
        """Call the data set something else."""
        self._set_fact("name", name)

    def description(self) -> str:
        """What the data set is."""
        return self._fact("description") or ""

    def set_description(self, description: str) -> None:
        """Describe the data set."""
        self._set_fact("description", description)

    def image_path(self, image_id: str) -> Path:
        """The image's file, fetched from a PACS if need be; a link is not followed, as its name is the image's.

        Raises:
            NotFoundError: no image has this id.
            BadInputError: the series in the PACS is no CT that can be read.
            StorageError: it can't be fetched now.
        """
        return self.store.images.path(image_id)

    def get_image_uri(self, image_id: str) -> str:
        """Path of the image, empty if there is none; fetched, see `image_path`."""
        try:
            return str(self.image_path(image_id))
        except NotFoundError:
            return ""

    def get_image(self, image_id: str, params: Any = None) -> io.BytesIO | None:
        """The image file's content, None if there is no such image."""
        path = self.get_image_uri(image_id)
        return io.BytesIO(Path(path).read_bytes()) if path else None

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """What is noted about an image, and its path, where it lies once it is fetched; empty if there is none."""
        with self.store.ledger.reading() as connection:
            image = images.find(connection, image_id)
        if image is None:
            return {}
        return image.info | {"path": str(self.store.layout.image(image_id, image.file.suffix))}

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Note something about an image.

        Raises:
            NotFoundError: no image has this id.
        """
        with self.store.ledger.writing() as connection:
            images.note_info(connection, image_id, info)

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """Path of the newest label of a tag, empty if there is none; what others stored in a PACS meanwhile counts."""
        self.store.take_in_from_pacs(label_id)
        with self.store.ledger.reading() as connection:
            row = versions.shown(connection, label_id, _plain(label_tag))
            version = versions.current(connection, label_id, _plain(label_tag))
        if row is None:
            return ""
        path = self.store.layout.shown(label_id, row.tag, row.suffix)
        if version is not None and not path.is_file():  # saved a moment ago and about to be shown
            path = self.store.labels.path(version)
        return str(path)

    def get_label(self, label_id: str, label_tag: str, params: Any = None) -> io.BytesIO | None:
        """The label file's content, None if there is no such label."""
        path = self.get_label_uri(label_id, label_tag)
        return io.BytesIO(Path(path).read_bytes()) if path else None

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """What is noted about the newest label of a tag; empty if there is none."""
        self.store.take_in_from_pacs(label_id)
        with self.store.ledger.reading() as connection:
            version = versions.current(connection, label_id, _plain(label_tag))
            row = versions.shown(connection, label_id, _plain(label_tag)) if version is None else None
        return version.info if version else (row and row.info) or {}

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Note something about a label.

        Raises:
            NotFoundError: there is no such label.
            BadInputError: it would say what the label's values mean, which saving it decided.
        """
        decided = sorted(info.keys() & DECIDED)
        if decided:
            msg = f"{', '.join(decided)} can't be changed for a label that is saved; save the label again"
            raise BadInputError(msg)
        with self.store.ledger.writing() as connection:
            versions.note_info(connection, label_id, _plain(label_tag), info)

    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        """`{tag: label id}` of an image; a label's id is the image's."""
        with self.store.ledger.reading() as connection:
            return dict.fromkeys(versions.tags_of(connection, image_id), image_id)

    def get_label_by_image_id(self, image_id: str, tag: str) -> str:
        """The label's id, empty if there is none of this tag."""
        return self.get_labels_by_image_id(image_id).get(_plain(tag), "")

    def list_images(self) -> list[str]:
        """Ids of all images that are there, by name."""
        with self.store.ledger.reading() as connection:
            return images.names(connection)

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Ids of the images with a label of this tag (default final), those left out on purpose not among them."""
        with self.store.ledger.reading() as connection:
            tag = _plain(label_tag or FINAL)
            return images.names(connection, labelled=True) if tag == FINAL else versions.images_with(connection, tag)

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Ids of the images without a final label that can be labelled: readable and not excluded."""
        with self.store.ledger.reading() as connection:
            return images.names(connection, open_only=True)

    def excluded_images(self) -> dict[str, str]:
        """`{image id: reason}` of the images left out of strategies, training and batches."""
        with self.store.ledger.reading() as connection:
            return images.excluded(connection)

    def made_by_model(self, label_tag: str) -> dict[str, dict[str, Any]]:
        """`{image id: params}` of the labels of this tag that a model made of the image as it is now."""
        with self.store.ledger.reading() as connection:
            return versions.made_by_models(connection, _plain(label_tag))

    def datalist(self, full_path: bool = True) -> list[dict[str, str]]:
        """`[{"image": path, "label": path}, ...]` of the labelled images to train on.

        Images that are unfit or excluded are left out, and so are labels that don't fit.

        Args:
            full_path: absolute paths; else relative to the studies folder.
        """
        return self._pairs(full_path=full_path)

    def _pairs(self, limit: int | None = None, *, full_path: bool = True) -> list[dict[str, str]]:
        pairs = self.store.datalist(limit)
        if full_path:
            return pairs
        root = self.store.layout.studies
        return [{key: str(Path(path).relative_to(root)) for key, path in pair.items()} for pair in pairs]

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Take in a CT; the same file under the same id again changes nothing.

        Raises:
            BadInputError: unfit id, not a readable CT, the id is taken, or the image is there under another id; or the
                images come from a PACS.
            StorageError: the disk or the ledger refused.
        """
        self._refuse_for_pacs("send the series to that")
        image_id = stem_of(checked_identifier(image_id or stem_of(image_filename), "image id"))
        path = Path(image_filename)
        with named_in_errors(image_filename, f"image {image_id!r}"):
            suffix = suffix_of(path, IMAGE_SUFFIXES)
            grid = read_image(path, self.store.settings.limits.of_files()).grid
        fingerprint, sha256 = fingerprint_of(path), file_sha256(path)
        with self._adding:
            return self._add(image_id, path, suffix, grid, fingerprint, sha256, image_info or {})

    def _add(
        self, image_id: str, path: Path, suffix: str, grid: Grid, fingerprint: str, sha256: str, info: dict[str, Any]
    ) -> str:
        target = self.store.layout.image(image_id, suffix)
        with self.store.ledger.reading() as connection:
            known = images.find(connection, image_id)
            twin = images.same_content(connection, fingerprint)
        # By hand, in another format and not noticed yet is there as well.
        suffixes = [known.file.suffix] if known else IMAGE_SUFFIXES
        there = [path for path in (self.store.layout.image(image_id, s) for s in suffixes) if path.exists()]
        if known is not None or there:
            if there and file_sha256(there[0]) == sha256:
                return image_id
            msg = f"there is already another image {image_id!r}; upload this one under a different id"
            raise BadInputError(msg)
        if twin is not None and file_sha256(self.image_path(twin)) == sha256:
            msg = f"image {image_id!r} has the same content as image {twin!r}, which is here already; use that one"
            raise BadInputError(msg)
        with atomic_write(target) as temporary:
            shutil.copyfile(path, temporary)
        with self.store.ledger.writing() as connection:
            if images.is_known(connection, image_id):  # seen by the watcher already, or here once before
                images.note_changed(connection, image_id, FileState.of(target, suffix))
            else:
                images.register(connection, [(image_id, FileState.of(target, suffix))])
            images.note_info(connection, image_id, info)
            images.note_content(connection, image_id, grid, fingerprint, sha256)
            record(connection, "image added", image_id, actor=str((info).get("user") or UNKNOWN))
        return image_id

    def remove_image(self, image_id: str, by: str = ADMINISTRATOR) -> None:
        """Remove an image, of a linked one the link only, and take its labels back; their versions stay.

        Args:
            image_id: of the image.
            by: who does that.

        Raises:
            NotFoundError: no image has this id.
            BadInputError: the images come from a PACS.
        """
        self._refuse_for_pacs("exclude the image with a reason to leave it out, or delete the series there")
        path = self.image_path(image_id)
        for tag in self.get_labels_by_image_id(image_id):
            self.store.labels.withdraw(image_id, tag, author=by)
        path.unlink(missing_ok=True)
        with self.store.ledger.writing() as connection:
            release_twins(connection, [image_id])
            images.note_vanished(connection, [image_id])
            record(connection, "image removed", image_id, actor=by)

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Keep a label as a new version.

        Raises:
            NotFoundError: no image has this id.
            BadInputError: the label doesn't fit its image or names an unknown segment.
            StorageError: the disk or the ledger refused.
        """
        info = dict(label_info or {})
        by_model = "model" in info  # MONAI Label's way to save an automatic result
        author = str(info.get("client_id") or info.get("user") or (info["model"] if by_model else UNKNOWN))
        source = "model" if by_model else "client"
        self.store.save(image_id, label_filename, _plain(label_tag), info, author=author, source=source)
        return image_id

    def remove_label(self, label_id: str, label_tag: str, by: str = ADMINISTRATOR) -> None:
        """Take a label back; its versions stay.

        Args:
            label_id: of the image.
            label_tag: of the label.
            by: who does that.

        Raises:
            NotFoundError: the image has no label of this tag.
        """
        self.store.labels.withdraw(label_id, _plain(label_tag), author=by)

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """Path of a new zip with the labelled images and their labels.

        Raises:
            NotFoundError: nothing is labelled yet.
        """
        pairs = self._pairs(limit_cases if limit_cases and limit_cases > 0 else None)
        if not pairs:
            msg = "no image is labelled yet, so there is no data set to download"
            raise NotFoundError(msg)
        with tempfile.NamedTemporaryFile(delete=False, suffix=".zip") as file, zipfile.ZipFile(file, "w") as archive:
            for pair in pairs:
                for kind, path in pair.items():
                    archive.write(path, f"{kind}/{Path(path).name}")
            archive.writestr("metadata.json", json.dumps(self._described([stem_of(pair["image"]) for pair in pairs])))
        return file.name

    def refresh(self) -> None:
        """Look through the whole folder now; a PACS is listed in the background."""
        if self.store.pacs_images is not None:
            self.store.pacs_images.list_soon()
        self.store.rescan()

    def status(self) -> dict[str, Any]:
        """How many images there are and how many are labelled, as clients show it."""
        with self.store.ledger.reading() as connection:
            return images.progress(connection) | {"label_tags": versions.count_by_tag(connection)}

    def json(self) -> dict[str, Any]:
        """Everything known of every image, in the form of MONAI Label's own store."""
        described = self._described(self.list_images())
        with self.store.ledger.reading() as connection:
            name_those_in_review(connection, described["objects"], self.store.settings.label_indices())
        return described

    def _refuse_for_pacs(self, remedy: str) -> None:
        if self.store.pacs_images is not None:
            name = self.store.pacs_images.pacs.name
            msg = f"the images of this server come from the PACS at {name}, in which it changes nothing; {remedy}"
            raise BadInputError(msg)

    def _described(self, image_ids: list[str]) -> dict[str, Any]:
        with self.store.ledger.reading() as connection:
            objects = versions.described(connection, image_ids)
        return {
            "name": self.name(),
            "description": self.description(),
            "images_dir": ".",
            "labels_dir": "labels",
            "objects": objects,
        }

    def _fact(self, key: str) -> str | None:
        with self.store.ledger.reading() as connection:
            return self.store.ledger.fact(connection, key)

    def _set_fact(self, key: str, value: str) -> None:
        with self.store.ledger.writing() as connection:
            self.store.ledger.set_fact(connection, key, value)


def _plain(tag: str) -> str:
    """MONAI Label passes members of its own enumeration, which print as `DefaultLabelTag.FINAL`."""
    return str(tag.value) if isinstance(tag, Enum) else tag
