"""Others write, save and take away at the worst moment; every label that was kept stays, and the newest is shown."""

from pathlib import Path

import numpy as np
import pytest

from lib import files
from lib.errors import BadInputError, LiverLoopError, SettingsError
from lib.files import atomic_write
from lib.labels import Label
from lib.settings import Settings
from lib.store import version_files, versions
from lib.store.store import Store
from lib.volume import Volume
from lib.volume_io import read_label, write_image, write_label

SHAPE = (6, 5, 4)
AFFINE = np.diag([-0.7, -0.8, 2.5, 1.0])
OURS = {"liver": Label(index=1), "tumor": Label(index=2)}
SWAPPED = {"tumor": Label(index=1), "liver": Label(index=2)}


def classes(seed):
    return np.random.default_rng(seed).integers(0, 3, SHAPE).astype(np.uint8)


def label_file(path, seed):
    write_label(path, Volume(classes(seed), AFFINE))
    return path


@pytest.fixture
def folder(tmp_path):
    for seed, name in enumerate("ab"):
        hu = np.random.default_rng(seed).integers(-900, 900, SHAPE).astype(np.int16)
        write_image(tmp_path / "studies" / f"{name}.nii.gz", Volume(hu, AFFINE))
    return tmp_path / "studies"


@pytest.fixture
def opened(folder):
    stores = []

    def open_with(labels=OURS, **options):
        stores.append(Store(folder, Settings(labels=labels), **options))
        return stores[-1]

    yield open_with
    for store in stores:
        store.close()


def save(store, tmp_path, seed, author="ann", image_id="a"):
    path = label_file(tmp_path / f"sent-{seed}.nii.gz", seed)
    return store.save(image_id, path, "final", {}, author=author)


def current(store, image_id="a"):
    with store.ledger.reading() as connection:
        return versions.current(connection, image_id, "final")


def trained_on(store):
    return read_label(store.datalist()[0]["label"]).array


# Classes that a site numbers anew


def test_an_old_version_means_what_it_meant(opened, tmp_path):
    first = save(opened(), tmp_path, 5)
    store = opened(SWAPPED)
    np.testing.assert_array_equal(trained_on(store), np.array([0, 2, 1])[classes(5)])
    assert store.labels.restore("a", "final", 1, author="eve").voxels == first.voxels
    assert all(figures["dice"] == 1 for figures in store.labels.diff("a", "final", 1, 2).values())
    assert store.labels.history("a")[1].change == 0.0


def test_a_class_that_is_back_makes_its_labels_usable_again(opened, tmp_path):
    save(opened(), tmp_path, 5)
    assert opened({"liver": Label(index=1)}).datalist() == []
    np.testing.assert_array_equal(trained_on(opened()), classes(5))


def test_a_script_with_another_app_numbers_nothing_anew(opened, tmp_path):
    store = opened()
    save(store, tmp_path, 5)
    with pytest.raises(SettingsError, match="name the app of the server by --app, or start a server with these"):
        opened(SWAPPED, follow_classes=False)
    np.testing.assert_array_equal(trained_on(store), classes(5))


def test_what_a_client_saves_while_classes_are_numbered_anew_stays_the_newest(opened, tmp_path, monkeypatch):
    save(opened(), tmp_path, 5)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "_follow_classes", lambda self, **_: None)
        store = opened(SWAPPED)
    checked = store.labels.checked

    def overtaken(*arguments):
        label = checked(*arguments)
        monkeypatch.setattr(store.labels, "checked", checked)
        save(store, tmp_path, 6, author="bob")
        return label

    monkeypatch.setattr(store.labels, "checked", overtaken)
    store.labels.remap("a", "final")
    assert current(store).author == "bob"


# Labels that lie in the folder


def test_a_label_in_the_folder_is_version_1_even_if_a_client_saves_first(opened, folder, tmp_path):
    label_file(folder / "labels" / "final" / "a.nii.gz", 7)
    store = opened()
    save(store, tmp_path, 5)
    assert [(version.number, version.source) for version in store.labels.history("a")] == [(2, "client"), (1, "found")]
    assert not store.layout.refused("a").exists()


def test_a_file_in_the_folder_does_not_pass_for_what_was_saved_meanwhile(opened, folder, tmp_path, monkeypatch):
    store = opened()
    label_file(folder / "labels" / "final" / "a.nii.gz", 7)
    store.look()
    shows, show = store.found_labels._shows, store.labels.show

    def overtaken(path, version):
        stays = shows(path, version)
        if current(store).author != "ann":
            monkeypatch.setattr(store.labels, "show", lambda *_: None)  # the client's copy comes later
            save(store, tmp_path, 5)
            monkeypatch.setattr(store.labels, "show", show)
        return stays

    monkeypatch.setattr(store.found_labels, "_shows", overtaken)
    store.found_labels.take_in("a", "final")
    store.labels.show("a", "final")
    assert current(store).author == "ann"
    np.testing.assert_array_equal(trained_on(store), classes(5))


