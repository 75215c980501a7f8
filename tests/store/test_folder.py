"""The studies folder: what goes in comes out, and nothing is half-written, lost or mixed up."""

import os
import shutil
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from monailabel.datastore.local import LocalDatastore

from lib import files
from lib.datasets.lits import link_or_copy
from lib.errors import BadInputError, NotFoundError, StorageError
from lib.settings import Settings
from lib.store import events, folder
from lib.store.folder import FolderDatastore
from lib.store.label_store import LabelStore
from lib.volume import Volume
from lib.volume_io import read_image, read_label, write_image, write_label

SHAPE = (8, 7, 6)
AFFINE = np.diag([-0.7, -0.8, 2.5, 1.0])
NAMES = [{"name": "liver", "idx": 1}, {"name": "tumor", "idx": 2}]


def hounsfield(seed=0):
    return np.random.default_rng(seed).integers(-900, 900, SHAPE).astype(np.int16)


def classes(seed=1):
    return np.random.default_rng(seed).integers(0, 3, SHAPE).astype(np.uint8)


def put_image(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, Volume(hounsfield(seed), AFFINE))
    return path


def put_label(path, array=None, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_label(path, Volume(classes() if array is None else array, affine), Settings().labels)
    return path


def names(folder):
    return sorted(entry.name for entry in folder.iterdir() if entry.is_file())


def stored_label(store, image_id, tag="final"):
    return read_label(store.get_label_uri(image_id, tag)).array


@pytest.fixture
def studies(tmp_path):
    return tmp_path / "studies"


@pytest.fixture
def opened(studies):
    """Open the folder, look through it, and take in the labels that lie there, as a running server does."""
    opened_stores = []

    def open_and_look(settings=None):
        datastore = FolderDatastore(str(studies), settings or Settings())
        opened_stores.append(datastore)
        datastore.refresh()
        return datastore

    studies.mkdir(exist_ok=True)
    yield open_and_look
    for datastore in opened_stores:
        datastore.store.close()


@pytest.fixture
def sent(tmp_path):
    """Where MONAI Label puts what a client sends."""
    folder = tmp_path / "sent"
    folder.mkdir()
    return folder


# What is found


def test_images_and_labels_of_the_folder_are_found(studies, opened):
    for name in ("a.nii.gz", "b.nii", "c.nrrd", "d.1.2.nii.gz", "Case 5 (x).nii.gz", "SIX.NII.GZ", "Sieben.NrrD"):
        put_image(studies / name)
    for name in ("a.nii.gz", "b.seg.nrrd", "c.nrrd", "d.1.2.nii", "orphan.nii.gz"):
        put_label(studies / "labels" / "final" / name)
    store = opened()
    assert sorted(store.list_images()) == ["Case 5 (x)", "SIX", "Sieben", "a", "b", "c", "d.1.2"]
    assert sorted(store.get_labeled_images()) == ["a", "b", "c", "d.1.2"]
    assert sorted(store.get_unlabeled_images()) == ["Case 5 (x)", "SIX", "Sieben"]
    for image_id in store.list_images():
        np.testing.assert_array_equal(read_image(store.image_path(image_id)).array, hounsfield())
    for image_id in store.get_labeled_images():
        np.testing.assert_array_equal(stored_label(store, image_id), classes())


def test_what_is_not_an_image_is_not_offered(studies, opened):
    put_image(studies / "a.nii.gz")
    put_label(studies / "b.seg.nrrd")
    (studies / "._a.nii.gz").write_bytes(b"macOS")
    (studies / ".writing-1-c.nii.gz").write_bytes(b"half")
    (studies / "volume.nii").mkdir()
    (studies / "gone.nii.gz").symlink_to(studies / "nowhere.nii.gz")
    (studies / "picture.png").write_bytes(b"")
    put_label(studies / "labels" / "final" / "a.nii.gz")
    (studies / "labels" / "final" / "._a.nii.gz").write_bytes(b"macOS")
    store = opened()
    assert store.list_images() == ["a"]
    assert list(store.get_labels_by_image_id("a")) == ["final"]


def test_of_two_files_with_one_name_one_counts_always_the_same(studies, opened):
    put_image(studies / "a.nii.gz", seed=1)
    put_image(studies / "a.nrrd", seed=2)
    store = opened()
    for _ in range(2):
        np.testing.assert_array_equal(read_image(store.image_path("a")).array, hounsfield(1))
        store.refresh()


def test_linked_images_work_and_survive_their_removal(tmp_path, studies, opened):
    original = put_image(tmp_path / "lits" / "batch 1" / "volume-0.nii")
    studies.mkdir(exist_ok=True)
    link_or_copy(original, studies / "lits_0.nii")
    store = opened()
    assert store.list_images() == ["lits_0"]
    assert store.image_path("lits_0").name == "lits_0.nii"  # training splits cases by this name
    store.save_label("lits_0", str(put_label(tmp_path / "sent.nii.gz")), "final", {})
    entry = store.datalist()[0]
    assert os.path.basename(entry["image"]) == "lits_0.nii"
    np.testing.assert_array_equal(read_image(entry["image"]).array, hounsfield())
    store.remove_image("lits_0")
    assert store.list_images() == []
    assert original.exists()
    assert names(studies) == []


# Images


@pytest.mark.parametrize("image_id", ["case_1", "case.1.2", "Case 1 (a)", "Müller", "x" * 230])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd"])
def test_an_image_is_added(studies, opened, sent, image_id, suffix):
    store = opened()
    path = put_image(sent / f"tmp1{suffix}")
    assert store.add_image(image_id, str(path), {"user": "me"}) == image_id
    assert store.list_images() == [image_id]
    assert store.image_path(image_id).read_bytes() == path.read_bytes()
    info = store.get_image_info(image_id)
    assert (info["user"], info["name"], info["path"]) == (
        "me",
        f"{image_id}{suffix}",
        str(studies / f"{image_id}{suffix}"),
    )
    assert opened().list_images() == [image_id]
    with store.store.ledger.reading() as connection:
        assert [(event.actor, event.detail) for event in events.history(connection, image_id, kind="image added")] == [
            ("me", {})
        ]


def test_an_id_may_be_given_as_a_file_name_or_left_out(opened, sent):
    store = opened()
    assert store.add_image("case.1.nii.gz", str(put_image(sent / "x.nii.gz")), {}) == "case.1"
    assert store.add_image("", str(put_image(sent / "y.1.nii.gz", 3)), {}) == "y.1"


def test_the_same_image_again_changes_nothing(opened, sent):
    store = opened()
    store.add_image("a", str(put_image(sent / "x.nii.gz")), {})
    store.save_label("a", str(put_label(sent / "label.nii.gz")), "final", {})
    assert store.add_image("a", str(sent / "x.nii.gz"), {}) == "a"
    assert store.get_labeled_images() == ["a"]


def test_of_two_images_sent_at_once_under_one_id_one_is_refused(studies, opened, sent, monkeypatch):
    store, meet, told = opened(), threading.Barrier(2), []
    paths = [put_image(sent / f"{number}.nii.gz", number) for number in (1, 2)]
    hashed = folder.file_sha256

    def together(path):  # both are read before either is kept
        found = hashed(path)
        if Path(path) in paths and threading.current_thread() is not threading.main_thread():
            with suppress(threading.BrokenBarrierError):
                meet.wait(5)
        return found

    monkeypatch.setattr(folder, "file_sha256", together)

    def add(path):
        try:
            told.append(store.add_image("a", str(path), {}))
        except BadInputError as error:
            told.append(str(error))

    threads = [threading.Thread(target=add, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told) == ["a", "there is already another image 'a'; upload this one under a different id"]


def test_another_image_under_the_same_id_is_refused(studies, opened, sent):
    store = opened()
    store.add_image("a", str(put_image(sent / "x.nii.gz")), {})
    put_image(studies / "by_hand.nrrd")
    for image_id in ("a", "by_hand"):
        with pytest.raises(BadInputError) as caught:
            store.add_image(image_id, str(put_image(sent / "y.nii.gz", seed=2)), {})
        assert str(caught.value) == (
            f"there is already another image {image_id!r}; upload this one under a different id"
        )
    np.testing.assert_array_equal(read_image(store.image_path("a")).array, hounsfield())


def test_images_that_cannot_be_used_are_refused_by_the_name_the_sender_knows(studies, opened, sent):
    store = opened()
    (sent / "tmp7.nii.gz").write_bytes(put_image(sent / "x.nii.gz").read_bytes()[:200])
    (sent / "tmp7.png").write_bytes(b"x")
    for name, start in (
        ("tmp7.nii.gz", "image 'a': not a readable .nii.gz file"),
        ("tmp7.png", "image 'a': unknown kind"),
    ):
        with pytest.raises(BadInputError) as caught:
            store.add_image("a", str(sent / name), {})
        assert str(caught.value).startswith(start)
        assert "tmp7" not in str(caught.value)
    with pytest.raises(BadInputError, match=r"^image id '\.\./a' is not allowed"):
        store.add_image("../a", str(sent / "x.nii.gz"), {})
    assert store.list_images() == []
    assert names(studies) == []


def test_a_removed_image_takes_its_labels_along(studies, opened, sent):
    store = opened()
    for seed, image_id in enumerate(("a", "b")):
        store.add_image(image_id, str(put_image(sent / f"{image_id}.nii.gz", seed)), {})
        for tag in ("final", "original"):
            store.save_label(image_id, str(put_label(sent / "label.nii.gz")), tag, {})
    store.remove_image("a")
    assert store.list_images() == ["b"]
    assert names(studies) == ["b.nii.gz"]
    assert names(studies / "labels" / "final") == names(studies / "labels" / "original") == ["b.nii.gz"]
    assert opened().list_images() == ["b"]


def test_what_is_not_there_is_named(opened):
    store = opened()
    for act in (store.image_path, store.remove_image, lambda name: store.save_label(name, "x.nii", "final", {})):
        with pytest.raises(NotFoundError) as caught:
            act("a")
        assert str(caught.value) == "there is no image 'a' in the studies folder"
    with pytest.raises(NotFoundError, match=r"^there is no label 'a' with the tag 'final'$"):
        store.remove_label("a", "final")
    with pytest.raises(NotFoundError, match="no image is labelled yet"):
        store.get_dataset_archive(None)
    assert (store.get_image_uri("a"), store.get_label_uri("a", "final"), store.get_image_info("a")) == ("", "", {})


# Labels


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".seg.nrrd"])
@pytest.mark.parametrize("image_id", ["a", "case.1.2"])
def test_a_label_of_any_format_is_stored_as_nifti_on_the_grid_of_its_image(opened, studies, sent, suffix, image_id):
    put_image(studies / f"{image_id}.nrrd")
    store = opened()
    assert store.save_label(image_id, str(put_label(sent / f"tmp1{suffix}")), "final", {"user": "me"}) == image_id
    assert store.get_labeled_images() == [image_id]
    assert names(studies / "labels" / "final") == [f"{image_id}.nii.gz"]
    label = read_label(store.get_label_uri(image_id, "final"))
    np.testing.assert_array_equal(label.array, classes())
    np.testing.assert_allclose(label.affine, AFFINE, atol=1e-6)
    info = store.get_label_info(image_id, "final")
    assert (info["user"], info["label_info"], info["name"]) == ("me", NAMES, f"{image_id}.nii.gz")
    again = opened()
    assert again.get_label_info(image_id, "final") == info
    np.testing.assert_array_equal(stored_label(again, image_id), classes())


