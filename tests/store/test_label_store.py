"""Every label is a version; the newest is shown; nothing that anybody sent or wrote is lost."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest

from lib.errors import BadInputError, NotFoundError, SettingsError, StorageError
from lib.files import file_sha256
from lib.settings import Settings
from lib.store import events, images, inspection, leases, versions
from lib.store.store import Store
from lib.volume import Volume
from lib.volume_io import read_label, write_image, write_label

SHAPE = (8, 7, 6)
AFFINE = np.diag([-0.7, -0.8, 2.5, 1.0])
VOXEL_ML = 0.7 * 0.8 * 2.5 / 1000


def classes(seed):
    return np.random.default_rng(seed).integers(0, 3, SHAPE).astype(np.uint8)


@pytest.fixture
def store(tmp_path, ledger_url):
    folder = tmp_path / "studies"
    for number, name in enumerate(("a", "b.1")):
        hu = np.random.default_rng(number).integers(-900, 900, SHAPE).astype(np.int16)
        write_image(folder / f"{name}.nii.gz", Volume(hu, AFFINE))
    opened = Store(folder, Settings(ledger=ledger_url))
    yield opened
    opened.close()


@pytest.fixture
def send(tmp_path):
    """A file as a client sends it."""

    def write(seed_or_array, name="sent.nii.gz", affine=AFFINE):
        array = classes(seed_or_array) if isinstance(seed_or_array, int) else seed_or_array
        path = tmp_path / "sent" / name
        write_label(path, Volume(array, affine), Settings().labels)
        return path

    return write


def shown(store, image_id="a", tag="final"):
    return read_label(store.layout.shown(image_id, tag)).array


def rows(store, kind):
    with store.ledger.reading() as connection:
        return [event for event in events.history(connection) if event.kind == kind]


def test_every_save_is_a_version_and_the_newest_is_shown(store, send):
    for number in (1, 2, 3):
        version = store.labels.save("a", send(number), "final", {"note": number}, author="ann")
        assert (version.number, version.author, version.source) == (number, "ann", "client")
        np.testing.assert_array_equal(shown(store), classes(number))
    history = store.labels.history("a")
    assert [version.number for version in history] == [3, 2, 1]
    for version in history:
        path = store.labels.path(version)
        assert (file_sha256(path), path.stat().st_size) == (version.sha256, version.size)
        np.testing.assert_array_equal(read_label(path).array, classes(version.number))
        assert version.info["note"] == version.number
        counts = {name: int((classes(version.number) == index).sum()) for name, index in (("liver", 1), ("tumor", 2))}
        assert version.voxels == counts
        assert version.ml["tumor"] == pytest.approx(counts["tumor"] * VOXEL_ML)
    assert history[-1].against_previous is None
    np.testing.assert_array_equal(shown(store), read_label(store.labels.path(history[0])).array)


def test_tags_and_images_have_histories_of_their_own(store, send):
    for image_id, tag in (("a", "final"), ("a", "original"), ("b.1", "final")):
        assert store.labels.save(image_id, send(1), tag, {}, author="ann").number == 1
    assert len(store.labels.history("a")) == 2
    assert len(store.labels.history("a", "final")) == 1


def test_bytes_that_are_right_are_kept_as_they_came(store, send):
    path = send(1)
    version = store.labels.save("a", path, "final", {}, author="ann")
    assert version.sent is None
    assert version.sha256 == file_sha256(path) == file_sha256(store.layout.shown("a", "final"))


@pytest.mark.parametrize("name", ["sent.nrrd", "sent.seg.nrrd", "sent.nii"])
def test_a_file_that_is_kept_in_another_form_is_kept_as_it_came_too(store, send, name):
    path = send(1, name)
    version = store.labels.save("a", path, "final", {}, author="ann")
    assert file_sha256(store.layout.versions / version.sent) == file_sha256(path)
    assert version.sent.endswith(name.removeprefix("sent"))
    np.testing.assert_array_equal(shown(store), classes(1))


def test_a_correction_is_compared_with_what_the_model_gave_this_client(store, send):
    store.labels.keep_presegmentation("a", "ann", "model-1", send(1))
    store.labels.keep_presegmentation("a", "bob", "model-2", send(2))
    corrected = classes(1)
    corrected[0, 0, :] = 2
    changed = int((corrected != classes(1)).sum())
    version = store.labels.save("a", send(corrected), "final", {}, author="ann")
    assert version.model_version == "model-1"
    liver = version.against_presegmentation["liver"]
    tumor = version.against_presegmentation["tumor"]
    assert tumor["changed_ml"] == pytest.approx(changed * VOXEL_ML)
    assert 0 < version.change == pytest.approx(1 - min(liver["dice"], tumor["dice"]))
    by_bob = store.labels.save("a", send(2), "final", {}, author="bob")
    assert (by_bob.model_version, by_bob.change) == ("model-2", 0.0)
    assert by_bob.against_previous["liver"]["dice"] < 1
    by_cleo = store.labels.save("a", send(2), "final", {}, author="cleo")  # who asked for no segmentation
    assert (by_cleo.model_version, by_cleo.against_presegmentation) == (None, None)


@pytest.mark.parametrize(("name", "compress", "suffix"), [
    ("a.nrrd", True, ".nrrd"), ("a.nrrd", False, ".nii.gz"), ("a.seg.nrrd", True, ".seg.nrrd"),
    ("a.nii.gz", True, ".nii.gz"), ("a.nii", True, ".nii.gz"),
])  # fmt: skip
def test_what_a_model_made_is_kept_as_it_was_sent_unless_that_takes_room(store, send, tmp_path, name, compress, suffix):
    sent = tmp_path / name
    write_label(sent, Volume(classes(1), AFFINE), Settings().labels, compress=compress)
    store.labels.keep_presegmentation("a", "ann", "m1", sent)
    (kept,) = (path for path in store.layout.presegmentations.rglob("*") if path.is_file())
    assert kept.name.partition("Z")[2] == suffix
    assert (kept.read_bytes() == sent.read_bytes()) == (name.endswith(suffix))
    np.testing.assert_array_equal(read_label(kept).array, classes(1))
    assert store.labels.save("a", send(1), "final", {}, author="ann").change == 0.0


def test_a_stored_automatic_result_is_what_a_correction_is_compared_with(store, send):
    made = store.labels.save("a", send(1), "original", {"params": {"model_version": "m7"}}, author="m", source="model")
    assert (made.model_version, made.against_presegmentation) == ("m7", None)
    version = store.labels.save("a", send(1), "final", {}, author="ann")
    assert (version.model_version, version.change) == ("m7", 0.0)


def test_pre_segmentations_that_are_superseded_go(store, send):
    for number in (1, 2, 3):
        store.labels.keep_presegmentation("a", "ann", f"m{number}", send(number))
    (kept,) = store.layout.presegmentations.rglob("*.nii.gz")
    np.testing.assert_array_equal(read_label(kept).array, classes(3))


def test_the_time_since_the_lease_is_its_holder_s(store, send):
    with store.ledger.writing() as connection:
        leases.acquire(connection, "a", "ann", strategy="random", reason="", score=None, seconds=60)
        leases.acquire(connection, "b.1", "ann", strategy="random", reason="", score=None, seconds=60)
    assert 0 <= store.labels.save("a", send(1), "final", {}, author="ann").seconds_since_lease < 60
    assert store.labels.save("b.1", send(1), "final", {}, author="bob").seconds_since_lease is None
    with store.ledger.reading() as connection:
        assert leases.list_all(connection) == []  # who saved the final label ended the work on both


def test_an_old_version_is_restored_as_a_new_one(store, send):
    for number in (1, 2):
        store.labels.save("a", send(number), "final", {"note": number}, author="ann")
    restored = store.labels.restore("a", "final", 1, author="bob")
    assert (restored.number, restored.restored_from, restored.source, restored.author) == (3, 1, "restored", "bob")
    assert restored.info["note"] == 1
    np.testing.assert_array_equal(shown(store), classes(1))
    assert [version.number for version in store.labels.history("a")] == [3, 2, 1]
    with pytest.raises(NotFoundError, match=r"^there is no version 9 of the label 'final' of image 'a'$"):
        store.labels.restore("a", "final", 9, author="bob")


def test_a_damaged_version_is_not_restored(store, send):
    version = store.labels.save("a", send(1), "final", {}, author="ann")
    store.labels.path(version).write_bytes(b"rot")
    with pytest.raises(BadInputError, match=r"version 1 of a is missing or damaged; run scripts/ledger.py check"):
        store.labels.restore("a", "final", 1, author="bob")


def test_two_versions_are_compared(store, send):
    for number in (1, 2):
        store.labels.save("a", send(number), "final", {}, author="ann")
    difference = store.labels.diff("a", "final", 1, 2)
    assert difference["liver"]["ml_first"] == pytest.approx((classes(1) == 1).sum() * VOXEL_ML)
    assert difference["tumor"]["ml_second"] == pytest.approx((classes(2) == 2).sum() * VOXEL_ML)
    assert store.labels.diff("a", "final", 2, 2)["tumor"] == pytest.approx(
        {"dice": 1.0, "changed_ml": 0.0, "ml_first": difference["tumor"]["ml_second"],
         "ml_second": difference["tumor"]["ml_second"]}
    )  # fmt: skip


def test_a_label_taken_back_keeps_its_versions(store, send):
    store.labels.save("a", send(1), "final", {}, author="ann")
    store.labels.withdraw("a", "final", author="bob")
    assert not store.layout.shown("a", "final").exists()
    with store.ledger.reading() as connection:
        assert images.names(connection, open_only=True) == ["a", "b.1"]
    assert [event.actor for event in rows(store, "label withdrawn")] == ["bob"]
    restored = store.labels.restore("a", "final", 1, author="ann")
    assert restored.number == 2
    np.testing.assert_array_equal(shown(store), classes(1))
    with pytest.raises(NotFoundError, match=r"there is no label 'b\.1' with the tag 'final'"):
        store.labels.withdraw("b.1", "final", author="bob")


def test_a_refused_label_is_kept_with_its_reason(store, send):
    path = send(np.full(SHAPE, 7, np.uint8), "odd.nrrd")
    with pytest.raises(BadInputError) as caught:
        store.labels.save("a", path, "final", {}, author="ann")
    (kept,) = store.layout.refused("a").glob("*.nrrd")
    assert str(caught.value).startswith("the label holds the values [7], but only {'liver': 1, 'tumor': 2} are known")
    assert str(caught.value).endswith(f"(what was sent is kept as labels/refused/a/{kept.name})")
    assert file_sha256(kept) == file_sha256(path)
    note = json.loads(kept.with_suffix(".json").read_text())
    assert (note["image"], note["tag"], note["sent_by"], note["file"]) == ("a", "final", "ann", kept.name)
    assert note["reason"].startswith("the label holds the values [7]")
    assert store.labels.history("a") == []
    assert [event.detail["file"] for event in rows(store, "label refused")] == [f"labels/refused/a/{kept.name}"]
    with pytest.raises(NotFoundError, match="there is no image 'x'"):
        store.labels.save("x", path, "final", {}, author="ann")


def test_a_file_that_is_no_label_at_all_is_kept_too(store, tmp_path):
    path = tmp_path / "a.exe"
    path.write_bytes(b"MZ")
    with pytest.raises(BadInputError, match="unknown kind of file"):
        store.labels.save("a", path, "final", {}, author="ann")
    (kept,) = store.layout.refused("a").glob("*.exe")
    assert kept.read_bytes() == b"MZ"


def test_a_label_that_was_recorded_but_not_shown_is_shown_at_the_next_look(store, send, monkeypatch):
    store.labels.save("a", send(1), "final", {}, author="ann")
    with monkeypatch.context() as patch:
        patch.setattr(store.labels, "show", lambda *_: (_ for _ in ()).throw(StorageError("cut off")))
        with pytest.raises(StorageError):
            store.labels.save("a", send(2), "final", {}, author="ann")
    np.testing.assert_array_equal(shown(store), classes(1))
    store.rescan()
    np.testing.assert_array_equal(shown(store), classes(2))
    assert not store.layout.refused("a").exists()


def test_what_others_put_into_the_folder_becomes_a_version(store, send):
    store.labels.save("a", send(1), "final", {}, author="ann")
    write_label(store.layout.shown("a", "final"), Volume(classes(2), AFFINE))
    write_label(store.layout.shown("b.1", "final", ".nrrd"), Volume(classes(3), AFFINE))
    store.rescan()
    assert [(v.number, v.source) for v in store.labels.history("a")] == [(2, "found"), (1, "client")]
    np.testing.assert_array_equal(shown(store), classes(2))
    (found,) = store.labels.history("b.1")
    assert store.layout.shown("b.1", "final", ".nrrd").exists()  # right as it is, so it stays
    np.testing.assert_array_equal(read_label(store.labels.path(found)).array, classes(3))
    store.rescan()
    assert len(store.labels.history("a")) == 2
    store.labels.save("b.1", send(4), "final", {}, author="ann")
    assert [path.name for path in store.layout.shown_files("b.1", "final")] == ["b.1.nii.gz"]


def test_of_two_formats_both_become_versions_and_the_later_is_shown(store):
    for age, (suffix, seed) in enumerate(((".nrrd", 1), (".nii.gz", 2), (".nii", 3))):
        path = store.layout.shown("a", "final", suffix)
        write_label(path, Volume(classes(seed), AFFINE))
        os.utime(path, (time.time() - 100 + age, time.time() - 100 + age))
    store.rescan()
    history = store.labels.history("a")
    assert [version.number for version in history] == [3, 2, 1]
    for version, seed in zip(history, (3, 2, 1), strict=True):
        np.testing.assert_array_equal(read_label(store.labels.path(version)).array, classes(seed))
    assert [path.name for path in store.layout.shown_files("a", "final")] == ["a.nii.gz"]
    np.testing.assert_array_equal(shown(store), classes(3))


def test_a_copy_with_another_time_is_no_new_version(store, send):
    store.labels.save("a", send(1), "final", {}, author="ann")
    os.utime(store.layout.shown("a", "final"), (1, 1))
    store.rescan()
    assert len(store.labels.history("a")) == 1


def test_a_file_that_does_not_fit_is_moved_aside_where_it_lay_over_a_version(store, send):
    store.labels.save("a", send(1), "final", {}, author="ann")
    for image_id in ("a", "b.1"):
        path = store.layout.shown(image_id, "final")
        write_label(path, Volume(np.full(SHAPE, 9, np.uint8), AFFINE))
        os.utime(path, (time.time() - 60, time.time() - 60))
    store.rescan()
    np.testing.assert_array_equal(shown(store), classes(1))
    (kept,) = store.layout.refused("a").glob("*.nii.gz")
    assert read_label(kept).array.max() == 9
    assert read_label(store.layout.shown("b.1", "final")).array.max() == 9  # the only one there is: left in place
    assert not store.layout.refused("b.1").exists()
    with store.ledger.reading() as connection:
        assert versions.shown(connection, "b.1", "final").problem.startswith("the label holds the values [9]")
        assert versions.labelled_pairs(connection, "final") == [("a", ".nii.gz", ".nii.gz")]


def test_a_label_that_appears_while_one_is_saved_is_not_overwritten_unseen(store, send):
    store.labels.save("a", send(1), "final", {}, author="ann")
    write_label(store.layout.shown("a", "final"), Volume(classes(5), AFFINE))  # nobody has looked yet
    store.labels.save("a", send(2), "final", {}, author="ann")
    np.testing.assert_array_equal(shown(store), classes(2))
    (kept,) = store.layout.refused("a").glob("*.nii.gz")
    np.testing.assert_array_equal(read_label(kept).array, classes(5))


def test_a_file_taken_away_is_noticed_and_its_versions_stay(store, send, caplog):
    store.labels.save("a", send(1), "final", {}, author="ann")
    store.layout.shown("a", "final").unlink()
    store.rescan()
    assert "the label final of a was removed from the folder; its versions are kept" in caplog.text
    assert len(rows(store, "label vanished")) == 1
    with store.ledger.reading() as connection:
        assert "a" in images.names(connection, open_only=True)
    assert store.labels.restore("a", "final", 1, author="ann").number == 2


def test_concurrent_saves_keep_their_order(store, send):
    paths = [send(seed, f"{seed}.nii.gz") for seed in range(24)]
    with ThreadPoolExecutor(8) as pool:
        saved = list(pool.map(lambda path: store.labels.save("a", path, "final", {}, author=path.name), paths))
    history = store.labels.history("a")[::-1]
    assert [version.number for version in history] == list(range(1, 25))
    assert [v.saved_at for v in history] == sorted(v.saved_at for v in history)
    assert {version.number: version.sha256 for version in saved} == {v.number: v.sha256 for v in history}
    assert file_sha256(store.layout.shown("a", "final")) == history[-1].sha256
    for earlier, later in pairwise(history):
        before = read_label(store.labels.path(earlier)).array
        changed = (before == 1) ^ (read_label(store.labels.path(later)).array == 1)
        assert later.against_previous["liver"]["changed_ml"] == pytest.approx(changed.sum() * VOXEL_ML)
    assert not store.layout.refused("a").exists()


def test_a_look_at_the_folder_does_not_bring_an_older_label_back(store, send, monkeypatch):
    """A file of the version before lies there while a newer one is saved: it is no change that anybody made."""
    store.labels.save("a", send(1), "final", {}, author="ann")
    os.utime(store.layout.shown("a", "final"), (5, 5))  # so that it must be looked at
    real = versions.shown
    saved = []

    def shown_and_then_overtaken(connection, image_id, tag):
        row = real(connection, image_id, tag)
        if not saved:
            saved.append(True)
            store.labels.save("a", send(2), "final", {}, author="bob")
        return row

    with monkeypatch.context() as patch:
        patch.setattr(versions, "shown", shown_and_then_overtaken)
        store.found_labels.take_in("a", "final")
    assert [version.author for version in store.labels.history("a")] == ["bob", "ann"]
    np.testing.assert_array_equal(shown(store), classes(2))


def test_a_label_is_compared_with_the_image_that_is_there_now(store, send):
    store.labels.save("a", send(1), "final", {}, author="ann")
    path = store.layout.image("a", ".nii.gz")
    write_image(path, Volume(np.full((4, 4, 4), -500, np.int16), AFFINE))  # nobody has looked yet
    with pytest.raises(BadInputError, match=r"the label has \(8, 7, 6\) voxels, its image \(4, 4, 4\)"):
        store.labels.save("a", send(2), "final", {}, author="ann")


def test_what_others_wrote_unseen_survives_that_the_label_is_taken_back(store, send):
    store.labels.save("a", send(1), "final", {}, author="ann")
    write_label(store.layout.shown("a", "final"), Volume(classes(5), AFFINE))
    store.labels.withdraw("a", "final", author="bob")
    assert store.layout.shown_files("a", "final") == []
    (kept,) = store.layout.refused("a").glob("*.nii.gz")
    np.testing.assert_array_equal(read_label(kept).array, classes(5))


def test_a_label_in_another_format_beside_the_shown_one_takes_its_place(store, send):
    store.labels.save("a", send(1), "final", {}, author="ann")
    write_label(store.layout.shown("a", "final", ".nrrd"), Volume(classes(2), AFFINE))
    for _ in range(3):
        store.rescan()
        assert [version.number for version in store.labels.history("a")] == [2, 1]
        assert [path.name for path in store.layout.shown_files("a", "final")] == ["a.nii.gz"]
    np.testing.assert_array_equal(shown(store), classes(2))


@pytest.mark.parametrize("suffix", [".nrrd", ".nii", ".seg.nrrd"])
def test_a_label_in_another_format_that_is_only_touched_is_no_new_version(store, suffix):
    path = store.layout.shown("a", "final", suffix)
    write_label(path, Volume(classes(2), AFFINE), Settings().labels)
    store.rescan()
    for time_of_change in (5, 6):
        if path.exists():
            os.utime(path, (time_of_change, time_of_change))
        store.rescan()
    assert len(store.labels.history("a")) == 1
    (there,) = store.layout.shown_files("a", "final")
    np.testing.assert_array_equal(read_label(there).array, classes(2))


def test_the_file_that_a_version_was_made_from_is_no_new_version(store, send):
    tumor_only = (classes(1) == 2).astype(np.uint8)
    sent = send(tumor_only)
    store.labels.save("a", sent, "final", {"label_info": [{"name": "tumor", "idx": 1}]}, author="ann")
    store.layout.shown("a", "final").write_bytes(sent.read_bytes())  # whose values mean something else
    store.rescan()
    assert len(store.labels.history("a")) == 1
    np.testing.assert_array_equal(shown(store), tumor_only * 2)


def test_that_the_folder_of_a_tag_is_gone_takes_no_label_back(store, send, tmp_path, caplog):
    store.labels.save("a", send(1), "final", {}, author="ann")
    store.layout.tag("final").rename(tmp_path / "elsewhere")
    store.rescan()
    assert "its labels stay what they were" in caplog.text
    (tmp_path / "elsewhere").rename(store.layout.tag("final"))
    store.rescan()
    assert [version.author for version in store.labels.history("a")] == ["ann"]


def test_restoring_does_not_take_an_image_from_whoever_has_it(store, send):
    store.labels.save("a", send(1), "final", {}, author="ann")
    with store.ledger.writing() as connection:
        leases.acquire(connection, "a", "ann", strategy="review", reason="", score=None, seconds=60)
    store.labels.restore("a", "final", 1, author="eve")
    with store.ledger.reading() as connection:
        assert leases.of_image(connection, "a").client_id == "ann"


def test_a_bad_file_over_a_version_is_looked_at_again_until_it_is_settled(store, send):
    store.labels.save("a", send(1), "final", {}, author="ann")
    path = store.layout.shown("a", "final")
    write_label(path, Volume(np.full(SHAPE, 9, np.uint8), AFFINE))
    assert store.rescan().unsettled == [path]
    os.utime(path, (time.time() - 60, time.time() - 60))
    assert store.rescan().unsettled == []
    np.testing.assert_array_equal(shown(store), classes(1))


def test_an_image_whose_label_can_not_be_used_waits_for_one(store, send):
    path = store.layout.shown("a", "final")
    write_label(path, Volume(np.full(SHAPE, 9, np.uint8), AFFINE))
    store.rescan()
    with store.ledger.reading() as connection:
        assert images.names(connection, open_only=True) == ["a", "b.1"]
    store.labels.save("a", send(1), "final", {}, author="ann")
    np.testing.assert_array_equal(shown(store), classes(1))
    (kept,) = store.layout.refused("a").glob("*.nii.gz")
    assert read_label(kept).array.max() == 9
    with store.ledger.reading() as connection:
        assert images.names(connection, open_only=True) == ["b.1"]


def test_a_forgotten_ledger_is_not_replaced_by_an_empty_one(store, send):
    store.labels.save("a", send(1), "final", {}, author="ann")
    other = f"sqlite:///{store.layout.studies.parent}/other.sqlite"
    with pytest.raises(SettingsError, match="is new, and the studies folder has versions of another one; name that by"):
        Store(store.layout.studies, Settings(ledger=other))


def test_a_label_of_an_image_that_was_replaced_is_not_trained_on(store, send, caplog):
    store.labels.save("a", send(1), "final", {}, author="ann")
    path = store.layout.image("a", ".nii.gz")
    assert inspection.ensure_fit(store.ledger, store.layout, "a") is None
    content = path.read_bytes()
    path.write_bytes(content)
    os.utime(path, (5, 5))
    store.rescan()
    assert len(store.datalist()) == 1  # copied: the same image
    assert "another file now" not in caplog.text
    hu = np.random.default_rng(9).integers(-900, 900, SHAPE).astype(np.int16)
    write_image(path, Volume(hu, AFFINE))
    store.rescan()
    assert store.datalist() == []
    assert "the image a is another file now; it has labels that were made on the old one" in caplog.text
    store.labels.restore("a", "final", 1, author="ann")  # who has looked at it
    assert len(store.datalist()) == 1
