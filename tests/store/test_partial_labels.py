"""Labels of which only some slices were looked at: how they come in, are kept, shown, given back and compared."""

import json

import numpy as np
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform
from scipy.spatial.transform import Rotation

from lib.errors import BadInputError
from lib.labels import DEFAULT_LABELS, NOT_LOOKED_AT, Label
from lib.settings import Settings
from lib.store import audit, leases, report, versions
from lib.store.archive import export_archive
from lib.store.archive_import import import_archive
from lib.store.folder import FolderDatastore
from lib.store.leases import REVIEW
from lib.store.store import Store
from lib.store.to_correct import renumbered
from lib.volume import Volume
from lib.volume_io import read_label, write_image, write_label, write_planes

SHAPE = (6, 5, 8)  # of the voxels from right to left, front to back, feet to head
NAMES = [{"name": "liver", "idx": 1}, {"name": "tumor", "idx": 2}]
WITH_MARKER = [*NAMES, {"name": "looked at", "idx": 3}]
PARTLY = [*NAMES, {"name": "not looked at", "idx": 255}]


def stored_along(codes, tilt=0.0):
    """An image and a label with some of each class in each slice, their axes in this order."""
    rng = np.random.default_rng(0)
    turn = ornt_transform(axcodes2ornt("LPS"), axcodes2ornt(codes))
    affine = np.diag([-0.7, -0.8, 2.5, 1.0])
    affine[:3, :3] = Rotation.from_euler("xyz", (tilt, tilt / 2, 0), degrees=True).as_matrix() @ affine[:3, :3]
    affine = affine @ inv_ornt_aff(turn, SHAPE)
    hu, array = rng.integers(-900, 900, SHAPE).astype(np.int16), rng.integers(0, 3, SHAPE).astype(np.uint8)
    array[0] = 0  # where markers are drawn
    return tuple(Volume(np.ascontiguousarray(apply_orientation(one, turn)), affine) for one in (hu, array))


IMAGE, LABEL = stored_along("LPS")


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "b"):
        write_image(tmp_path / "studies" / f"{name}.nii.gz", Volume(IMAGE.array + (name == "b"), IMAGE.affine))
    opened = FolderDatastore(str(tmp_path / "studies"), Settings())
    opened.refresh()
    yield opened
    opened.store.close()


@pytest.fixture
def store(folder):
    return folder.store


@pytest.fixture
def save(store, tmp_path):
    """Saves a label as a client sends it."""

    def save(label, names=NAMES, image="a", suffix=".nii.gz", author="ann", **params):
        path = tmp_path / "sent" / f"label{suffix}"
        write_label(path, label, DEFAULT_LABELS)
        return store.save(image, path, "final", {"label_info": names, **params}, author=author)

    return save


def shown(store, image="a"):
    return read_label(store.layout.shown(image, "final"))


def only(label, *slices, elsewhere=0):
    """The label in these slices, counted from the feet."""
    axial = label.axial().copy()
    axial[[z for z in range(len(axial)) if z not in slices]] = elsewhere
    return label.with_axial(axial)


def partial(label, *looked_at):
    """What should be kept of a label of which these slices were looked at."""
    return only(label, *looked_at, elsewhere=NOT_LOOKED_AT)


def with_marker(label, value, *slices):
    """A stroke through some slices, where the label has nothing."""
    axial = label.axial().copy()
    axial[list(slices), 2, 0] = value
    return label.with_axial(axial)


@pytest.mark.parametrize("codes", ["LPS", "RAI", "SAL"])
@pytest.mark.parametrize("tilt", [0.0, 30.0])
def test_both_ways_to_say_it_mean_the_same_on_any_axes(tmp_path, codes, tilt):
    image, label = stored_along(codes, tilt)
    label = only(label, 2, 3, 6)
    sent_along_others = only(stored_along("RAS", tilt)[1], 2, 3, 6)
    store = Store(tmp_path / "studies", Settings())
    write_image(store.layout.studies / "a.nii.gz", image)
    store.rescan()
    for number, (sent, strokes, params) in enumerate(
        [
            (label, [2, 3, 6], {"label_info": WITH_MARKER}),
            (sent_along_others, [2, 3, 6], {"label_info": WITH_MARKER}),
            (label, [], {"looked_at": [[2, 3], [6, 6]]}),
            (sent_along_others, [6], {"label_info": WITH_MARKER, "looked_at": [[2, 3]]}),
        ]
    ):
        sent = with_marker(sent, 3, *strokes)
        expected = with_marker(partial(label, 2, 3, 6), NOT_LOOKED_AT, *strokes)
        write_label(tmp_path / "sent.nii.gz", sent)
        version = store.save("a", tmp_path / "sent.nii.gz", "final", params, author="ann")
        np.testing.assert_array_equal(shown(store).array, expected.array, err_msg=str(number))
        assert (version.info["looked_at_slices"], version.info["slices"]) == (3, 8)
        assert version.info["label_info"] == PARTLY
        assert "looked_at" not in version.info
        assert version.voxels == {name: int((expected.array == i).sum()) for name, i in (("liver", 1), ("tumor", 2))}
    store.close()