def test_names_are_mapped_and_what_the_client_said_is_kept(opened, studies, sent):
    put_image(studies / "a.nii.gz")
    store = opened()
    client_names = [{"name": "Tumour", "idx": 1}, {"name": "Liver", "idx": 2}]
    store.save_label("a", str(put_label(sent / "x.nii.gz")), "final", {"label_info": client_names})
    np.testing.assert_array_equal(stored_label(store, "a"), np.array([0, 2, 1])[classes()])
    info = store.get_label_info("a", "final")
    assert (info["label_info"], info["client_label_info"]) == (NAMES, client_names)
    again = opened()  # which must not map it a second time
    np.testing.assert_array_equal(stored_label(again, "a"), np.array([0, 2, 1])[classes()])
    assert len(again.store.labels.history("a", "final")) == 1


def test_a_refused_label_changes_nothing(opened, studies, sent):
    put_image(studies / "a.nii.gz")
    store = opened()
    store.save_label("a", str(put_label(sent / "x.nii.gz")), "final", {})
    moved = AFFINE.copy()
    moved[0, 3] = 50
    cases = [
        (
            put_label(sent / "tmp1.nii.gz", classes()[:, :, :3]),
            {},
            "the label has (8, 7, 3) voxels, its image (8, 7, 6)",
        ),
        (put_label(sent / "tmp2.nii.gz", affine=moved), {}, "the label lies up to 50.0 mm away from its image"),
        (put_label(sent / "tmp3.nii.gz", classes() * 4), {}, "the label holds the values [4, 8], but only"),
        (sent / "x.nii.gz", {"label_info": [{"name": "x"}, {"name": "y"}]}, "the segment 'x' is not one of"),
        (put_image(sent / "tmp4.nii.gz"), {}, "label for image 'a': label values run from"),
    ]
    for path, info, start in cases:
        with pytest.raises(BadInputError) as caught:
            store.save_label("a", str(path), "final", info)
        assert str(caught.value).startswith(start)
    with pytest.raises(BadInputError, match=r"^label tag '\.\./x' is not allowed"):
        store.save_label("a", str(sent / "x.nii.gz"), "../x", {})
    np.testing.assert_array_equal(stored_label(store, "a"), classes())
    assert names(studies / "labels" / "final") == ["a.nii.gz"]


