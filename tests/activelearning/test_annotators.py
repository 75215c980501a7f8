import logging

import pytest

from lib.activelearning.annotators import agreements, pairs
from lib.store import campaign
from lib.store.campaign import SavedLabel
from tests.store.campaign_site import label_file
from tests.store.filled import add_image, open_store


def saved(image, author, number):
    return SavedLabel(image, number, author, 0.0, None, None, None)


def test_the_last_labels_of_every_two_annotators_make_a_pair():
    labels = [
        saved("b", "ann", 1), saved("a", "bob", 1), saved("a", "ann", 2), saved("a", "bob", 3), saved("a", "cid", 4),
        saved("c", "ann", 1), saved("c", "ann", 2),
    ]  # fmt: skip
    assert [(first.author, first.number, second.author) for first, second in pairs(labels)] == [
        ("ann", 2, "bob"), ("ann", 2, "cid"), ("bob", 3, "cid"),
    ]  # fmt: skip


def test_agreement_of_saved_labels(tmp_path, caplog):
    add_image(tmp_path / "studies", "a", 1)
    store = open_store(tmp_path / "studies")

    def save(author, **how):
        store.labels.save("a", label_file(tmp_path / "label.nii.gz", 40, **how), "final", author=author)

    def found(progress=None):
        with store.ledger.reading() as connection:
            labels = campaign.saved_labels(connection)
        return agreements(pairs(labels), lambda name, *two: store.labels.diff(name, "final", *two), progress)

    done = []
    save("ann", tumor=20)
    save("bob", tumor=10, looked_at=[0, 1])
    # In the two slices that both have looked at, ann has 10 voxels of liver and 10 of tumor, bob 14 and 6.
    (one,) = found(done.append)
    assert (one.image_id, one.authors, done) == ("a", ("ann", "bob"), [1])
    assert one.dice == {"liver": pytest.approx(20 / 24), "tumor": pytest.approx(12 / 16)}
    save("ann", tumor=20, looked_at=[2, 3])
    with caplog.at_level(logging.WARNING):
        assert found() == []
    assert "the labels of a by bob and ann: no slice was looked at in both labels" in caplog.text
    store.close()
