"""Other faults around a PACS: deleted series, a full disk, two servers, logins, and SEGs of other programs."""

import contextlib
import time

import psutil
import pytest

from lib.dicomweb.settings import TOKEN
from tests.faulty_pacs import FaultyPacs
from tests.loop.faulty_site import CONF, VOLUME, FaultySite, exchange, listed, told
from tests.loop.running_server import MODEL, RunningServer, wait_until
from tests.store.small_disk import SmallDisk

pytestmark = pytest.mark.server

BEARER = "t0ken-of-ours"
TRAINING = {
    "training.max_epochs": 1,
    "training.patch_size": 32,
    "training.slices_per_case": 2,
    "training.threads": 1,
    "training.cross_validate_below": 0,
    "training.by_itself.after_labels": 1,
    "training.by_itself.minutes_apart": 0,
    "training.by_itself.niceness": 0,
}


def test_a_deleted_series_is_told_and_its_labels_and_segs_do_no_harm(site, pacs, orthanc):
    deleted, labelled, *rest = site.series
    with site.server() as server:
        listed(server, 4)
        anna = server.client("anna")
        for image_id in (deleted, labelled):
            assert server.infer(image_id, VOLUME).status == 200
        pacs.down()
        site.submit(server, deleted, "waits for the PACS")
        orthanc.delete(deleted)
        # A SEG of another program that refers to it, in the study of a series that is there.
        stray = site.seg(deleted, "stray")
        for keyword in ("StudyInstanceUID", "PatientID", "PatientName"):
            setattr(stray, keyword, site.series[labelled][0][keyword].value)
        orthanc.fill([stray])
        pacs.works()
        words = f"the PACS at {pacs.name} no longer has the series {deleted}; it was deleted or moved"
        wait_until(lambda: server.infer(deleted, VOLUME).status == 404, "the deletion", 0.1)
        assert told(lambda: anna.infer(MODEL, deleted, VOLUME)) == (404, words)
        assert anna.infer(MODEL, labelled, VOLUME)[1]["model_version"]  # the study with the stray SEG
        wait_until(lambda: exchange(server)["not_taken_in"] == 1, "the stray SEG", 0.05)
        site.submit(server, labelled, "another")
        wait_until(lambda: exchange(server)["sent"] == 1, "the other label", 0.05)
        # What was made of the deleted one stays, and nothing of it goes to the PACS.
        assert exchange(server)["refused"] == exchange(server)["waiting"] == 1
        (version,) = server.ask("GET", f"/ledger/images/{deleted}/versions?tag=final").reason
        assert (version["author"], version["number"]) == ("anna", 1)
        status, reason = told(lambda: site.submit(server, deleted, "later"))
        assert status == 404
        assert reason.startswith(f"{words} (what was sent is kept as labels/refused/{deleted}/")
        given = {server.client(f"annotator {n}").next_sample("random", {})["id"] for n in range(2)}
        assert given == set(rest)
    assert site.in_pacs() == [(deleted, ""), (labelled, "LiverLoop final v1")]
    assert "Traceback" not in server.log()


def test_a_full_disk_is_told_and_work_goes_on_once_there_is_room(preparation, orthanc, pacs, tmp_path):
    with SmallDisk(tmp_path / "disk", 16) as disk:
        site = FaultySite(preparation, orthanc, pacs, tmp_path)
        site.working = disk.folder / "working"
        with site.server() as server:
            listed(server, 4)
            anna, ben = server.client("anna"), server.client("ben")
            mine = anna.next_sample("random", {})["id"]
            away = next(one for one in site.series if one != mine)
            disk.fill()
            full = f"can't write into {site.working}: the disk is full; free space or choose another folder"
            assert told(lambda: anna.infer(MODEL, away, VOLUME)) == (507, full)
            for ask in (lambda: site.submit(server, mine, "label"), lambda: ben.next_sample("random", {})):
                status, reason = told(ask)
                assert status == 507
                assert "the disk is full; free space" in reason
            assert anna.infer(MODEL, mine, VOLUME)[1]["model_version"]
            disk.make_room()
            site.submit(server, mine, "label")
            assert server.infer(away, VOLUME).status == 200
            assert ben.next_sample("random", {})["id"] != mine
            wait_until(lambda: exchange(server)["sent"] == 1, "the label in the PACS", 0.05)
        assert "Traceback" not in server.log()


