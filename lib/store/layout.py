"""Where things lie in a studies folder.

    STUDIES/case_1.nii.gz                        an image
    STUDIES/labels/final/case_1.nii.gz           the newest label of a tag, for any other tool to read
    STUDIES/labels/refused/case_1/...            labels that did not fit, each with its reason beside it
    STUDIES/ledger/ledger.sqlite                 what is known, where no other database is named
    STUDIES/ledger/id                            which ledger belongs to this folder
    STUDIES/ledger/versions/case_1/final/...     every version of every label
    STUDIES/ledger/presegmentations/case_1/...   automatic results, to compare corrections with
    STUDIES/ledger/pacs                          the PACS that the images come from, if this is its working folder
    STUDIES/ledger/series/1.2.3.json.gz          headers of a series of the PACS

Other tools see images and newest labels where MONAI Label has always put them.
"""

import os
import uuid
from dataclasses import dataclass
from pathlib import Path

from lib.errors import BadInputError
from lib.files import atomic_write
from lib.store.door import checked_identifier
from lib.volume_io import LABEL_SUFFIXES, stem_of

STORED = ".nii.gz"  # the format of every label that went through the door
FINAL = "final"  # the tag of what an annotator submitted
ORIGINAL = "original"  # the tag of what a model made
REFUSED = "refused"  # a folder beside the tags, so no tag itself


@dataclass(frozen=True)
class Layout:
    """The paths of a studies folder.

    Args:
        studies: the folder, absolute.
    """

    studies: Path

    def image(self, image_id: str, suffix: str) -> Path:
        """An image's file."""
        return self.studies / f"{checked_identifier(image_id, 'image id')}{suffix}"

    @property
    def labels(self) -> Path:
        """The folder with one folder per tag."""
        return self.studies / "labels"

    def tag(self, tag: str) -> Path:
        """The folder of a tag's newest labels."""
        return self.labels / checked_tag(tag)

    def shown(self, image_id: str, tag: str, suffix: str = STORED) -> Path:
        """Where the newest label of a tag can be read."""
        return self.tag(tag) / f"{checked_identifier(image_id, 'image id')}{suffix}"

    def shown_files(self, image_id: str, tag: str, suffix: str = STORED) -> list[Path]:
        """The files in a tag's folder that other tools would take for this image's label, in any format.

        Args:
            image_id: of the image.
            tag: of the label.
            suffix: one more to look for, such as `.NII.GZ` where it was found in capitals.
        """
        folder = self.tag(tag)
        found = (folder / f"{image_id}{one}" for one in dict.fromkeys((*LABEL_SUFFIXES, suffix)))
        return [path for path in found if path.is_file() and stem_of(path) == image_id]

    def refused(self, image_id: str) -> Path:
        """The folder of an image's refused labels."""
        return self.labels / REFUSED / checked_identifier(image_id, "image id")

    @property
    def ledger(self) -> Path:
        """The folder of everything that only LiverLoop reads."""
        return self.studies / "ledger"

    @property
    def database(self) -> Path:
        """The SQLite file, where no other database is named."""
        return self.ledger / "ledger.sqlite"

    @property
    def versions(self) -> Path:
        """The folder that `versions.file` in the ledger is relative to."""
        return self.ledger / "versions"

    @property
    def presegmentations(self) -> Path:
        """The folder that `presegmentations.file` in the ledger is relative to."""
        return self.ledger / "presegmentations"

    @property
    def series(self) -> Path:
        """The folder of headers and locks of the series of a PACS; only a PACS's working folder has it."""
        return self.ledger / "series"

    @property
    def pacs(self) -> Path:
        """The file that tells which PACS this is the working folder of."""
        return self.ledger / "pacs"

    def in_use(self) -> bool:
        """Whether some ledger has kept versions in this folder."""
        return (self.ledger / "id").exists() and self.versions.is_dir() and any(self.versions.iterdir())

    def studies_id(self) -> str:
        """The folder's own id, made at the first call; a ledger that belongs to another folder is refused by it.

        Raises:
            StorageError: it can't be written.
        """
        path = self.ledger / "id"
        if not path.exists():
            mine = path.with_name(f".writing-{uuid.uuid4()}")
            with atomic_write(mine) as temporary:
                temporary.write_text(f"{uuid.uuid4()}\n", encoding="ascii")
            try:
                os.link(mine, path)
            except FileExistsError:  # another server that starts now was first
                pass
            except OSError:  # a file system without hard links
                if not path.exists():
                    mine.replace(path)
            mine.unlink(missing_ok=True)
        return path.read_text(encoding="ascii").strip()


def checked_tag(tag: str) -> str:
    """A label tag that is safe as a folder's name.

    Raises:
        BadInputError: unfit as a name, or the folder of refused labels.
    """
    checked_identifier(tag, "label tag")
    if tag == REFUSED:
        msg = f"label tag {REFUSED!r} is the folder of refused labels; choose another tag"
        raise BadInputError(msg)
    return tag
