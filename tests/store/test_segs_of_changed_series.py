"""SEGs of series that come to a PACS bit by bit, or whose objects are replaced: none is lost, none goes astray."""

import numpy as np
import pytest
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from lib.dicom_seg.source import source_of
from lib.store import pacs_asking, pacs_listing, segs
from lib.store.layout import FINAL
from lib.volume import Volume
from lib.volume_io import read_label, write_label
from tests.dicom_seg.series import segment
from tests.orthanc import ct_series
from tests.store.pacs_site import one_class
from tests.store.pacs_store import pacs_store

SHAPE = (24, 24, 6)
FIRST_PART = {"with a gap": (0, 1, 3, 4, 5), "without its end": (0, 1, 2, 3)}


@pytest.fixture
def pacs(orthanc):
    return orthanc.pacs(retries=0)


@pytest.fixture
def store(pacs, tmp_path, monkeypatch):
    monkeypatch.setattr(pacs_asking, "_FRESH_S", 0)
    monkeypatch.setattr(pacs_asking, "_LISTED_S", 0)
    with pacs_store(tmp_path / "work", pacs) as opened:
        yield opened


def uid(series):
    return str(series[0].SeriesInstanceUID)


def tumor_of(series, slices):
    """A SEG of another program with a tumor in some slices, and what it says."""
    series = sorted(series, key=lambda one: one.ImagePositionPatient[2])
    source = source_of(series)
    mask = np.zeros(source.grid.shape, bool)
    mask[3:9, 4:8, slices] = True
    seg = one_class(source, mask, segment(1, "x", "tumor"))
    header = series[0]
    seg.PatientID, seg.PatientName, seg.StudyInstanceUID = header.PatientID, header.PatientName, header.StudyInstanceUID
    seg.Modality, seg.SeriesInstanceUID = "SEG", generate_uid()
    seg.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return seg, mask


def label_here(store):
    ((_, label),) = [pair.values() for pair in store.datalist()]
    return read_label(label).array == 2


@pytest.mark.parametrize("part", FIRST_PART)
def test_a_seg_that_comes_while_its_series_is_on_its_way(orthanc, pacs, store, part):
    series = ct_series(shape=SHAPE)
    seg, mask = tumor_of(series, slice(1, 6))
    orthanc.fill([series[number] for number in FIRST_PART[part]])
    pacs.store(seg)
    pacs_listing.walk(store.ledger, pacs)
    assert store.segs.inbox.look_through() == []
    assert store.datalist() == []
    orthanc.fill([one for number, one in enumerate(series) if number not in FIRST_PART[part]])
    pacs_listing.walk(store.ledger, pacs)
    (version,) = store.segs.inbox.look_through()
    assert version.tag == FINAL
    np.testing.assert_array_equal(label_here(store), mask)
    assert store.segs.inbox.look_through() == []


def test_a_seg_that_was_taken_in_before_its_series_was_whole_counts_for_the_whole(orthanc, pacs, store):
    series = ct_series(shape=SHAPE)
    seg, mask = tumor_of(series[:4], slice(1, 3))
    orthanc.fill(series[:4])
    pacs.store(seg)
    pacs_listing.walk(store.ledger, pacs)
    assert len(store.segs.inbox.look_through()) == 1
    np.testing.assert_array_equal(label_here(store), mask)
    orthanc.fill(series[4:])
    assert store.datalist() == []  # of another image
    (version,) = store.segs.inbox.look_through()
    assert version.number == 2
    np.testing.assert_array_equal(np.argwhere(label_here(store)), np.argwhere(mask))
    assert store.segs.inbox.look_through() == []


def test_what_was_taken_back_stays_so_when_the_series_changes(orthanc, pacs, store):
    series = ct_series(shape=SHAPE)
    orthanc.fill(series[:4])
    pacs.store(tumor_of(series[:4], slice(1, 3))[0])
    pacs_listing.walk(store.ledger, pacs)
    assert len(store.segs.inbox.look_through()) == 1
    store.labels.withdraw(uid(series), FINAL, author="ann")
    orthanc.fill(series[4:])
    store.images.path(uid(series))
    pacs_listing.walk(store.ledger, pacs)
    assert store.segs.inbox.look_through() == []


def test_a_label_of_other_objects_is_not_sent_as_one_of_these(orthanc, pacs, store, tmp_path):
    """They have the same geometry, so that the SEG would fit."""
    series = ct_series(1, shape=SHAPE)
    orthanc.fill(series)
    grid = store.images.grid(uid(series))
    path = tmp_path / "sent.nii.gz"
    write_label(path, Volume(np.ones(grid.shape, np.uint8), grid.affine))
    info = {"label_info": [{"name": "liver", "idx": 1}]}
    store.save(uid(series), path, FINAL, info, author="ann")
    for one in series:
        orthanc.delete(str(one.SOPInstanceUID))
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    orthanc.fill(series)
    store.images.path(uid(series))
    assert store.segs.outbox.push() == 0
    assert list(pacs.find_series("SEG")) == []
    store.save(uid(series), path, FINAL, info, author="ann")
    assert store.segs.outbox.push() == 1
    assert [one.description for one in pacs.find_series("SEG")] == ["LiverLoop final v2"]
    with store.ledger.reading() as connection:
        assert segs.status(store.ledger, connection)["waiting"] == 0


def test_segs_of_a_study_come_by_their_time_wherever_they_are_listed(orthanc, pacs, store, monkeypatch):
    monkeypatch.setattr("lib.store.seg_inbox._PAGE", 1)
    series = ct_series(shape=SHAPE)
    orthanc.fill(series)
    pacs_listing.walk(store.ledger, pacs)
    for hour, slices in (("150000", slice(0, 2)), ("090000", slice(2, 4)), ("120000", slice(4, 6))):
        seg = tumor_of(series, slices)[0]
        seg.ContentTime = hour
        pacs.store(seg)
    listed = sorted(pacs.find_series("SEG"), key=lambda one: one.series_uid)
    for order in (listed, listed[::-1]):
        store.segs.inbox.look_through(order)
    with store.ledger.reading() as connection:
        made = [one.info["seg"]["made"][-6:] for one in store.labels.history(uid(series))]
        assert segs.status(store.ledger, connection)["taken_in"] == 3
    assert made == ["150000", "120000", "090000"]
