"""A disk of our own that can be filled and made read-only; only an administrator can mount one."""

import errno
import os
import subprocess
from pathlib import Path

import pytest


class SmallDisk:
    """A file system in memory, mounted at a folder while the context lasts.

    Args:
        folder: where; made if missing.
        mebibytes: its size.
    """

    def __init__(self, folder: Path, mebibytes: int) -> None:
        self.folder = folder
        self._size = mebibytes
        self._filling = folder / "filling"

    def __enter__(self) -> "SmallDisk":
        self.folder.mkdir(parents=True, exist_ok=True)
        if os.geteuid() != 0:
            pytest.skip("only root can mount the small disk that this needs")
        options = f"size={self._size}m,mode=755"
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.folder], capture_output=True, text=True
        )
        if made.returncode:
            pytest.skip(f"this machine does not let root mount the small disk that this needs: {made.stderr.strip()}")
        return self

    def __exit__(self, *_: object) -> None:
        # Lazily: a process that ends at this moment may still have files open.
        subprocess.run(["umount", "--lazy", self.folder], check=True)

    def fill(self, leave: int = 0) -> None:
        """Use up its room but for the last `leave` bytes."""
        self.make_room()
        with self._filling.open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
            file.truncate(max(0, file.tell() - leave))

    def make_room(self) -> None:
        """Undo `fill`."""
        self._filling.unlink(missing_ok=True)

    def protect(self) -> None:
        """Make it read-only; refused by the system while a file on it is open for writing."""
        self._remount("ro")

    def unprotect(self) -> None:
        """Undo `protect`."""
        self._remount("rw")

    def _remount(self, how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", self.folder], check=True, capture_output=True)
