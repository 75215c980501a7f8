import json
import threading

import pytest
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException

from lib.store.table import TableDatastore
from lib.volume_io import IMAGE_SUFFIXES

NAMES = [f"case_{number:02d}" for number in range(30)]


def put(folder, name):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"voxels")


def opened(folder):
    return TableDatastore(str(folder), extensions=[f"*{suffix}" for suffix in IMAGE_SUFFIXES], auto_reload=False)


@pytest.fixture
def studies(tmp_path):
    for name in NAMES:
        put(tmp_path, f"{name}.nii.gz")
    return tmp_path


def test_readers_never_see_half_a_change(studies):
    store = opened(studies)
    errors, end = [], threading.Event()

    def read():
        while not end.is_set():
            try:
                assert len(store.list_images()) == len(NAMES)
                assert store.json()["objects"].keys() == set(NAMES)
                assert all(store.get_image_info(name)["name"] for name in NAMES)
                assert store.get_labeled_images() is not store.get_unlabeled_images()
            except Exception as error:
                errors.append(error)

    def write():
        for number in range(100):
            store.update_image_info(NAMES[number % 30], {f"note {number}": number})

    def look():
        for number in range(100):
            path = studies / "labels" / "final" / f"{NAMES[number % 7]}.nii.gz"
            path.unlink() if path.exists() else path.write_bytes(b"label")
            store.refresh()

    readers, writers = ([threading.Thread(target=work) for work in works] for works in ((read, read), (write, look)))
    for thread in (*readers, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    end.set()
    for thread in readers:
        thread.join()
    assert errors == []
    assert sum(len(store.get_image_info(name)) - 3 for name in NAMES) == 100  # beside ts, name and path


def test_two_processes_lose_nothing_of_each_other(studies):
    server, batch = opened(studies), opened(studies)
    for number, name in enumerate(NAMES):
        server.update_image_info(name, {"served": number})
        batch.update_image_info(name, {"score": number})
    for store in (batch, opened(studies)):
        for number, name in enumerate(NAMES):
            info = store.get_image_info(name)
            assert (info["served"], info["score"]) == (number, number)


def test_what_is_known_stays_while_the_file_does(studies):
    store = opened(studies)
    put(studies / "labels" / "final", "case_00.nrrd")
    store.refresh()
    store.update_label_info("case_00", "final", {"by": "annotator"})
    put(studies / "labels" / "final", "case_00.nii.gz")
    store.refresh()
    assert store.get_label_info("case_00", "final")["by"] == "annotator"
    assert store.get_label_uri("case_00", "final").endswith("case_00.nrrd")
    (studies / "labels" / "final" / "case_00.nrrd").unlink()
    store.refresh()
    assert "by" not in store.get_label_info("case_00", "final")
    assert store.get_label_uri("case_00", "final").endswith("case_00.nii.gz")
    (studies / "case_00.nii.gz").unlink()
    store.refresh()
    assert "case_00" not in store.list_images()


def test_nothing_is_written_when_nothing_changed(studies):
    store = opened(studies)
    before = (studies / "datastore_v2.json").stat().st_mtime_ns
    store.refresh()
    store.update_image_info("case_00", {})
    assert (studies / "datastore_v2.json").stat().st_mtime_ns == before


def test_the_watching_thread_survives_a_damaged_table(studies, caplog):
    store = opened(studies)
    (studies / "datastore_v2.json").write_text('{"objects": ')
    store._on_any_event(None)
    assert "datastore_v2.json is damaged; move it away" in caplog.text
    assert len(store.list_images()) == len(NAMES)


def test_notes_need_an_image_or_label(studies):
    store = opened(studies)
    with pytest.raises(ImageNotFoundException):
        store.update_image_info("nobody", {})
    with pytest.raises(LabelNotFoundException):
        store.update_label_info("case_00", "final", {})


def test_the_table_is_monai_labels_own(studies):
    opened(studies)
    table = json.loads((studies / "datastore_v2.json").read_text())
    assert table["objects"]["case_00"]["image"]["ext"] == ".nii.gz"