def test_two_servers_on_one_pacs_and_working_folder(site, pacs):
    with site.server() as first, site.server() as second:
        for server in (first, second):
            listed(server, 4)
        one = first.client("anna").next_sample("random", {})["id"]
        other = second.client("ben").next_sample("random", {})["id"]
        assert one != other
        pacs.down()
        site.submit(first, one, "of the first", "anna")
        site.submit(second, other, "of the second", "ben")
        site.submit(second, one, "corrected", "ben")
        wait_until(lambda: exchange(first)["waiting"] == 3, "the labels in the ledger", 0.05)
        pacs.works()
        wait_until(lambda: exchange(first)["sent"] == 3, "the labels in the PACS", 0.05)
        orthanc = site.orthanc
        orthanc.fill([site.seg(one, "another program")])
        for server in (first, second):
            server.infer(one, VOLUME)
        wait_until(lambda: exchange(second)["taken_in"] == 1, "the SEG", 0.05)
        time.sleep(2.5)  # both have looked at new studies again
        assert exchange(second)["taken_in"] == 1
        versions = second.ask("GET", f"/ledger/images/{one}/versions?tag=final").reason
        assert [version["author"] for version in versions] == ["PACS", "ben", "anna"]
    assert sorted(site.in_pacs()) == sorted(
        [(one, "LiverLoop final v1"), (other, "LiverLoop final v1"), (one, "LiverLoop final v2"), (one, "")]
    )
    for server in (first, second):
        assert "Traceback" not in server.log()


def test_a_seg_of_another_program_counts_at_the_next_request_and_no_login_is_told(warm, preparation, orthanc, tmp_path):
    with FaultyPacs(orthanc, token=BEARER) as pacs:
        site = FaultySite(preparation, orthanc, pacs, tmp_path)
        one = next(iter(site.series))
        conf = {**CONF, **TRAINING, "pacs.folder": site.working, "pacs.poll_seconds": 600}
        run, environment = tmp_path / "run", {TOKEN: BEARER}
        with RunningServer(warm, pacs.url, run, app=site.app, conf=conf, environment=environment) as server:
            listed(server, 4)
            assert server.infer(one, VOLUME).status == 200
            time.sleep(2.1)  # a study is asked for once in two seconds
            orthanc.fill([site.seg(one, "another program")])
            begun = time.monotonic()
            assert server.infer(one, VOLUME).status == 200
            wait_until(lambda: exchange(server)["taken_in"] == 1, "the SEG", 0.02)
            assert time.monotonic() - begun < 5
            assert server.client().info()["datastore"]["completed"] == 1
            commands = set(wait_until(lambda: _commands(server.children()), "the training", 0.1))
            last = wait_until(lambda: server.client().info()["retraining"]["last"], "the training in the ledger")
            assert last["by_itself"]
            commands |= _commands([server.process, *server.children()])
            pacs.fails(401)
            answers = [
                server.ask(method, path)
                for method, path in (
                    ("GET", "/info/"), ("GET", "/ledger/status"), ("GET", "/datastore/?output=all"), ("GET", "/logs/"),
                    ("GET", "/proxy/dicom/studies"), ("GET", "/train/"), ("GET", "/openapi.json"),
                    ("POST", "/activelearning/random"), ("POST", "/infer/liver_tumor?image=1.2.3.4"),
                )
            ]  # fmt: skip
        assert [answer.status for answer in answers[-2:]] == [503, 503]
        assert answers[-1].reason == (
            f"the PACS at {pacs.name} refuses us (HTTP 401): it does not accept the token in {TOKEN}; renew it"
        )
        told_of = [server.log(), *map(str, answers), *commands, *(path for _, _, path in pacs.requests)]
        assert not [text for text in told_of if BEARER in text]


def _commands(processes: list[psutil.Process]) -> set[str]:
    found = set()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            found.add(" ".join(process.cmdline()))
    return found
