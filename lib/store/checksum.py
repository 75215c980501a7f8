"""A checksum by which a client tells whether the image that it has under a name is the one that is meant."""

from pathlib import Path

from lib.files import remembered_sha256
from lib.store.images import FileState


def checksum_of(path: Path, suffix: str) -> str | None:
    """`SHA256:` and the digest of an image's file; None where it is gone or being written.

    3D Slicer keeps what it downloaded by its name and shows that again, also when the server's image has changed or
    another server has one of the same name; unless it is told a checksum.

    Args:
        path: the file.
        suffix: its image suffix.
    """
    try:
        state = FileState.of(path, suffix)
        digest = remembered_sha256(path)  # whoever is given an image opens it next, so it is read in any case
        return f"SHA256:{digest}" if state.is_of(path) else None
    except OSError:
        return None
