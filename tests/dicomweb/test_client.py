"""A real PACS: listing, fetching, storing."""

import dataclasses
import datetime
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pydicom
import pytest
from openjpeg.utils import encode_array
from pydicom.encaps import encapsulate
from pydicom.uid import CTImageStorage, JPEG2000Lossless, SegmentationStorage, generate_uid

from lib.dicom import read_series
from lib.dicomweb.client import Pacs
from lib.errors import BadInputError, NotFoundError, UnavailableError
from lib.phantom import make_phantom
from lib.volume import Volume
from tests.orthanc import ct_series, new_dataset, orthanc_or_skip

DAY = datetime.date


def uids(series):
    return series[0].StudyInstanceUID, series[0].SeriesInstanceUID


def seg_for(series, referenced=None):
    """Hardly a SEG, but what says which series it is for."""
    seg = new_dataset(SegmentationStorage, series[0].StudyInstanceUID, generate_uid())
    seg.Modality = "SEG"
    item = pydicom.Dataset()
    item.SeriesInstanceUID = referenced or series[0].SeriesInstanceUID
    seg.ReferencedSeriesSequence = [item]
    return seg


def test_a_series_is_listed_with_what_was_asked_for(orthanc):
    series = ct_series(patient="P7")
    orthanc.fill(series)
    (found,) = orthanc.pacs().find_series()
    assert (found.study_uid, found.series_uid) == uids(series)
    assert (found.modality, found.instances, found.description) == ("CT", 6, "portal venous")
    assert (found.study_date, found.patient_id) == ("20240501", "P7")
    assert "P7" not in repr(found)
    assert orthanc.pacs().series(*uids(series)) == found
    assert orthanc.pacs().series(series[0].StudyInstanceUID, "1.2.3") is None
    assert orthanc.pacs().series("1.2.3", "1.2.3") is None


def test_listing_by_date_modality_and_study(orthanc):
    old, new = ct_series(study_date="20190101"), ct_series(study_date="20240501")
    orthanc.fill(old, new, [seg_for(new)])

    def found(**filters):
        return sorted(series.series_uid for series in orthanc.pacs().find_series(**filters))

    assert found() == sorted(series[0].SeriesInstanceUID for series in (old, new))
    assert found(first_date=DAY(2024, 5, 1)) == [new[0].SeriesInstanceUID]
    assert found(first_date=DAY(2024, 5, 2)) == []
    assert found(last_date=DAY(2024, 4, 30)) == [old[0].SeriesInstanceUID]
    assert found(first_date=DAY(2019, 1, 1), last_date=DAY(2019, 1, 1)) == [old[0].SeriesInstanceUID]
    assert found(study_uid=old[0].StudyInstanceUID) == [old[0].SeriesInstanceUID]
    assert found(modality="SEG", study_uid=old[0].StudyInstanceUID) == []
    assert len(found(modality="SEG", study_uid=new[0].StudyInstanceUID)) == 1


def test_three_hundred_series_come_in_pages(orthanc):
    series = []
    for _ in range(300):
        dataset = new_dataset(CTImageStorage, generate_uid(), generate_uid())
        dataset.Modality = "CT"
        series.append([dataset])
    orthanc.fill(*series)
    found = [one.series_uid for one in orthanc.pacs(page_size=70).find_series()]
    assert sorted(found) == sorted(one[0].SeriesInstanceUID for one in series)
    first = next(orthanc.pacs(page_size=70).find_series())  # without the rest
    assert first.series_uid == found[0]


def test_references_of_segs(orthanc):
    series = ct_series()
    seg, other = seg_for(series), seg_for(series, "1.2.3.4")
    orthanc.fill(series, [seg, other])
    pacs = orthanc.pacs()
    listed = {one.series_uid for one in pacs.find_series("SEG", study_uid=series[0].StudyInstanceUID)}
    assert listed == {seg.SeriesInstanceUID, other.SeriesInstanceUID}
    assert pacs.references(*uids([seg])) == {seg.SOPInstanceUID: {series[0].SeriesInstanceUID}}
    assert pacs.references(*uids([other])) == {other.SOPInstanceUID: {"1.2.3.4"}}
    assert set(pacs.references(*uids(series)).values()) == {frozenset()}


def test_metadata_has_geometry_but_neither_pixels_nor_patient(orthanc):
    series = ct_series()
    orthanc.fill(series)
    found = {str(one.SOPInstanceUID): one for one in orthanc.pacs().metadata(*uids(series))}
    assert len(found) == len(series)
    for dataset in series:
        other = found[dataset.SOPInstanceUID]
        assert np.allclose(other.ImagePositionPatient, dataset.ImagePositionPatient)
        assert not other.get("PixelData")
        assert "PatientName" not in other


def test_a_fetched_series_is_the_volume_that_was_stored(orthanc, tmp_path):
    phantom = make_phantom(3, shape=(48, 40, 9)).image
    series = ct_series(3, shape=(48, 40, 9))
    orthanc.fill(series)
    orthanc.pacs().fetch(*uids(series), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f"{one.SOPInstanceUID}.dcm" for one in series}
    assert np.array_equal(Volume(*read_series(tmp_path)).axial(), phantom.axial())


