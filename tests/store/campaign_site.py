"""A small campaign of two annotators, saved for real."""

import numpy as np

from lib.settings import Settings
from lib.store import leases
from lib.store.store import Store
from lib.volume import Volume
from lib.volume_io import write_label
from tests.store.filled import AFFINE, SHAPE, add_image, exclude, open_store


def label_file(path, liver, tumor=0, looked_at=None):
    """A label with so many voxels of each, in the file's order; of slices that were not looked at it says so."""
    array = np.zeros(SHAPE, np.uint8)
    array.ravel()[:liver] = 1
    array.ravel()[:tumor] = 2
    if looked_at is not None:
        array[..., [z not in looked_at for z in range(SHAPE[2])]] = 255
    write_label(path, Volume(array, AFFINE), Settings().labels)
    return path


def run_campaign(studies, scratch, url="") -> Store:
    """Images a to f: a and b are corrected by ann, a and c labelled by bob as well or from nothing, f is left out.

    What ann changes: all of a's tumor, a fifth of b's liver. She saves b twice.
    """
    for seed, name in enumerate("abcdef"):
        add_image(studies, name, seed)
    store = open_store(studies, url)

    def save(image_id, author, *voxels, **more):
        path = label_file(scratch / "label.nii.gz", *voxels, **more)
        store.labels.save(image_id, path, "final", author=author)

    for image_id, model in (("a", "v1"), ("b", "v2")):
        with store.ledger.writing() as connection:
            leases.acquire(connection, image_id, "ann", strategy="first", reason="", score=None, seconds=3600.0)
        store.labels.keep_presegmentation(image_id, "ann", model, label_file(scratch / "before.nii.gz", 40))
        if image_id == "a":
            save("a", "ann", 40, 20)
        else:
            save("b", "ann", 10)
            save("b", "ann", 60)
    save("a", "bob", 40, 10)
    save("c", "bob", 30)
    store.labels.save("d", label_file(scratch / "made.nii.gz", 5), "original", {"model": "m"}, author="m")
    store.labels.restore("c", "final", 1, author="eve")
    exclude(store, "f")
    return store
