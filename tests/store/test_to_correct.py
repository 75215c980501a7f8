import numpy as np
import pytest

from lib.labels import NOT_LOOKED_AT
from lib.settings import Settings
from lib.store import leases, versions
from lib.store.store import Store
from lib.store.to_correct import name_those_in_review
from lib.volume import Volume
from lib.volume_io import write_image, write_label

LABEL = Volume(np.tile(np.uint8([0, 1, 2, 1]), (4, 4, 1)), np.eye(4))


@pytest.fixture
def store(tmp_path):
    """The images a and b, of which a has a final label and b one of some slices."""
    partial = Volume(LABEL.array.copy(), LABEL.affine)
    partial.array[:, :, 0] = NOT_LOOKED_AT
    rng = np.random.default_rng(0)
    for name, label in {"a": LABEL, "b": partial}.items():
        hu = rng.integers(-900, 900, LABEL.shape).astype(
            np.int16
        )  # a file of zeros is so small that it looks truncated
        write_image(tmp_path / "studies" / f"{name}.nii.gz", Volume(hu, LABEL.affine))
        write_label(tmp_path / "studies" / "labels" / "final" / f"{name}.nii.gz", label)
    store = Store(tmp_path / "studies", Settings())
    store.rescan()
    yield store
    store.close()


def original(store, image_id):
    """What is listed of the image's label `original`."""
    with store.ledger.reading() as connection:
        objects = versions.described(connection, ["a", "b"])
        name_those_in_review(connection, objects, store.settings.label_indices())
    return objects[image_id]["labels"].get("original")


def give(store, image_id, strategy):
    with store.ledger.writing() as connection:
        leases.free(connection, image_id, actor="eve", why="test")
        leases.acquire(connection, image_id, "eve", strategy=strategy, reason="", score=None, seconds=60)


def test_only_a_label_in_review_is_listed_as_the_one_to_correct(store):
    assert original(store, "a") is None
    give(store, "a", "random")
    assert original(store, "a") is None
    give(store, "a", "review")
    listed = original(store, "a")
    assert listed["ext"] == ".nii.gz"
    assert list(listed["info"]["params"]["label_names"].items()) == [("liver", 1), ("tumor", 2)]
    assert listed["info"]["label_info"] == [{"name": "liver", "idx": 1}, {"name": "tumor", "idx": 2}]
    assert original(store, "b") is None


def test_what_nobody_looked_at_is_the_value_after_the_classes(store):
    give(store, "b", "review")
    names = original(store, "b")["info"]["params"]["label_names"]
    assert list(names.items()) == [("liver", 1), ("tumor", 2), ("not looked at", 3)]
