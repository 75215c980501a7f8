"""Where the files of images come from: what the store needs to know of that, and the studies folder as one answer."""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from lib.store import images, inspection
from lib.store.adoption import adopt
from lib.store.layout import Layout
from lib.store.ledger import Ledger
from lib.store.scan import Changes, scan
from lib.volume import Grid
from lib.volume_io import read_grid

_JOIN_S = 10.0

Progress = Callable[[int], object]


class ImageFiles(Protocol):
    """The files of the images that the ledger knows, wherever they come from.

    Every method with an image id raises `NotFoundError` where no image has it, and `StorageError` where disk or ledger
    refused; `UnavailableError`, one of those, where the same may succeed later.
    """

    in_folder: bool  # whether a file that lies in the studies folder is an image, and one that doesn't is gone

    def path(self, image_id: str) -> Path:
        """An image's file, fetched if need be.

        Raises:
            BadInputError: what was fetched is no CT.
        """

    def paths(self, found: Sequence[tuple[str, str]]) -> Mapping[str, Path]:
        """The files of many images, for a training; those that can't be had are left out and logged.

        Args:
            found: image ids and suffixes.
        """

    def grid(self, image_id: str) -> Grid:
        """Where the voxels of an image lie.

        Raises:
            BadInputError: its header can't be read, or what was fetched is no CT.
        """

    def ensure_fit(self, image_id: str) -> str | None:
        """Make sure that an image can be handed out; why it can't, None if it can."""

    def is_at_hand(self, image_id: str) -> bool:
        """Whether an image's file is here, so that nothing must be fetched."""

    def can_be_asked(self) -> bool:
        """Whether what the files come from answers now, so that a failure is of one image alone."""

    def note_if_unreadable(self, image_id: str) -> str | None:
        """Decode an image that work failed on, see `lib.store.inspection.note_if_unreadable`."""

    def look(self, progress: Progress | None = None) -> Changes:
        """Bring the ledger in line with the folder; labels are noticed, not yet read.

        Args:
            progress: called with the number of files looked at so far.
        """

    def watch(self) -> None:
        """Begin what goes on in the background."""

    def stop(self) -> None:
        """End it."""


class FolderImages:
    """Images that lie at the top of the studies folder.

    Args:
        ledger: what is known.
        layout: where files lie.
    """

    in_folder = True

    def __init__(self, ledger: Ledger, layout: Layout) -> None:
        self._ledger = ledger
        self._layout = layout
        self._stop = threading.Event()
        self._inspector: threading.Thread | None = None

    def path(self, image_id: str) -> Path:
        """The image's file; a link is not followed, as its name is the image's.

        Raises:
            NotFoundError: no image has this id.
        """
        with self._ledger.reading() as connection:
            image = images.get(connection, image_id)
        return self._layout.image(image_id, image.file.suffix)

    def paths(self, found: Sequence[tuple[str, str]]) -> Mapping[str, Path]:
        """The files of these images and suffixes."""
        return {image_id: self._layout.image(image_id, suffix) for image_id, suffix in found}

    def grid(self, image_id: str) -> Grid:
        """Where the voxels of an image lie, by its header.

        Raises:
            NotFoundError: no image has this id.
            BadInputError: its header can't be read.
        """
        with self._ledger.reading() as connection:
            image = images.get(connection, image_id)
        path = self._layout.image(image_id, image.file.suffix)
        if image.grid is None or not image.file.is_of(path):  # replaced a moment ago, and not noticed yet
            return read_grid(path)
        return image.grid

    def ensure_fit(self, image_id: str) -> str | None:
        """See `lib.store.inspection.ensure_fit`."""
        return inspection.ensure_fit(self._ledger, self._layout, image_id)

    def is_at_hand(self, image_id: str) -> bool:
        """Always: an image is a file of the folder."""
        return True

    def can_be_asked(self) -> bool:
        """Never: a folder that can't be read fails for every image."""
        return False

    def note_if_unreadable(self, image_id: str) -> str | None:
        """See `lib.store.inspection.note_if_unreadable`."""
        return inspection.note_if_unreadable(self._ledger, self._layout, image_id)

    def look(self, progress: Progress | None = None) -> Changes:
        """Look through the folder, and adopt what MONAI Label's own store has noted about it."""
        changes = scan(self._ledger, self._layout, progress=progress)
        adopt(self._ledger, self._layout)
        return changes

    def watch(self) -> None:
        """Inspect every image that nobody has inspected yet, in a thread of its own."""
        self._inspector = threading.Thread(
            target=inspection.inspect_all,
            args=(self._ledger, self._layout, self._stop),
            name="inspect-images",
            daemon=True,
        )
        self._inspector.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._inspector is not None:
            self._inspector.join(_JOIN_S)