def test_a_seg_nrrd_says_it_by_the_names_of_its_segments(store, tmp_path):
    labels = {**DEFAULT_LABELS, "Reviewed Slices": Label(index=3), "not looked at": Label(index=4)}
    layers = tmp_path / "layers.seg.nrrd"
    write_planes(layers, with_marker(only(LABEL, 1, 5), 3, 1, 5), labels)
    store.save("a", layers, "final", {}, author="ann")
    np.testing.assert_array_equal(shown(store).array, with_marker(partial(LABEL, 1, 5), NOT_LOOKED_AT, 1, 5).array)
    one = tmp_path / "one.seg.nrrd"
    array = partial(LABEL, 4).array
    write_label(one, Volume(np.where(array == NOT_LOOKED_AT, np.uint8(4), array), LABEL.affine), labels)
    store.save("a", one, "final", {}, author="ann")
    np.testing.assert_array_equal(shown(store).array, partial(LABEL, 4).array)


def test_a_whole_label_is_a_new_version_and_says_nothing_of_slices(store, save):
    save(only(LABEL, 2, 3), looked_at=[[2, 3]])
    # What a client got to know of the version before may come back with the next one.
    version = save(LABEL, looked_at_slices=2, slices=8)
    assert version.number == 2
    assert version.info["label_info"] == NAMES
    assert not {"looked_at_slices", "slices"} & version.info.keys()
    np.testing.assert_array_equal(shown(store).array, LABEL.array)


def test_a_marker_that_nobody_drew_leaves_the_label_whole(store, save):
    assert "slices" not in save(LABEL, WITH_MARKER).info


@pytest.mark.parametrize(
    ("ranges", "reason"),
    [
        ([], "no slice of the label was looked at, so it says nothing; mark the slices that you judged"),
        ([[2, 8]], "looked_at names the axial slices 2 to 8, but the image has those from 0, nearest the feet, to 7"),
        (
            "2-3",
            "looked_at must be ranges of axial slices such as [[41, 48], [90, 95]], the lower end first, not '2-3'",
        ),
    ],
)
def test_what_can_not_be_meant_is_refused_and_kept_aside(store, save, ranges, reason):
    with pytest.raises(BadInputError) as caught:
        save(LABEL, looked_at=ranges)
    assert str(caught.value).startswith(f"{reason} (what was sent is kept as labels/refused/a/")


def test_what_was_painted_where_nobody_looked_is_refused(store, save, tmp_path):
    write_label(tmp_path / "automatic.nii.gz", LABEL)
    store.labels.keep_presegmentation("a", "ann", "m", tmp_path / "automatic.nii.gz")
    corrected = with_marker(LABEL, 2, 2, 3)
    with pytest.raises(BadInputError) as caught:
        save(with_marker(LABEL, 2, 1, 2, 4, 5, 6), looked_at=[[2, 3]])
    assert str(caught.value).startswith(
        "something was painted in the axial slices 1, 4 to 6 (0 is nearest the feet), outside the slices that were "
        "looked at, and would be lost; mark them as looked at, too, or erase it there (what was sent is kept as "
    )
    assert save(corrected, looked_at=[[2, 3]]).info["looked_at_slices"] == 2
    # What the model made is no work of hers, but it is of somebody who didn't start from it.
    with pytest.raises(BadInputError, match=r"^something was painted in the axial slices 0 to 1, 4 to 7 "):
        save(corrected, looked_at=[[2, 3]], author="bob")
    with pytest.raises(BadInputError, match=r"^something was painted in the axial slice 7 "):
        save(only(LABEL, 2, 7), looked_at=[[2, 3]], author="bob")
    # Nor is what is there already, or what was erased.
    save(LABEL)
    save(only(corrected, *range(1, 8)), looked_at=[[2, 3]], author="bob")
    np.testing.assert_array_equal(shown(store).array, partial(corrected, 2, 3).array)