def test_a_label_is_replaced_under_its_tag_only(opened, studies, sent):
    put_image(studies / "a.nii.gz")
    store = opened()
    for tag, seed in (("final", 1), ("original", 2), ("final", 3)):
        store.save_label("a", str(put_label(sent / "x.nii.gz", classes(seed))), tag, {})
    np.testing.assert_array_equal(stored_label(store, "a"), classes(3))
    np.testing.assert_array_equal(stored_label(store, "a", "original"), classes(2))


def test_a_removed_label_does_not_come_back_in_another_format(opened, studies, sent):
    put_image(studies / "a.nii.gz")
    put_image(studies / "a.b.nii.gz")
    put_label(studies / "labels" / "final" / "a.nrrd", classes(2))
    put_label(studies / "labels" / "final" / "a.b.nii.gz")
    store = opened()
    store.save_label("a", str(put_label(sent / "x.nii.gz")), "final", {})
    store.save_label("a", str(sent / "x.nii.gz"), "original", {})
    store.remove_label("a", "final")
    assert store.get_unlabeled_images() == ["a"]
    assert list(store.get_labels_by_image_id("a")) == ["original"]
    assert names(studies / "labels" / "final") == ["a.b.nii.gz"]
    assert sorted(opened().get_unlabeled_images()) == ["a"]


