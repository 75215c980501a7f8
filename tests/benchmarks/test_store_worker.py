import json

import pytest

from lib.benchmarks.store_worker import MOST_ASKED, run_phase
from lib.benchmarks.tiny_images import forget, label, make_images
from lib.settings import Settings
from lib.store import leases
from lib.store.folder import FolderDatastore
from lib.volume_io import write_label

DONE = {"next_sample", "file_copy", "save_label", "status", "disk"}


@pytest.fixture
def studies(tmp_path):
    make_images(tmp_path / "studies", 150, lambda _: None)
    write_label(tmp_path / "label.nii.gz", label())
    return tmp_path / "studies"


def phase(side, name, *folders, repeat=3):
    return run_phase(side, name, folders[0].parent / "label.nii.gz", repeat, folders)


@pytest.mark.parametrize("side", ["ours", "stock"])
def test_both_sides_do_the_same(side, studies):
    ((wall, cpu),) = phase(side, "start", studies)["studies"]["start"]
    assert wall > 0
    assert cpu > 0
    look = phase(side, "look", studies)["studies"]
    assert len(look["rescan"]) == 1
    assert look["memory_mb"]["peak"] >= look["memory_mb"]["imported"] > 0
    use = phase(side, "use", studies)["studies"]
    assert use.keys() == DONE
    for taken in use.values():
        assert len(taken) == 3
        assert all(wall > 0 for wall, _ in taken)
    assert json.loads(json.dumps(look)).keys() == look.keys()
    assert len(list((studies / "labels" / "final").glob("*.nii.gz"))) == 4
    assert sorted(path.name for path in studies.parent.iterdir()) == ["label.nii.gz", "studies"]


def test_several_folders_in_turn(studies):
    make_images(studies.parent / "more", 20, lambda _: None)
    measured = phase("ours", "use", studies, studies.parent / "more", repeat=2)
    assert {name: len(operations["save_label"]) for name, operations in measured.items()} == {"studies": 2, "more": 2}


def test_ours_answers_during_a_rescan(studies):
    asked = phase("ours", "look", studies)["studies"]["next_sample_during_rescan"]
    assert 1 <= len(asked) <= MOST_ASKED
    datastore = FolderDatastore(str(studies), Settings())
    with datastore.store.ledger.reading() as connection:
        assert leases.list_all(connection) == []
    datastore.store.close()


def test_what_was_saved_are_versions(studies):
    phase("ours", "use", studies)
    datastore = FolderDatastore(str(studies), Settings())
    assert datastore.status()["completed"] == 3
    (first, *_) = datastore.get_labeled_images()
    (version,) = datastore.store.labels.history(first)
    datastore.store.close()
    assert version.author.startswith("annotator ")
    assert version.voxels["liver"] > 0
    assert version.seconds_since_lease is not None


def test_a_folder_that_was_forgotten_is_new_to_both(studies):
    for side in ("ours", "stock"):
        forget(studies)
        phase(side, "start", studies)
        assert (studies / "ledger").exists() == (side == "ours")
        assert (studies / "datastore_v2.json").exists() == (side == "stock")