def test_what_lies_under_a_marker_counts_as_not_looked_at(store, save):
    axial = only(LABEL, 2, 5).axial().copy()
    axial[2] = 3  # who fills the slice paints over liver and tumor
    axial[5, 0, 0] = 3
    version = save(LABEL.with_axial(axial), WITH_MARKER)
    assert version.info["looked_at_slices"] == 1
    kept = partial(LABEL, 5).axial().copy()
    kept[5, 0, 0] = NOT_LOOKED_AT
    np.testing.assert_array_equal(shown(store).axial(), kept)


def test_what_the_next_one_gets_can_be_sent_back(store, save):
    save(only(LABEL, 2, 3), looked_at=[[2, 3]])
    version = save(shown(store), PARTLY, author="bob")
    assert (version.info["looked_at_slices"], version.change) == (2, 0.0)
    np.testing.assert_array_equal(shown(store).array, partial(LABEL, 2, 3).array)
    # By the values alone, too, and with more slices than before.
    version = save(with_marker(shown(store), 3, 5), [*WITH_MARKER, PARTLY[2]])
    assert version.info["looked_at_slices"] == 3
    expected = with_marker(only(LABEL, 2, 3, 5, elsewhere=NOT_LOOKED_AT), NOT_LOOKED_AT, 5).axial().copy()
    expected[5][expected[5] != NOT_LOOKED_AT] = 0
    np.testing.assert_array_equal(shown(store).axial(), expected)
    assert save(shown(store), None).info["looked_at_slices"] == 3


@pytest.mark.parametrize("names", [NAMES, NAMES[:1]])
def test_3d_slicer_gets_a_segment_for_what_nobody_looked_at(folder, store, save, names):
    liver = Volume(np.where(LABEL.array == 1, np.uint8(1), np.uint8(0)), LABEL.affine)
    save(only(liver if len(names) == 1 else LABEL, 2, 3), looked_at=[[2, 3]])
    before = shown(store).array
    with store.ledger.writing() as connection:
        leases.acquire(connection, "a", "bob", strategy=REVIEW, reason="", score=None, seconds=60.0)
    objects = folder.json()["objects"]
    assert "original" not in objects["b"]["labels"]
    loaded = list(objects["a"]["labels"]["original"]["info"]["params"]["label_names"])
    assert loaded == ["liver", "tumor", "not looked at"]
    # 3D Slicer makes the k-th name a segment of the voxels with the value k, and saves it as value k again.
    given = renumbered(shown(store), store.settings.label_indices())
    kept = np.where(given.array <= len(loaded), given.array, np.uint8(0))
    kept[0, 0, 2] = 2
    version = save(
        Volume(kept, given.affine), [{"name": name, "idx": k} for k, name in enumerate(loaded, start=1)], author="bob"
    )
    assert version.info["looked_at_slices"] == 2
    before[0, 0, 2] = 2
    np.testing.assert_array_equal(shown(store).array, before)
    assert "original" not in folder.json()["objects"]["a"]["labels"]  # the lease is over


def test_versions_are_compared_where_both_were_looked_at(store, save, tmp_path):
    write_label(tmp_path / "automatic.nii.gz", Volume(np.roll(LABEL.array, 1, axis=1), LABEL.affine))
    store.labels.keep_presegmentation("a", "ann", "m", tmp_path / "automatic.nii.gz")
    whole, part = save(LABEL), save(LABEL, looked_at=[[2, 3]])
    assert part.against_previous["liver"]["dice"] == 1.0
    assert part.against_previous["liver"]["ml_first"] == part.ml["liver"] < whole.ml["liver"]
    assert (
        0 < part.against_presegmentation["liver"]["changed_ml"] < whole.against_presegmentation["liver"]["changed_ml"]
    )
    elsewhere = save(only(LABEL, 6, 7), looked_at=[[6, 7]], author="eve")
    assert (elsewhere.against_previous, elsewhere.change) == (None, None)
    with pytest.raises(BadInputError, match="no slice was looked at in both labels, so they can't be compared"):
        store.labels.diff("a", "final", 2, 3)
    assert store.labels.diff("a", "final", 1, 3)["tumor"]["dice"] == 1.0