# Whole or not at all


def full_disk(monkeypatch, *, after):
    """Let the disk be full from the `after`-th file on."""
    count = 0
    replace = files.Path.replace

    def limited(self, target):
        nonlocal count
        count += 1
        if count > after:
            raise OSError(28, "No space left on device", str(self))
        return replace(self, target)

    monkeypatch.setattr(files.Path, "replace", limited)


def test_a_full_disk_leaves_the_store_as_it_was(opened, studies, sent, monkeypatch):
    store = opened()
    store.add_image("a", str(put_image(sent / "x.nii.gz")), {})
    put_image(sent / "y.nii.gz", 2)
    put_label(sent / "label.nii.gz")
    with monkeypatch.context() as patch:
        full_disk(patch, after=0)
        with pytest.raises(StorageError, match="the disk is full; free space"):
            store.add_image("b", str(sent / "y.nii.gz"), {})
        with pytest.raises(StorageError, match="the disk is full; free space"):
            store.save_label("a", str(sent / "label.nii.gz"), "final", {})
    assert store.list_images() == ["a"]
    assert store.get_labeled_images() == []
    assert names(studies) == ["a.nii.gz"]
    assert names(studies / "labels" / "final") == []
    assert opened().list_images() == ["a"]


def test_a_label_that_could_not_be_shown_is_shown_later(opened, studies, sent, monkeypatch):
    store = opened()
    store.add_image("a", str(put_image(sent / "x.nii.gz")), {})
    put_label(sent / "label.nii.gz")
    with monkeypatch.context() as patch:
        full_disk(patch, after=1)  # the version is written, its copy for others is not
        with pytest.raises(StorageError):
            store.save_label("a", str(sent / "label.nii.gz"), "final", {})
    assert store.get_labeled_images() == ["a"]
    assert names(studies / "labels" / "final") == []
    np.testing.assert_array_equal(stored_label(opened(), "a"), classes())
    assert not list(studies.rglob(".writing*"))


