"""Labels on their way to a real PACS: each once, in order, whatever breaks."""

import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
from sqlalchemy import update

from lib.dicom_seg.read import read_seg
from lib.errors import UnavailableError
from lib.labels import NOT_LOOKED_AT
from lib.settings import Settings
from lib.store import events, report, segs
from lib.store.schema import segs as segs_table
from lib.store.store import Store
from lib.volume import Volume
from tests.orthanc import Orthanc, program
from tests.store.pacs_site import Site, until


def descriptions(found):
    return [seg.SeriesDescription for seg in found]


def test_a_label_comes_to_the_pacs_as_it_was_saved(site):
    array = site.label().array.copy()
    array[:, :, 3] = NOT_LOOKED_AT
    version = site.save(Volume(array, site.label().affine))
    assert [one.id for one in site.outbox.waiting()] == [version.id]
    assert site.outbox.push() == 1
    (seg,) = site.in_pacs()
    found = read_seg(seg, site.images.source(site.id), site.settings.labels)
    np.testing.assert_array_equal(found.volume.array, array)
    assert (found.author, found.description) == ("ann", "LiverLoop final v1")
    assert (seg.SeriesInstanceUID, seg.SOPInstanceUID) == segs.uids_of(version)
    saved = time.localtime(version.saved_at)
    assert (seg.ContentDate, seg.ContentTime[:6]) == (time.strftime("%Y%m%d", saved), time.strftime("%H%M%S", saved))
    assert {one.SegmentAlgorithmType for one in seg.SegmentSequence} == {"MANUAL"}
    assert seg.PatientID == "P1"  # so that the PACS files it with the patient
    assert (site.outbox.waiting(), site.outbox.push()) == ([], 0)


def test_a_corrected_label_tells_the_model_also_when_restored(site, tmp_path):
    path = site.folder / "model.nii.gz"
    site.save(site.label(seed=3), tag="original", source="model")
    path.write_bytes(site.store.layout.shown(site.id, "original").read_bytes())
    site.store.labels.keep_presegmentation(site.id, "ann", "v0007", path)
    site.save(site.label())
    site.store.labels.restore(site.id, "final", 1, author="bob")
    assert site.outbox.push() == 2
    for seg in site.in_pacs():
        assert {one.SegmentAlgorithmType for one in seg.SegmentSequence} == {"SEMIAUTOMATIC"}
        assert seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion == "v0007"
    assert descriptions(site.in_pacs()) == ["LiverLoop final v1", "LiverLoop final v2"]


def test_only_final_labels_of_persons_go(site):
    site.save(site.label(1), tag="original", source="model")
    site.save(site.label(2), source="pacs")
    site.save(site.label(3), source="found")
    assert site.outbox.waiting() == []


def test_what_was_saved_while_the_pacs_was_down_comes_in_order_each_once(site, orthanc):
    orthanc.stop()
    try:
        numbers = [site.save(site.label(seed)).number for seed in range(3)]
        with pytest.raises(UnavailableError, match="can't be reached"):
            site.outbox.push()
        assert [one.number for one in site.outbox.waiting()] == numbers == [1, 2, 3]
    finally:
        orthanc.start()
    assert site.outbox.push() == 3
    assert descriptions(site.in_pacs()) == [f"LiverLoop final v{number}" for number in numbers]
    assert len({seg.SOPInstanceUID for seg in site.in_pacs()}) == 3
    with site.store.ledger.reading() as connection:
        stored = events.history(connection, site.id, kind="label stored in the PACS")
    assert [event.detail["version"] for event in stored] == [3, 2, 1]


def test_the_thread_goes_on_when_the_pacs_is_back(site, orthanc, caplog):
    outbox = site.new_outbox(pause_s=0.05, longest_pause_s=0.2)
    orthanc.stop()
    try:
        outbox.start()
        site.save(site.label())
        outbox.wake()
        until(lambda: site.status()["unreachable"])
        assert "can't be reached" in site.status()["unreachable"]
        assert site.status()["waiting"] == 1
    finally:
        orthanc.start()
    until(lambda: not outbox.waiting())
    site.save(site.label(1))
    outbox.wake()
    until(lambda: not outbox.waiting())
    outbox.stop()
    assert site.status() == {
        "pacs": site.pacs.name, "sent": 2, "taken_in": 0, "not_taken_in": 0, "waiting": 0, "refused": 0,
        "unreachable": None, "last_error": None,
    }  # fmt: skip
    told = [one.getMessage() for one in caplog.records if one.name == "lib.store.seg_outbox"]
    assert sum("labels wait for the PACS" in text for text in told) == 1, told


def push_and_die(site):
    """A server that is killed when the PACS has the object and the ledger doesn't know it."""
    store = site.open()
    outbox = type(site.outbox)(store.ledger, store.layout, site.settings, site.pacs, site.images)
    segs.note_sent = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    outbox.push()