def test_a_bad_file_does_not_spoil_what_was_saved_meanwhile(opened, folder, tmp_path, monkeypatch):
    store = opened()
    (folder / "labels" / "final" / "a.nii.gz").write_bytes(b"nonsense")
    store.look()
    checked = store.labels.checked

    def overtaken(*arguments):
        try:
            return checked(*arguments)
        except BadInputError:
            monkeypatch.setattr(store.labels, "checked", checked)
            store.labels.save("a", label_file(tmp_path / "sent.nii.gz", 5), "final", {}, author="ann")
            raise

    monkeypatch.setattr(store.labels, "checked", overtaken)
    store.found_labels.take_in("a", "final")
    np.testing.assert_array_equal(trained_on(store), classes(5))


def test_a_label_saved_while_its_file_was_missing_is_not_withdrawn(opened, folder, tmp_path, monkeypatch):
    store = opened()
    save(store, tmp_path, 5)
    (folder / "labels" / "final" / "a.nii.gz").unlink()
    forget = store.labels.forget

    def overtaken(*arguments, **options):
        save(store, tmp_path, 6, author="bob")
        forget(*arguments, **options)

    monkeypatch.setattr(store.labels, "forget", overtaken)
    store.found_labels.note_missing("a", "final")
    assert current(store).author == "bob"


def test_what_is_kept_is_what_was_checked(opened, folder, monkeypatch):
    store = opened()
    path = label_file(folder / "labels" / "final" / "a.nii.gz", 7)
    store.look()
    holds = version_files.holds

    def overwritten(read, label, tolerance_mm=0.0):
        path.write_bytes(b"half written")
        return holds(read, label, tolerance_mm)

    monkeypatch.setattr(version_files, "holds", overwritten)
    store.take_in()
    for version in store.labels.history("a"):
        read_label(store.labels.path(version))


def test_the_last_good_copy_of_a_damaged_version_is_kept(opened, folder, tmp_path):
    store = opened()
    version = save(store, tmp_path, 5)
    content = store.labels.path(version).read_bytes()
    store.labels.path(version).write_bytes(b"bad sector")
    save(store, tmp_path, 6)
    assert any(path.read_bytes() == content for path in folder.rglob("*.nii.gz"))


# Labels that are refused


@pytest.mark.parametrize(
    "info",
    [{"x": float("nan")}, {"label_info": 5}, {"label_info": "abc"}, {"label_info": {"a": 1}}],
    ids=["nan", "number", "text", "object"],
)
def test_what_comes_with_bad_notes_is_kept_too(opened, folder, tmp_path, info):
    path = label_file(tmp_path / "sent.nii.gz", 5)
    with pytest.raises(BadInputError, match="what was sent is kept as labels/refused/a/"):
        opened().save("a", path, "final", info, author="ann")
    (kept,) = (folder / "labels" / "refused" / "a").glob("*.nii.gz")
    assert kept.read_bytes() == path.read_bytes()


def test_notes_of_any_form_are_taken_with_an_automatic_result(opened, tmp_path):
    path = label_file(tmp_path / "sent.nii.gz", 5)
    version = opened().save("a", path, "original", {"params": "x"}, author="m", source="model")
    assert version.model_version is None


@pytest.mark.parametrize("change", [lambda path: path.write_bytes(b"broken"), lambda path: path.rename(f"{path}.away")])
def test_a_label_whose_image_can_not_be_read_is_kept(opened, folder, tmp_path, change):
    store = opened()
    change(folder / "a.nii.gz")
    store.look()
    with pytest.raises(LiverLoopError, match="what was sent is kept as labels/refused/a/"):
        store.save("a", label_file(tmp_path / "sent.nii.gz", 5), "final", {}, author="ann")
    assert len(list((folder / "labels" / "refused" / "a").glob("*.nii.gz"))) == 1


# Power cuts


def test_new_folders_survive_a_power_cut_too(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(files, "sync_folder", lambda folder: synced.append(Path(folder)))
    with atomic_write(tmp_path / "x" / "y" / "z") as temporary:
        temporary.write_text("1")
    assert {tmp_path, tmp_path / "x", tmp_path / "x" / "y"} <= set(synced)
