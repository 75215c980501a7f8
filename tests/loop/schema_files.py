"""Files of real kinds, whole and damaged, small enough to be segmented at once."""

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from lib.phantom import Phantom
from lib.volume_io import write_image, write_label
from tests.loop.studies import write_series

_DETACHED = b"NRRD0004\ntype: short\ndimension: 3\nsizes: 9 9 9\ndata file: /etc/passwd\n\n"


def tiny_files(folder: Path, made: Phantom, label_of: Phantom) -> list[bytes]:
    """Three files of an image, two of another's label, a slice, archives, and what is damaged or no such thing."""
    folder.mkdir()
    for name in ("image.nii.gz", "image.nii", "image.nrrd"):
        write_image(folder / name, made.image)
    for name in ("label.nii.gz", "label.nrrd"):
        write_label(folder / name, label_of.label)
    zipped, plain, nrrd, label, label_nrrd = (
        (folder / name).read_bytes()
        for name in ("image.nii.gz", "image.nii", "image.nrrd", "label.nii.gz", "label.nrrd")
    )
    slices = {path.name: path.read_bytes() for path in write_series(folder / "series", made.image)}
    return [
        *(zipped, plain, nrrd, label, label_nrrd, next(iter(slices.values()))),
        *(_zip(slices), _tar(slices), _zip({"../../escaped.nii": plain}), _tar({"../../escaped.nii": plain})),
        *(zipped[: len(zipped) // 2], plain[:400], b"", b"\x1f\x8b", b"import os", _DETACHED),
        *(_flipped(plain, 40), _flipped(plain, 70), _flipped(zipped, len(zipped) // 2), _flipped(label, 30)),
    ]


def _flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


def _zip(files: Mapping[str, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return target.getvalue()


def _tar(files: Mapping[str, bytes]) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return target.getvalue()
