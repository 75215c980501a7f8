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


def phase(side, name, studies, repeat=3):
    return run_phase(side, name, studies, studies.parent / "label.nii.gz", repeat)


@pytest.mark.parametrize("side", ["ours", "stock"])
def test_both_sides_do_the_same(side, studies):
    ((wall, cpu),) = phase(side, "start", studies)["start"]
    assert 0 < cpu <= wall * 1.5
    measured = phase(side, "use", studies)
    assert json.loads(json.dumps(measured)).keys() == measured.keys()
    for name in DONE:
        assert len(measured[name]) == 3
        assert all(wall > 0 for wall, _ in measured[name])
    assert len(measured["rescan"]) == 1
    assert measured["memory_mb"]["peak"] >= measured["memory_mb"]["imported"] > 0
    assert len(list((studies / "labels" / "final").glob("*.nii.gz"))) == 3
    assert sorted(path.name for path in studies.parent.iterdir()) == ["label.nii.gz", "studies"]


def test_ours_answers_during_a_rescan(studies):
    asked = phase("ours", "use", studies)["next_sample_during_rescan"]
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