def test_a_server_killed_after_sending_sends_no_second_object(site):
    version = site.save(site.label())
    process = multiprocessing.get_context("fork").Process(target=push_and_die, args=(site,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(site.in_pacs()) == 1
    assert [one.id for one in site.outbox.waiting()] == [version.id]
    assert site.inbox.look(site.id) == []  # the PACS has a SEG that no row tells of: it is ours all the same
    assert len(site.history()) == 1
    assert (site.outbox.push(), site.outbox.waiting()) == (0, [])
    (seg,) = site.in_pacs()
    assert site.row(seg).version_id == version.id


def test_the_pacs_is_asked_before_a_label_is_sent_again(site, monkeypatch):
    site.save(site.label())
    monkeypatch.setattr(segs, "note_sent", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        site.outbox.push()
    monkeypatch.undo()
    sent = []
    monkeypatch.setattr(site.pacs, "store", sent.append)
    assert (site.outbox.push(), sent, len(site.in_pacs())) == (1, [], 1)


def test_a_label_that_can_not_be_a_seg_keeps_no_other_from_the_pacs(orthanc, tmp_path):
    site = Site(orthanc, tmp_path, 2)
    bad, good = site.ids
    for header in site.images.headers[bad]:
        del header.FrameOfReferenceUID
    site.save(site.label(), bad)
    site.save(site.label(image_id=good), good)
    outbox = site.new_outbox(refused_s=0.0)
    assert outbox.push() == 1
    assert (len(site.in_pacs(bad)), len(site.in_pacs(good))) == (0, 1)
    assert outbox.push() == 0
    status = site.status()
    assert (status["waiting"], status["refused"]) == (1, 1)
    assert "names no frame of reference" in status["last_error"]
    assert segs.status_text(status).startswith("1 labels stored, 1 waiting (1 refused so far); 0 SEGs taken in")
    with site.store.ledger.reading() as connection:
        told = events.history(connection, bad, kind="label not stored in the PACS")
    assert len(told) == 1  # not at each try
    site.store.close()


def test_a_refused_label_is_tried_more_and_more_rarely(site):
    version = site.save(site.label())
    waits = []
    for _ in range(8):
        with site.store.ledger.writing() as connection:
            segs.note_refused(connection, version, "no", 60.0, 5.0)
        waits.append(next(iter(site.rows(site.outbox.seg_of(version, site.images.source(site.id))).values())))
    assert [round(row.next_try_at - row.at) for row in waits] == [60, 300, 1500, 7500, 37500, 86400, 86400, 86400]
    assert [row.attempts for row in waits] == list(range(1, 9))
    assert site.outbox.push() == 0  # not due
    assert len(site.outbox.waiting()) == 1


class Guarded(Orthanc):
    """Its user may read but not store."""

    forbidding = False

    def _configuration(self):
        script = self.folder / "rights.lua"
        script.write_text(
            "function IncomingHttpRequestFilter(method, uri, ip, username, httpHeaders)\n"
            "  return not (method == 'POST' and string.find(uri, 'dicom%-web'))\nend\n"
        )
        rights = {"LuaScripts": [str(script)]} if self.forbidding else {}
        return {**super()._configuration(), **rights}


@pytest.fixture
def guarded():
    found = program()
    if found is None:
        pytest.skip("no Orthanc with DICOMweb is installed; Debian's packages are orthanc and orthanc-dicomweb")
    with Guarded(found) as server:
        yield server


def test_a_user_without_the_right_to_store(guarded, tmp_path):
    site = Site(guarded, tmp_path, 2)
    for image_id in site.ids:
        site.save(site.label(image_id=image_id), image_id)
    guarded.stop()
    guarded.forbidding = True
    guarded.start()
    outbox = site.new_outbox(refused_s=0.0)
    assert outbox.push() == 0
    status = site.status()
    assert (status["waiting"], status["refused"], status["unreachable"]) == (2, 2, None)
    assert "refuses us (HTTP 403)" in status["last_error"]
    guarded.stop()
    guarded.forbidding = False
    guarded.start()
    assert outbox.push() == 2
    assert site.status()["waiting"] == 0
    site.store.close()


def test_a_withdrawn_label_stays_here_until_there_is_another(site):
    site.save(site.label())
    site.store.labels.withdraw(site.id, "final", author="ann")
    assert (site.outbox.waiting(), site.outbox.push(), site.in_pacs()) == ([], 0, [])
    site.save(site.label(1))
    assert site.outbox.push() == 2
    assert descriptions(site.in_pacs()) == ["LiverLoop final v1", "LiverLoop final v2"]


def test_a_label_of_a_deleted_series_waits(site, orthanc):
    site.save(site.label())
    (site.store.layout.studies / f"{site.id}.nii.gz").unlink()
    site.store.look()
    assert site.outbox.push() == 0
    assert f"no longer has the series {site.id}; it was deleted or moved" in site.status()["last_error"]


def test_a_deletion_that_nobody_has_noticed_yet_keeps_a_label_from_the_pacs(site, orthanc):
    site.save(site.label())
    orthanc.delete(site.id)
    assert site.outbox.push() == 0
    assert site.in_pacs() == []
    assert f"no longer has the series {site.id}; it was deleted or moved" in site.status()["last_error"]
    orthanc.fill(site.series[0])
    with site.store.ledger.writing() as connection:
        connection.execute(update(segs_table).values(next_try_at=0))
    assert site.outbox.push() == 1


def test_a_ledger_without_a_pacs_says_nothing_of_one(tmp_path):
    store = Store(tmp_path, Settings())
    assert "pacs" not in report.status(store)
    store.close()


def test_the_status_for_people(site):
    site.save(site.label())
    lines = report.status_table(report.status(site.store)).splitlines()
    assert lines[-2].split() == ["PACS", site.pacs.name]
    assert lines[-1].split(maxsplit=1)[1] == "0 labels stored, 1 waiting; 0 SEGs taken in, 0 not usable"
