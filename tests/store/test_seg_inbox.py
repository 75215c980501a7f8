"""SEGs that other programs stored in a real PACS become versions: each once, none of ours, nothing guessed."""

import json
import multiprocessing
import subprocess
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from lib.dicom_seg.write import Provenance, write_seg
from lib.errors import StorageError
from lib.labels import NOT_LOOKED_AT
from lib.store import events, images, leases, segs
from lib.store.archive import export_archive
from lib.store.archive_import import import_archive
from lib.store.seg_inbox import SegInbox
from lib.store.store import Store
from lib.volume import Volume
from lib.volume_io import read_label, write_label
from tests.dicom_seg.series import code, foreign_seg, make_source, segment
from tests.dicomweb.bad_pacs import BadPacs, says
from tests.store.pacs_site import Site, by_program, content, one_class, two_classes

UNJUDGED = NOT_LOOKED_AT


@pytest.fixture
def source(site):
    return site.images.source(site.id)


def told(site, image_id=None):
    with site.store.ledger.reading() as connection:
        return [event.detail["reason"] for event in events.history(connection, image_id, kind="SEG not taken in")]


def labelled(site, image_id=None):
    with site.store.ledger.reading() as connection:
        return images.get(connection, image_id or site.id).labelled


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_a_seg_of_another_program(site, source, kind):
    label = site.label()
    seg = site.put(two_classes(source, label, kind=kind, ContentCreatorName="Doe^Jane", SeriesDescription="read again"))
    (version,) = site.inbox.look(site.id)
    np.testing.assert_array_equal(site.voxels(version), label.array)
    assert (version.tag, version.number, version.author, version.source) == ("final", 1, "Doe Jane", "pacs")
    assert version.info["seg"] == {
        "sop_uid": seg.SOPInstanceUID, "series_uid": seg.SeriesInstanceUID, "study_uid": seg.StudyInstanceUID,
        "made": "20240601 120000", "description": "read again", "unknown": [], "not_judged": [], "notes": [],
    }  # fmt: skip
    assert site.versions == [version]
    assert labelled(site)
    assert site.store.datalist() == [
        {
            "image": str(site.store.layout.studies / f"{site.id}.nii.gz"),
            "label": str(site.store.layout.shown(site.id, "final")),
        }
    ]
    assert (site.outbox.waiting(), site.inbox.look(site.id)) == ([], [])  # neither sent back nor taken in again
    assert site.status()["taken_in"] == 1


def test_a_seg_of_highdicom_that_names_nobody(site, source):
    label = site.label()
    site.put(write_seg(label, source, site.settings.labels, Provenance("by highdicom", "MANUAL")))
    (version,) = site.inbox.look(site.id)
    np.testing.assert_array_equal(site.voxels(version), label.array)
    assert version.author == "PACS"