def test_the_history_tells_which_versions_are_partial(store, save):
    save(LABEL)
    whole = report.history_table(store.labels.history("a"))
    assert "looked at" not in whole
    save(LABEL, looked_at=[[2, 3]])
    newest, oldest = store.labels.history("a")
    header, *lines = report.history_table([newest, oldest]).splitlines()
    assert header.endswith("looked at")
    assert [line.split("  ")[-1].strip() for line in lines] == ["2 of 8 slices", "all"]
    told = [report.version_as_json(store.layout, version) for version in (newest, oldest)]
    assert [(one["looked_at_slices"], one["slices"]) for one in told] == [(2, 8), (None, None)]
    with store.ledger.reading() as connection:
        (case,) = versions.counted(connection, "final")
    assert case.looked_at == 0.25


def test_restoring_and_other_numbers_keep_what_nobody_looked_at(store, save, tmp_path):
    array = partial(Volume(np.zeros_like(LABEL.array), LABEL.affine), 2).array
    array[1, 1, 5] = 0  # rubbed out by somebody who had no need to look at all of the slice
    save(Volume(array, LABEL.affine), PARTLY)
    save(LABEL)
    version = store.labels.restore("a", "final", 1, author="eve")
    assert (version.info["looked_at_slices"], version.info["slices"]) == (2, 8)
    save(partial(LABEL, 1, 2), PARTLY)
    store.close()
    turned = {"tumor": Label(index=1), "liver": Label(index=2)}
    store = Store(tmp_path / "studies", Settings(labels=turned))
    swapped = np.array([0, 2, 1, *range(3, 256)], np.uint8)[partial(LABEL, 1, 2).array]
    np.testing.assert_array_equal(shown(store).array, swapped)
    newest = store.labels.history("a")[0]
    assert (newest.source, newest.info["looked_at_slices"]) == ("remapped", 2)
    assert newest.info["label_info"] == [{"name": "tumor", "idx": 1}, {"name": "liver", "idx": 2}, PARTLY[2]]
    store.close()


def test_a_label_put_into_the_folder_by_hand(store, tmp_path):
    write_label(store.layout.shown("a", "final"), partial(LABEL, 0, 7))
    write_label(store.layout.shown("b", "final"), partial(LABEL))
    store.rescan()
    pairs = store.datalist()
    assert [pair["label"] for pair in pairs] == [str(store.layout.shown("a", "final"))]
    (version,) = store.labels.history("a")
    assert (version.source, version.info["looked_at_slices"]) == ("found", 2)
    with store.ledger.reading() as connection:
        assert versions.shown(connection, "b", "final").problem.startswith("no slice of the label was looked at")
    assert store.labels.history("b") == []


def test_a_label_of_monai_labels_own_store_is_adopted(tmp_path):
    folder = tmp_path / "studies"
    write_image(folder / "a.nii.gz", IMAGE)
    write_label(folder / "labels" / "final" / "a.nii.gz", with_marker(LABEL, 3, 4, 5))
    entry = {"info": {"label_info": WITH_MARKER}, "ext": ".nii.gz"}
    table = {"objects": {"a": {"image": {"info": {}, "ext": ".nii.gz"}, "labels": {"final": entry}}}}
    (folder / "datastore_v2.json").write_text(json.dumps(table))
    store = Store(folder, Settings())
    store.rescan()
    store.datalist()
    np.testing.assert_array_equal(shown(store).array, with_marker(partial(LABEL, 4, 5), NOT_LOOKED_AT, 4, 5).array)
    (version,) = store.labels.history("a")
    assert (version.source, version.info["looked_at_slices"]) == ("adopted", 2)
    store.close()


def test_check_and_archives_take_it_as_any_label(store, save, tmp_path):
    save(only(LABEL, 2, 3), looked_at=[[2, 3]])
    assert audit.check(store) == []
    export_archive(store, tmp_path / "all.zip")
    other = Store(tmp_path / "other", Settings())
    write_image(other.layout.studies / "a.nii.gz", IMAGE)
    other.rescan()
    import_archive(other, tmp_path / "all.zip")
    assert other.labels.history("a")[0].info["looked_at_slices"] == 2
    np.testing.assert_array_equal(shown(other).array, partial(LABEL, 2, 3).array)
    assert audit.check(other) == []
    other.close()