def test_a_label_can_be_read_before_it_is_shown(opened, studies, sent, monkeypatch):
    """Whoever asks for a review may get an image whose label was saved in this moment."""
    put_image(studies / "a.nii.gz")
    store = opened()
    monkeypatch.setattr(LabelStore, "show", lambda *_: None)
    store.save_label("a", str(put_label(sent / "s.nii.gz")), "final", {"label_info": NAMES})
    assert not (studies / "labels" / "final" / "a.nii.gz").exists()
    assert np.array_equal(stored_label(store, "a"), classes())


def test_a_damaged_list_of_contents_of_the_stock_store_is_told_and_can_be_moved_away(opened, studies):
    put_image(studies / "a.nii.gz")
    put_label(studies / "labels" / "final" / "a.nii.gz")
    contents = studies / "datastore_v2.json"
    contents.write_text('{"name": "x", "objects": {"a"')
    with pytest.raises(
        BadInputError, match=r"datastore_v2\.json is damaged; move it away: images and labels are found"
    ):
        opened()
    contents.unlink()
    assert opened().get_labeled_images() == ["a"]


# A folder that MONAI Label's own store has kept


def stock(studies):
    return LocalDatastore(str(studies), extensions=("*.nii.gz", "*.nii", "*.nrrd"))


def test_a_folder_of_the_stock_store_is_taken_over(opened, studies, sent):
    for name in ("a.nii.gz", "b.1.nrrd", "c.nii.gz"):
        put_image(studies / name)
    theirs = stock(studies)
    theirs.update_image_info("a", {"strategy": {"random": {"ts": 5}}})
    theirs.save_label("a", str(put_label(sent / "x.nrrd")), "final", {"label_info": NAMES, "user": "me"})
    theirs.save_label("b.1", str(put_label(sent / "y.nii.gz")), "original", {})
    store = opened()
    assert sorted(store.list_images()) == ["a", "b.1", "c"]
    assert store.get_image_info("a")["strategy"] == {"random": {"ts": 5}}
    assert store.get_label_info("a", "final")["user"] == "me"
    assert os.path.basename(store.get_label_uri("a", "final")) == "a.nrrd"
    np.testing.assert_array_equal(stored_label(store, "a"), classes())
    assert [os.path.basename(entry["label"]) for entry in store.datalist()] == ["a.nrrd"]
    (version,) = store.store.labels.history("a", "final")
    assert (version.source, version.author, version.number) == ("adopted", "me", 1)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_labels_that_the_stock_store_took_by_order_are_mapped_by_name(opened, studies, sent, suffix):
    put_image(studies / "a.nii.gz")
    tumor_only = (classes() == 2).astype(np.uint8)
    stock(studies).save_label(
        "a", str(put_label(sent / f"x{suffix}", tumor_only)), "final", {"label_info": [{"name": "tumor", "idx": 2}]}
    )
    store = opened()
    np.testing.assert_array_equal(stored_label(store, "a"), tumor_only * 2)
    assert len(store.datalist()) == 1
    (version,) = opened().store.labels.history("a", "final")
    kept = store.store.layout.versions / version.sent
    np.testing.assert_array_equal(read_label(kept).array, tumor_only)
    assert store.get_label_info("a", "final")["client_label_info"] == [{"name": "tumor", "idx": 2}]
    assert names(studies / "labels" / "final") == ["a.nii.gz"]