def test_a_seg_of_dcmqi(site, source, tmp_path):
    label = site.label()
    (tmp_path / "images").mkdir()
    for number, one in enumerate(site.series[0]):
        one.save_as(tmp_path / "images" / f"{number}.dcm", write_like_original=False)
    write_label(tmp_path / "label.nrrd", label)
    tissue = {"CodeValue": "85756007", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Tissue"}
    attributes = [
        {
            "labelID": value,
            "SegmentLabel": name,
            "SegmentDescription": name,
            "SegmentAlgorithmType": "MANUAL",
            "SegmentedPropertyCategoryCodeSequence": tissue,
            "SegmentedPropertyTypeCodeSequence": tissue,
        }
        for value, name in ((2, "Tumour"), (1, "Leber"))
    ]
    template = {
        "ContentCreatorName": "Reader1", "SeriesDescription": "dcmqi", "SeriesNumber": "300", "InstanceNumber": "1",
        "ContentLabel": "SEGMENTATION", "ContentDescription": "x", "segmentAttributes": [attributes],
    }  # fmt: skip
    (tmp_path / "meta.json").write_text(json.dumps(template))
    command = [
        Path(sys.executable).parent / "itkimage2segimage", "--inputImageList", tmp_path / "label.nrrd",
        "--inputDICOMDirectory", tmp_path / "images", "--outputDICOM", tmp_path / "seg.dcm",
        "--inputMetadata", tmp_path / "meta.json",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, text=True)
    site.put(pydicom.dcmread(tmp_path / "seg.dcm"))
    (version,) = site.inbox.look(site.id)
    np.testing.assert_array_equal(site.voxels(version), label.array)
    assert (version.author, version.tag) == ("Reader1", "final")


def test_what_we_sent_is_not_taken_in_and_comes_back_to_the_voxel_elsewhere(site, orthanc, tmp_path):
    array = site.label().array.copy()
    array[:, :, 1] = UNJUDGED
    version = site.save(Volume(array, source_affine(site)))
    site.outbox.push()
    assert (site.inbox.look(site.id), site.inbox.look_through()) == ([], [])
    # Another LiverLoop on the same PACS, which knows nothing of it.
    other = Store(tmp_path / "other", site.settings)
    image = f"{site.id}.nii.gz"
    (tmp_path / "other" / image).write_bytes((site.store.layout.studies / image).read_bytes())
    other.look()
    (taken,) = site.new_inbox(other).look(site.id)
    np.testing.assert_array_equal(site.voxels(version), array)
    np.testing.assert_array_equal(read_label(other.labels.path(taken)).array, array)
    assert (taken.author, taken.tag, taken.info["looked_at_slices"], taken.info["slices"]) == ("ann", "final", 4, 5)
    assert taken.info["seg"]["description"] == "LiverLoop final v1"
    other.close()


def source_affine(site):
    return site.images.source(site.id).grid.affine


def test_two_segs_come_by_the_time_they_were_made(site, source):
    later = site.put(two_classes(source, site.label(1), made="150000"))
    sooner = site.put(two_classes(source, site.label(2), made="090000"))
    found = site.inbox.look(site.id)
    assert [one.info["seg"]["sop_uid"] for one in found] == [sooner.SOPInstanceUID, later.SOPInstanceUID]
    assert [one.number for one in found] == [1, 2]
    np.testing.assert_array_equal(site.voxels(site.history()[-1]), site.label(1).array)


def test_an_imported_seg_is_the_newest_and_the_others_stay(site, source):
    ours = site.save(site.label(1))
    site.put(two_classes(source, site.label(2), made="000000"))  # older, and yet the last to come
    (version,) = site.inbox.look(site.id)
    assert [(one.number, one.source) for one in site.history()] == [(1, "client"), (2, "pacs")]
    np.testing.assert_array_equal(site.voxels(ours), site.label(1).array)
    assert version.against_previous is not None
    assert [one.number for one in site.outbox.waiting()] == [1]


def test_only_a_tumor_leaves_the_rest_unjudged(site, source):
    """Where nobody looked for the liver, what is no tumor may be liver or not."""
    tumor = site.label().array == 2
    site.put(one_class(source, tumor, segment(1, "x", "tumor")))
    (version,) = site.inbox.look(site.id)
    np.testing.assert_array_equal(site.voxels(version), np.where(tumor, 2, UNJUDGED))
    assert (version.tag, version.voxels) == ("final", {"liver": 0, "tumor": int(tumor.sum())})
    assert version.info["seg"]["not_judged"] == ["liver"]
    assert version.info["seg"]["notes"] == ["it has no segment liver, so where that could be counts as not looked at"]


def test_only_a_liver_is_to_begin_from(site, source):
    """A tumor could be anywhere in it: nothing to train on, but a start for who looks for tumors."""
    liver = site.label().array > 0
    site.put(one_class(source, liver, segment(7, "Leber")))
    (version,) = site.inbox.look(site.id)
    np.testing.assert_array_equal(site.voxels(version), liver.astype(np.uint8))
    assert (version.tag, labelled(site), site.store.datalist()) == ("original", False, [])
    assert version.info["seg"]["not_judged"] == ["tumor"]
    assert "an empty one says that there is none" in version.info["seg"]["notes"][0]


def test_an_empty_segment_says_that_there_is_none(site, source):
    label = site.label(values=(0, 1))
    site.put(two_classes(source, label))
    (version,) = site.inbox.look(site.id)
    np.testing.assert_array_equal(site.voxels(version), label.array)
    assert (version.tag, version.info["seg"]["not_judged"], labelled(site)) == ("final", [], True)


def test_a_looked_at_segment_tells_the_slices_that_count(site, source):
    label = site.label()
    array = label.array.copy()
    array[:, :, 2:] = 0
    marks = np.zeros(array.shape, np.uint8)
    marks[0, 0, :2] = marks[1:3, 1:3, 0] = 1  # also over what was painted
    items = [segment(1, "tumor", "tumor"), segment(2, "liver", "liver"), segment(3, "looked at")]
    masks = {1: array == 2, 2: array == 1, 3: marks}
    site.put(foreign_seg(source, items, masks, **content("120000")))
    (version,) = site.inbox.look(site.id)
    expected = np.where((marks > 0) & (array == 0), UNJUDGED, array)
    expected[:, :, 2:] = UNJUDGED
    np.testing.assert_array_equal(site.voxels(version), expected)
    assert (version.info["looked_at_slices"], version.info["slices"]) == (2, 5)


def test_what_was_painted_where_nobody_looked_is_refused_and_kept(site, source):
    label = site.label()
    marks = np.zeros(label.shape, np.uint8)
    marks[0, 0, 0] = 1
    items = [segment(1, "tumor", "tumor"), segment(2, "liver", "liver"), segment(3, "looked at")]
    masks = {1: label.array == 2, 2: label.array == 1, 3: marks}
    site.put(foreign_seg(source, items, masks, **content("120000")))
    assert site.inbox.look(site.id) == []
    (reason,) = told(site, site.id)
    assert "outside the slices that were looked at" in reason
    assert "labels/refused/" in reason


def test_what_programs_made_alone_is_to_begin_from(site, source):
    label = site.label()
    site.put(two_classes(source, label, by="AUTOMATIC"))
    (version,) = site.inbox.look(site.id)
    np.testing.assert_array_equal(site.voxels(version), label.array)
    assert (version.tag, labelled(site), site.store.datalist()) == ("original", False, [])
    assert site.outbox.waiting() == []


def test_what_somebody_corrected_counts(site, source):
    label = site.label()
    items = [by_program(segment(1, "a", "tumor"), "SEMIAUTOMATIC"), by_program(segment(2, "b", "liver"), "AUTOMATIC")]
    site.put(foreign_seg(source, items, {1: label.array == 2, 2: label.array == 1}, **content("120000")))
    assert [one.tag for one in site.inbox.look(site.id)] == ["final"]


def test_unknown_segments_are_named_with_the_version(site, source):
    label = site.label()
    items = [segment(1, "a", "tumor"), segment(2, "b", "liver"), segment(3, "Galle", "gallbladder")]
    masks = {1: label.array == 2, 2: label.array == 1, 3: label.array == 0}
    site.put(foreign_seg(source, items, masks, **content("120000")))
    (version,) = site.inbox.look(site.id)
    assert version.info["seg"]["unknown"] == ["3 'Galle' (Gallbladder, 28231008 SCT)"]
    np.testing.assert_array_equal(site.voxels(version), label.array)


def unusable(name, site, source):
    mask = site.label().array == 1
    kidney = segment(1, "tumor", "tumor", region=code("64033007", "Kidney"))
    match name:
        case "unknown segment only":
            return one_class(source, mask, segment(1, "Galle", "gallbladder")), "has no segment of ['liver', 'tumor']"
        case "tumor of another organ":
            return one_class(source, mask, kidney), "has no segment of ['liver', 'tumor'], only 1 'tumor'"
        case "nothing in it":
            return one_class(source, mask & False, segment(1, "x", "tumor")), "no voxel of the SEG tells a class"
        case "another grid":
            other = make_source(shape=(9, 8, 5))
            seg = one_class(other, np.ones((9, 8, 5)), segment(1, "x", "liver"))
            seg.FrameOfReferenceUID = source.frame_of_reference_uid
            seg.ReferencedSeriesSequence[0].SeriesInstanceUID = source.series_uid
            return seg, "has frames of 8x9"
        case "damaged":
            seg = one_class(source, mask, segment(1, "x", "liver"))
            seg.PixelData = seg.PixelData[:4]
            return seg, "holds 4 bytes; store it again"
        case "unknown series":
            seg = one_class(source, mask, segment(1, "x", "liver"))
            seg.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3.4"
            return seg, "the SEG was made for the series 1.2.3.4, which is not among the images here"
    raise AssertionError(name)


@pytest.mark.parametrize(
    "name",
    ["unknown segment only", "tumor of another organ", "nothing in it", "another grid", "damaged", "unknown series"],
)
def test_what_can_not_be_used_is_told_once(site, source, name, monkeypatch):
    seg, reason = unusable(name, site, source)
    site.put(seg)
    assert site.inbox.look(site.id) == []
    (found,) = told(site)
    assert reason in found
    assert site.row(seg).problem == found == site.status()["last_error"]
    assert site.status()["not_taken_in"] == 1
    monkeypatch.setattr(site.pacs, "fetch", lambda *_: pytest.fail("fetched again"))
    assert (site.inbox.look(site.id), site.inbox.look_through(), len(told(site))) == ([], [], 1)
    assert (site.store.datalist(), labelled(site)) == ([], False)
    # What a person stores anew is another object.
    monkeypatch.undo()
    site.put(two_classes(source, site.label()))
    assert [one.tag for one in site.inbox.look(site.id)] == ["final"]


def test_a_seg_that_comes_before_its_series(orthanc, tmp_path):
    site = Site(orthanc, tmp_path, 2, same_study=True)
    first, second = site.ids
    path = site.store.layout.studies / f"{second}.nii.gz"
    aside = path.rename(tmp_path / "aside")
    site.store.look()
    label = site.label(image_id=second)
    seg = site.put(two_classes(site.images.source(second), label), second)
    assert site.inbox.look(first) == []
    assert site.row(seg).image_id == second
    aside.rename(path)
    site.store.look()
    assert [one.image_id for one in site.inbox.look(second)] == [second]
    site.store.close()


def test_segs_of_the_images_of_one_study(orthanc, tmp_path):
    site = Site(orthanc, tmp_path, 2, same_study=True)
    first, second = site.ids
    site.put(two_classes(site.images.source(first), site.label(1, image_id=first)), first)
    seg = site.put(two_classes(site.images.source(second), site.label(2, image_id=second)), second)
    site.images.headers.pop(second)  # as if it was never fetched
    fetches = site.images.fetches
    assert [one.image_id for one in site.inbox.look(first)] == [first]
    assert (site.images.fetches, site.row(seg).problem, told(site)) == (fetches, None, [])  # a request doesn't wait
    assert [one.image_id for one in site.inbox.look_through()] == [second]
    assert site.images.fetches == fetches + 1
    assert site.inbox.look(second) == []
    site.store.close()


def test_a_seg_that_names_no_series(orthanc, tmp_path):
    site = Site(orthanc, tmp_path, 2, same_study=True)
    first, second = site.ids
    label = site.label(image_id=second)
    seg = two_classes(site.images.source(second), label)
    del seg.ReferencedSeriesSequence
    site.put(seg, second)
    assert [one.image_id for one in site.inbox.look(first)] == [second]
    both = deepcopy(seg)
    both.SOPInstanceUID = both.SeriesInstanceUID = generate_uid()
    both.file_meta.MediaStorageSOPInstanceUID = both.SOPInstanceUID
    for group in both.PerFrameFunctionalGroupsSequence:
        del group.DerivationImageSequence
    site.images.headers[first] = deepcopy(site.images.headers[second])  # two phases of one scan
    for header in site.images.headers[first]:
        header.SeriesInstanceUID = first
    site.put(both, second)
    assert site.inbox.look(first) == []
    assert "fits several series" in told(site)[0]
    site.store.close()


def test_a_deleted_series(site, source, orthanc):
    seg = site.put(two_classes(source, site.label()))
    (site.store.layout.studies / f"{site.id}.nii.gz").unlink()
    site.store.look()
    orthanc.delete(site.id)
    assert site.inbox.look_through() == []
    assert "which is not among the images here" in site.row(seg).problem
    assert len(told(site)) == 1


class Meeting(Store):
    """Both servers have read the SEG before either saves it."""

    barrier = None

    def save(self, *arguments, **options):
        self.barrier.wait(60)
        return super().save(*arguments, **options)


def look_as_another_server(site, barrier, counts):
    store = Meeting(site.folder / "studies", site.settings)
    store.barrier = barrier
    counts.put(len(SegInbox(store, site.pacs, site.images).look(site.id)))
    store.close()


def test_two_servers_take_a_seg_in_once(site, source):
    site.put(two_classes(source, site.label()))
    forked = multiprocessing.get_context("fork")
    barrier, counts = forked.Barrier(2), forked.Queue()
    both = [forked.Process(target=look_as_another_server, args=(site, barrier, counts)) for _ in range(2)]
    for one in both:
        one.start()
    assert sorted(counts.get(timeout=60) for _ in both) == [0, 1]
    for one in both:
        one.join()
    assert [one.number for one in site.history()] == [1]
    files = [path for path in site.store.layout.versions.rglob("*") if path.is_file()]
    assert len(files) == 1  # what came second left nothing behind


def test_who_works_on_the_image_keeps_it(site, source):
    with site.store.ledger.writing() as connection:
        leases.acquire(connection, site.id, "ann", strategy="random", reason="", score=None, seconds=600)
    site.put(two_classes(source, site.label(1), ContentCreatorName="bob"))
    assert len(site.inbox.look(site.id)) == 1
    with site.store.ledger.reading() as connection:
        assert leases.of_image(connection, site.id).client_id == "ann"
    site.save(site.label(2))
    assert [(one.author, one.source) for one in site.history()] == [("bob", "pacs"), ("ann", "client")]
    np.testing.assert_array_equal(site.voxels(site.history()[-1]), site.label(2).array)
    with site.store.ledger.reading() as connection:
        assert leases.of_image(connection, site.id) is None


def test_who_saves_in_another_viewer_has_submitted(site, source):
    with site.store.ledger.writing() as connection:
        leases.acquire(connection, site.id, "ann", strategy="random", reason="", score=None, seconds=600)
    site.put(two_classes(source, site.label(1), ContentCreatorName="ann"))
    site.inbox.look(site.id)
    with site.store.ledger.reading() as connection:
        assert leases.of_image(connection, site.id) is None


def test_a_withdrawn_label_does_not_come_back(site, source):
    site.put(two_classes(source, site.label()))
    site.inbox.look(site.id)
    site.store.labels.withdraw(site.id, "final", author="ann")
    assert (site.inbox.look(site.id), site.inbox.look_through(), labelled(site)) == ([], [], False)
    site.put(two_classes(source, site.label(1)))
    assert [one.number for one in site.inbox.look(site.id)] == [2]


def test_a_ledger_from_an_archive_takes_nothing_in_again(site, source, tmp_path):
    ours = site.save(site.label(1))
    site.outbox.push()
    seg = site.put(two_classes(source, site.label(2)))
    site.inbox.look(site.id)
    export_archive(site.store, tmp_path / "all.zip")
    other = Store(tmp_path / "other", site.settings)
    image = f"{site.id}.nii.gz"
    (tmp_path / "other" / image).write_bytes((site.store.layout.studies / image).read_bytes())
    other.look()
    import_archive(other, tmp_path / "all.zip")
    assert site.new_inbox(other).look(site.id) == []
    with other.ledger.reading() as connection:
        rows = segs.known(connection, [segs.uids_of(ours)[1], seg.SOPInstanceUID])
        assert segs.unsent(connection) == []
    assert {row.direction for row in rows.values()} == {"sent", "found"}
    assert len(other.labels.history(site.id)) == 2
    other.close()


def test_one_seg_replaced_by_another_in_its_series(site, source, orthanc):
    first = site.put(two_classes(source, site.label(1)))
    site.inbox.look(site.id)
    orthanc.delete(first.SOPInstanceUID)
    site.put(two_classes(source, site.label(2), SeriesInstanceUID=first.SeriesInstanceUID))
    assert [one.number for one in site.inbox.look(site.id)] == [2]


def test_a_seg_added_to_the_series_of_ours(site, source):
    site.save(site.label(1))
    site.outbox.push()
    (ours,) = site.in_pacs()
    site.put(two_classes(source, site.label(2), SeriesInstanceUID=ours.SeriesInstanceUID))
    assert [one.source for one in site.inbox.look(site.id)] == ["pacs"]


def test_a_study_is_asked_for_once_in_a_while(site, source, monkeypatch):
    asked = []
    inbox = site.new_inbox(every_s=60)
    pacs, find = inbox._impatient, inbox._impatient.find_series
    monkeypatch.setattr(pacs, "find_series", lambda *given, **named: asked.append(1) or find(*given, **named))
    for _ in range(3):
        inbox.look(site.id)
    assert len(asked) == 1


def test_a_pacs_that_is_down_holds_nobody_up(site, source, orthanc, caplog):
    inbox = site.new_inbox(quiet_s=60)
    orthanc.stop()
    try:
        assert (inbox.look(site.id), inbox.look(site.id)) == ([], [])
        assert sum("can't be looked for now" in one.getMessage() for one in caplog.records) == 1
    finally:
        orthanc.start()
    site.put(two_classes(source, site.label()))
    assert inbox.look(site.id) == []  # not asked yet
    assert len(site.inbox.look(site.id)) == 1


def test_who_asks_for_an_image_does_not_wait_for_what_is_fetched_in_the_background(site, source, monkeypatch):
    """Such as another CT of the study for one of its SEGs."""
    site.put(two_classes(source, site.label()))
    inbox, fetch = site.new_inbox(patience_s=0.1), site.pacs.fetch
    begun, goes_on = threading.Event(), threading.Event()

    def slow(*arguments):
        begun.set()
        goes_on.wait(60)
        fetch(*arguments)

    monkeypatch.setattr(site.pacs, "fetch", slow)
    with ThreadPoolExecutor(2) as pool:
        walk = pool.submit(inbox.look_through)
        assert begun.wait(60)
        asked = pool.submit(inbox.look, site.id)
        try:
            assert asked.result(5) == []
        finally:
            goes_on.set()
        assert len(walk.result()) == 1


def test_who_asks_for_an_image_waits_for_no_second_try(site):
    with BadPacs(says("", 503)) as bad:
        assert SegInbox(site.store, bad.pacs(retries=3), site.images).look(site.id) == []
        assert len(bad.requests) == 1


def test_an_image_that_nobody_knows(site, caplog):
    assert site.inbox.look("1.2.3") == []
    assert site.inbox.look("1\n2026 WARNING forged" + "x" * 10_000) == []
    assert all("\n" not in one.getMessage() and len(one.getMessage()) < 500 for one in caplog.records)


def test_one_series_that_can_not_be_fetched_keeps_no_other_out(site, source, monkeypatch):
    spoiled = site.put(two_classes(source, site.label(1), made="090000"))
    site.put(two_classes(source, site.label(2), made="100000"))
    fetch = site.pacs.fetch

    def fail(study_uid, series_uid, folder):
        if series_uid == spoiled.SeriesInstanceUID:
            raise zlib.error
        fetch(study_uid, series_uid, folder)

    monkeypatch.setattr(site.pacs, "fetch", fail)
    (version,) = site.inbox.look(site.id)
    np.testing.assert_array_equal(site.voxels(version), site.label(2).array)
    assert site.row(spoiled).problem == "an unexpected fault (error); look into the server's log"
    assert site.row(spoiled).next_try_at is not None


def test_a_seg_that_is_too_large_is_not_read(site, source, monkeypatch):
    monkeypatch.setattr("lib.store.seg_inbox._MOST_BYTES", 100)
    seg = site.put(two_classes(source, site.label()))
    assert site.inbox.look(site.id) == []
    assert site.row(seg).problem == "the SEG has 0.0 GiB; store each structure as a SEG of its own"


def test_a_full_disk_is_no_fault_of_the_seg(site, source, monkeypatch):
    site.put(two_classes(source, site.label()))

    def full(*_, **__):
        raise StorageError("the disk is full")

    monkeypatch.setattr(site.store, "save", full)
    assert site.inbox.look(site.id) == []
    monkeypatch.undo()
    assert (told(site), len(site.inbox.look(site.id))) == ([], 1)


def test_studies_without_an_image_are_left_alone(site, source, monkeypatch):
    seg = one_class(source, site.label().array == 1, segment(1, "x", "liver"))
    site.put(seg)
    site.images.studies_of.clear()
    monkeypatch.setattr(site.pacs, "fetch", lambda *_: pytest.fail("fetched"))
    assert (site.inbox.look_through(), site.rows(seg)) == ([], {})


def test_two_requests_at_once_take_a_seg_in_once(site, source):
    site.put(two_classes(source, site.label()))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: site.inbox.look(site.id), range(4)))
    assert sorted(map(len, found)) == [0, 0, 0, 1]
    assert len(site.history()) == 1
