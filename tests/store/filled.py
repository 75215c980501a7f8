"""A studies folder with something of everything that a ledger holds."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lib.errors import BadInputError
from lib.settings import Settings
from lib.store import images, leases
from lib.store.store import Store
from lib.volume import Volume
from lib.volume_io import write_image, write_label

SHAPE = (6, 5, 4)
AFFINE = np.diag([-0.7, -0.8, 2.5, 1.0])


def add_image(studies: Path, image_id: str, seed: int, suffix: str = ".nii.gz") -> Path:
    """Write a CT of noise."""
    hu = np.random.default_rng(seed).integers(-900, 900, SHAPE).astype(np.int16)
    path = studies / f"{image_id}{suffix}"
    write_image(path, Volume(hu, AFFINE))
    return path


def label_file(path: Path, seed: int) -> Path:
    """Write a label of noise."""
    array = np.random.default_rng(seed).integers(0, 3, SHAPE).astype(np.uint8)
    write_label(path, Volume(array, AFFINE), Settings().labels)
    return path


def open_store(studies: Path, url: str = "") -> Store:
    """The store of a folder."""
    return Store(studies, Settings(ledger=url))


def fill(store: Store, scratch: Path, labelled: Sequence[str], open_ones: Sequence[str]) -> None:
    """Give images labels, or a lease and a pre-segmentation.

    Args:
        store: with these images in its folder.
        scratch: a folder for files as clients send them.
        labelled: images that get two versions of the final label, one of them sent as NRRD, and a label by a model.
        open_ones: images that get a lease, a pre-segmentation and a refused label.
    """
    for number, image_id in enumerate(labelled):
        store.labels.save(
            image_id, label_file(scratch / "o.nii.gz", 100 + number), "original", {"model": "m"}, author="m"
        )
        store.labels.save(image_id, label_file(scratch / "a.nii.gz", 200 + number), "final", {"n": 1}, author="ann")
        store.labels.save(image_id, label_file(scratch / "b.nrrd", 300 + number), "final", {"n": 2}, author="bob")
    for number, image_id in enumerate(open_ones):
        store.labels.keep_presegmentation(image_id, "ann", "v1", label_file(scratch / "p.nii.gz", 400 + number))
        with store.ledger.writing() as connection:
            leases.acquire(connection, image_id, "ann", strategy="first", reason="by name", score=None, seconds=3600.0)
        broken = scratch / "broken.nii.gz"
        broken.write_bytes(b"no label")
        try:
            store.labels.save(image_id, broken, "final", author="ann")
        except BadInputError:
            continue
        raise AssertionError


def exclude(store: Store, image_id: str) -> None:
    """Leave an image out."""
    with store.ledger.writing() as connection:
        images.exclude(connection, image_id, "blurred", "eve")


def age(path: Path, hours: float = 2.0) -> Path:
    """Let a file be older than it is."""
    then = time.time() - hours * 3600
    os.utime(path, (then, then))
    return path