def test_labels_of_unknown_names_are_kept_but_not_trained_on(opened, studies, sent, caplog):
    for name in ("a", "b"):
        put_image(studies / f"{name}.nii.gz")
    theirs = stock(studies)
    theirs.save_label("a", str(put_label(sent / "x.nii.gz")), "final", {"label_info": [{"name": "spleen", "idx": 1}]})
    theirs.save_label("b", str(put_label(sent / "y.nii.gz")), "final", {})
    store = opened()
    assert [os.path.basename(entry["image"]) for entry in store.datalist()] == ["b.nii.gz"]
    np.testing.assert_array_equal(stored_label(store, "a"), classes())
    assert "the label final of a is not used: the segment 'spleen' is not one of" in caplog.text
    assert store.get_unlabeled_images() == ["a"]  # so that somebody can label it for us


def test_labels_are_mapped_again_when_the_site_renumbers_its_classes(studies, opened, sent):
    put_image(studies / "a.nii.gz")
    opened().save_label("a", str(put_label(sent / "x.nii.gz")), "final", {})
    labels = {"tumor": {"index": 1}, "liver": {"index": 2}}
    store = opened(Settings(labels=labels))
    np.testing.assert_array_equal(stored_label(store, "a"), np.array([0, 2, 1])[classes()])


# What other parts ask for


def test_the_data_list_can_be_relative(opened, studies, sent):
    put_image(studies / "a.nii.gz")
    store = opened()
    store.save_label("a", str(put_label(sent / "x.nii.gz")), "final", {})
    assert store.datalist(full_path=False) == [
        {"image": "a.nii.gz", "label": os.path.join("labels", "final", "a.nii.gz")}
    ]
    archive = store.get_dataset_archive(None)
    shutil.unpack_archive(archive, sent / "unpacked", "zip")
    os.remove(archive)
    assert (sent / "unpacked" / "label" / "a.nii.gz").is_file()


def test_status_counts_images_and_labels(opened, studies, sent):
    for name in ("a", "b"):
        put_image(studies / f"{name}.nii.gz")
    store = opened()
    store.save_label("a", str(put_label(sent / "x.nii.gz")), "final", {})
    store.update_image_info("b", {"note": 1})
    assert store.status() == {"total": 2, "completed": 1, "label_tags": {"final": 1}}


def test_files_put_in_or_taken_away_by_hand_are_noticed_on_refresh(opened, studies):
    put_image(studies / "a.nii.gz")
    store = opened()
    put_image(studies / "b.nii.gz")
    (studies / "a.nii.gz").unlink()
    store.refresh()
    assert store.list_images() == ["b"]
