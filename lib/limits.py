"""How large a file may be that somebody sends, and what it may become."""

from dataclasses import dataclass

MEGABYTE = 1_000_000
MOST_VOXELS = 1_200_000_000
MOST_DEFLATED = 1040  # bytes that one byte of a gzip may become; the format itself allows no more than 1032


@dataclass(frozen=True)
class Limits:
    """What is checked by headers, or while unpacking, before memory or disk is used.

    Args:
        voxels: of one volume, all its layers together.
        unpacked_bytes: of the voxels of one volume as the file stores them, and of all files of one archive together.
        archive_files: in one archive.
    """

    voxels: int = MOST_VOXELS
    unpacked_bytes: int = 8192 * MEGABYTE
    archive_files: int = 20_000


DEFAULT_LIMITS = Limits()