def test_compressed_slices_come_as_they_were_stored(orthanc, tmp_path):
    series = ct_series(shape=(48, 48, 2))
    packed = []
    for dataset in series:
        packed.append(encode_array(dataset.pixel_array, bits_stored=16))
        dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
        dataset.PixelData = encapsulate([packed[-1]])
        dataset["PixelData"].is_undefined_length = True
    orthanc.fill(series)
    orthanc.pacs().fetch(*uids(series), tmp_path)
    for dataset, stream in zip(series, packed, strict=True):
        found = pydicom.dcmread(tmp_path / f"{dataset.SOPInstanceUID}.dcm")
        assert found.file_meta.TransferSyntaxUID == JPEG2000Lossless
        assert stream in found.PixelData


def test_instances_are_paged_too(orthanc):
    series = ct_series(shape=(16, 16, 7))
    orthanc.fill(series)
    pacs = orthanc.pacs(page_size=3)
    assert pacs.instances(*uids(series)) == sorted(one.SOPInstanceUID for one in series)
    assert pacs.has_instance(*uids(series), series[2].SOPInstanceUID)
    assert not pacs.has_instance(*uids(series), "1.2.3")
    assert not pacs.has_instance("1.2", "1.2", "1.2")


def test_a_series_that_grows_or_goes_is_seen_at_once(orthanc, tmp_path):
    series = ct_series()
    orthanc.fill(series[:4])
    pacs = orthanc.pacs()
    before = pacs.instances(*uids(series))
    orthanc.fill(series[4:])
    assert len(pacs.instances(*uids(series))) == len(before) + 2
    orthanc.delete(series[0].SeriesInstanceUID)
    gone = f"the PACS at 127.0.0.1:{orthanc.port} has no series {series[0].SeriesInstanceUID} in study "
    for ask in (pacs.instances, pacs.metadata, lambda *uids: pacs.fetch(*uids, tmp_path, before)):
        with pytest.raises(NotFoundError, match=gone):
            ask(*uids(series))
    assert pacs.series(*uids(series)) is None
    assert not list(tmp_path.iterdir())


def test_storing_twice_does_no_harm(orthanc, tmp_path):
    seg = seg_for(ct_series())
    del seg.preamble
    pacs = orthanc.pacs()
    pacs.store(seg)
    pacs.store(seg)
    assert pacs.instances(*uids([seg])) == [seg.SOPInstanceUID]
    pacs.fetch(*uids([seg]), tmp_path)
    assert pydicom.dcmread(next(tmp_path.iterdir())).ReferencedSeriesSequence == seg.ReferencedSeriesSequence


def test_what_can_not_be_stored(orthanc):
    pacs = orthanc.pacs()
    seg = seg_for(ct_series())
    del seg.StudyInstanceUID
    with pytest.raises(BadInputError, match="the object can't be stored: it lacks StudyInstanceUID"):
        pacs.store(seg)
    seg = seg_for(ct_series())
    del seg.file_meta.TransferSyntaxUID
    with pytest.raises(BadInputError, match="can't be stored: it can't be written as a DICOM file"):
        pacs.store(seg)
    del seg.file_meta
    with pytest.raises(BadInputError, match="the object can't be stored: it lacks its file meta information"):
        pacs.store(seg)


@pytest.mark.parametrize("uid", ["..", "1..2", "1.2/../3", "", "1" * 65, "1.2?x", "1.2\n", "²"])
def test_what_is_no_uid_never_gets_into_a_url(orthanc, tmp_path, uid):
    pacs = orthanc.pacs()
    for ask in (
        lambda: pacs.instances(uid, "1.2"),
        lambda: pacs.instances("1.2", uid),
        lambda: pacs.fetch("1.2", uid, tmp_path),
        lambda: pacs.metadata(uid, "1.2"),
        lambda: pacs.series("1.2", uid),
        lambda: pacs.has_instance("1.2", "1.2", uid),
        lambda: next(pacs.find_series(study_uid=uid)),
    ):
        with pytest.raises(BadInputError, match="is no DICOM UID; give at most 64 digits and dots"):
            ask()


def test_wrong_logins(orthanc):
    orthanc.pacs().check()
    with pytest.raises(UnavailableError, match=r"HTTP 401\): it wants a login; set LIVERLOOP_PACS_USER and "):
        orthanc.pacs(user="", password="").check()
    with pytest.raises(UnavailableError, match="does not accept the login in LIVERLOOP_PACS_USER") as caught:
        orthanc.pacs(password="wr0ng").check()
    assert "wr0ng" not in str(caught.value)


def test_a_wrong_path(orthanc):
    settings = dataclasses.replace(orthanc.pacs().settings, url=f"{orthanc.api}/dicom")
    with pytest.raises(NotFoundError, match="no DICOMweb service at this address; give the root of its DICOMweb"):
        Pacs(settings).check()


def test_threads_share_a_pacs(orthanc, tmp_path):
    series = [ct_series(seed) for seed in range(4)]
    orthanc.fill(*series)
    pacs = orthanc.pacs()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda one: pacs.instances(*uids(one)), series * 5))
    assert found == [sorted(dataset.SOPInstanceUID for dataset in one) for one in series * 5]


def test_down_and_up_again():
    series = ct_series()
    with orthanc_or_skip() as server:
        server.fill(series)
        pacs = server.pacs(backoff_s=0.001)
        pacs.check()
        server.stop()
        with pytest.raises(UnavailableError) as caught:
            pacs.check()
        assert str(caught.value) == (
            f"the PACS at 127.0.0.1:{server.port} can't be reached (connection refused); see that it runs and that its "
            "address is right, try again"
        )
        server.start()
        assert pacs.instances(*uids(series)) == sorted(one.SOPInstanceUID for one in series)
