"""A PACS that is down, slow, refuses, fails or breaks off: what annotators are told, and that no work is lost."""

import time

import pytest

from tests.faulty_pacs import FaultyPacs
from tests.loop.faulty_site import VOLUME, exchange, listed, told
from tests.loop.running_server import MODEL, wait_until

pytestmark = pytest.mark.server

DOWN = "the PACS at {} can't be reached (connection refused); see that it runs and that its address is right, try again"
SLOW = "the PACS at {} does not answer within 1 s; see that it runs and that its address is right, try again"
REFUSES = (
    "the PACS at {} refuses us (HTTP 401): it does not accept the login in LIVERLOOP_PACS_USER and "
    "LIVERLOOP_PACS_PASSWORD; correct them, or the user's rights there"
)
FAILS = "the PACS at {} fails (HTTP 500: Internal Server Error); try again, and look into its log if it stays so"
BREAKS_OFF = "the PACS at {} broke off its answer several times; ask again later, and look into its log"
FAULTS = {
    "down": (FaultyPacs.down, DOWN),
    "slow": (lambda pacs: pacs.slow(10), SLOW),
    "401": (lambda pacs: pacs.fails(401), REFUSES),
    "500": (lambda pacs: pacs.fails(500), FAILS),
    "half a series": (FaultyPacs.breaks_off, BREAKS_OFF),
}


@pytest.mark.parametrize("fault", [name for name in FAULTS if name != "half a series"])
def test_the_first_start_says_why_it_can_not_be(site, pacs, fault):
    cause, words = FAULTS[fault]
    cause(pacs)
    server = site.server()
    server.start()
    wait_until(lambda: server.code() is not None, "the server's end")
    assert server.code() != 0
    assert words.format(pacs.name) in server.log()
    assert not site.working.exists()


def test_faults_in_the_middle_are_told_and_no_work_is_lost(site, pacs):
    with site.server() as server:
        listed(server, 4)
        anna, ben, carl = (server.client(name) for name in ("anna", "ben", "carl"))
        mine = anna.next_sample("random", {})["id"]
        site.submit(server, mine, "before")
        wait_until(lambda: exchange(server)["sent"] == 1, "the first label in the PACS", 0.05)
        fetched = ben.next_sample("random", {})["id"]
        free(server, fetched)
        away = next(one for one in site.series if one not in {mine, fetched})
        for fault, (cause, words) in FAULTS.items():
            cause(pacs)
            reason = words.format(pacs.name)
            assert told(lambda: anna.infer(MODEL, away, VOLUME)) == (503, reason), fault
            # What was fetched can be worked on and is handed out.
            assert anna.infer(MODEL, mine, VOLUME)[1]["model_version"]
            site.submit(server, mine, f"while {fault}")
            assert ben.next_sample("random", {})["id"] == fetched, fault
            if fault != "half a series":  # which takes seconds for each series
                assert told(lambda: carl.next_sample("random", {})) == (503, reason), fault
                wait_until(lambda: exchange(server)["unreachable"], "the fault in the status", 0.05)
                assert exchange(server)["unreachable"] == reason
                assert exchange(server)["waiting"] == 1
            pacs.works()
            wait_until(lambda: exchange(server)["waiting"] == 0, "the label in the PACS", 0.05)
            assert exchange(server)["unreachable"] is None
            free(server, fetched)
            time.sleep(1.2)  # for pacs.poll_seconds after a failure its reason is told again, without asking the PACS
        wait_until(lambda: server.infer(away, VOLUME).status == 200, "the image that was away", 0.05)
    assert site.in_pacs() == [(mine, f"LiverLoop final v{number}") for number in range(1, 2 + len(FAULTS))]
    assert "Traceback" not in server.log()


def test_labels_of_a_server_that_was_killed_come_to_the_pacs_once_and_in_order(site, pacs, orthanc):
    one, other, *_ = site.series
    with site.server() as server:
        listed(server, 4)
        for image_id in (one, other):
            assert server.infer(image_id, VOLUME).status == 200
        site.submit(server, one, "first")
        wait_until(lambda: exchange(server)["sent"] == 1, "the first label in the PACS", 0.05)
        orthanc.stop()  # the real one
        site.submit(server, other, "second", "ben")
        site.submit(server, one, "third")
        wait_until(lambda: exchange(server)["unreachable"], "that it is down", 0.05)
        server.kill()
    with site.server() as server:  # while the PACS is still down
        assert "asked again" in server.log()
        assert exchange(server)["waiting"] == 2
        site.submit(server, one, "fourth")
        assert exchange(server)["waiting"] == 3
        server.kill()
    orthanc.start()
    with site.server() as server:
        wait_until(lambda: exchange(server)["waiting"] == 0, "the labels in the PACS", 0.05)
        assert exchange(server)["sent"] == 4
        assert server.ask("GET", f"/ledger/images/{one}/versions?tag=final").reason[0]["number"] == 3
    names = [f"LiverLoop final v{number}" for number in range(1, 4)]
    assert site.in_pacs() == [(one, names[0]), (other, names[0]), (one, names[1]), (one, names[2])]
    assert len(pacs.asked("POST")) == 4


def test_a_server_killed_while_it_sends_sends_each_label_once(site, pacs):
    one = next(iter(site.series))
    with site.server() as server:
        listed(server, 4)
        assert server.infer(one, VOLUME).status == 200
        pacs.keeps_answers()
        site.submit(server, one, "label")
        wait_until(lambda: site.in_pacs(), "the label in the PACS", 0.02)
        server.kill()
    pacs.works()
    with site.server() as server:
        wait_until(lambda: exchange(server)["sent"] == 1, "the note of it", 0.05)
    assert site.in_pacs() == [(one, "LiverLoop final v1")]
    assert len(pacs.asked("POST")) == 1


def free(server, image_id):
    assert server.ask("DELETE", f"/ledger/leases/{image_id}").status == 200
