"""A PACS's series in the ledger: any number of them, coming, changing and going."""

import re
import threading
import time

import numpy as np
import psutil
import pytest

from lib.activelearning.next_image import next_sample
from lib.errors import NotFoundError, UnavailableError
from lib.store import images, leases, pacs_listing
from lib.store.events import history
from tests.loop.running_server import wait_until
from tests.orthanc import ct_series
from tests.store.pacs_store import BigPacs, pacs_store


def known(store, image_id=None):
    """Ids of the images that are there, or what is known of one."""
    with store.ledger.reading() as connection:
        return images.names(connection) if image_id is None else images.find(connection, image_id)


def walk(store):
    return pacs_listing.walk(store.ledger, store.images.pacs)


def test_every_series_on_every_page_is_an_image(tmp_path):
    with BigPacs(450) as pacs, pacs_store(tmp_path, pacs.pacs()) as store:
        counts = []
        assert pacs_listing.walk(store.ledger, pacs.pacs(), counts.append) == 450
        assert counts == [200, 400, 450]
        assert known(store) == sorted(pacs.series)
        assert (
            known(store, "1.2.7.1").info.items()
            >= {
                "PatientID": "patient 1.2.7.1",
                "StudyInstanceUID": "1.2.7",
                "SeriesInstanceUID": "1.2.7.1",
                "Modality": "CT",
                "StudyDate": "20240501",
                "StudyDescription": "",
                "SeriesDescription": "",
                "instances": 3,
            }.items()
        )


def test_what_an_orthanc_lists(orthanc, tmp_path):
    first, second = ct_series(1, description="arterial"), ct_series(2, patient="P2")
    report = ct_series(3)
    for slice_ in report:
        slice_.Modality = "MR"
    orthanc.fill(first, second, report)
    with pacs_store(tmp_path, orthanc.pacs()) as store:
        assert walk(store) == 2
        info = known(store, str(first[0].SeriesInstanceUID)).info
        assert (info["SeriesDescription"], info["PatientID"], info["instances"]) == ("arterial", "P1", 6)
        orthanc.delete(str(second[0].SeriesInstanceUID))
        assert walk(store) == 1
        assert known(store) == [str(first[0].SeriesInstanceUID)]


def test_a_series_that_is_gone_and_back_keeps_its_place(tmp_path, ledger_url):
    with BigPacs(5) as pacs, pacs_store(tmp_path / "work", pacs.pacs(), ledger=ledger_url) as store:
        walk(store)
        study = pacs.series.pop("1.2.3.1")
        walk(store)
        assert known(store) == sorted(pacs.series)
        pacs.series["1.2.3.1"] = study
        walk(store)
        assert known(store) == sorted(pacs.series)
        with store.ledger.reading() as connection:
            kinds = [event.kind for event in history(connection, "1.2.3.1")]
        assert kinds == ["image is back", "image vanished"]


def test_what_a_listing_skips_is_asked_for_before_it_counts_as_gone(tmp_path):
    """While series are deleted the pages move, and one that is there is on none of them."""
    with BigPacs(300) as pacs, pacs_store(tmp_path, pacs.pacs()) as store:
        walk(store)
        first = next(iter(pacs.series))

        def delete_one(count):
            if count == 200:
                del pacs.series[first]

        pacs_listing.walk(store.ledger, pacs.pacs(), delete_one)
        assert len(pacs.series) == 299  # of which 298 were listed
        assert set(known(store)) == {first, *pacs.series}  # the first went after it was listed
        assert pacs.asked.count("series") == 1


def test_a_listing_that_breaks_off_makes_nothing_vanish(tmp_path):
    with BigPacs(300) as pacs, pacs_store(tmp_path, pacs.pacs()) as store:
        walk(store)
        pacs.answers = [pacs._answer, lambda request: request.send_error(500)]
        with pytest.raises(UnavailableError):
            walk(store)
        assert len(known(store)) == 300


def test_a_series_that_could_not_be_read_is_tried_again_when_it_has_grown(tmp_path, ledger_url):
    with BigPacs(2) as pacs, pacs_store(tmp_path / "work", pacs.pacs(), ledger=ledger_url) as store:
        walk(store)
        with store.ledger.writing() as connection:
            images.note_problem(connection, "1.2.1.1", "slices are missing")
        walk(store)
        assert known(store, "1.2.1.1").problem == "slices are missing"
        pacs.instances["1.2.1.1"] = 4
        walk(store)
        assert known(store, "1.2.1.1").problem is None
        assert known(store, "1.2.1.1").info["instances"] == 4


def test_what_clients_noted_stays(tmp_path):
    with BigPacs(1) as pacs, pacs_store(tmp_path, pacs.pacs()) as store:
        walk(store)
        with store.ledger.writing() as connection:
            images.note_info(connection, "1.2.1.1", {"note": "mine"})
        pacs.instances["1.2.1.1"] = 9
        walk(store)
        assert known(store, "1.2.1.1").info.items() >= {"note": "mine", "instances": 9}.items()


def test_nobody_waits_for_a_listing(tmp_path):
    """The server starts, and hands out what it knows, while the first page of a large PACS has not come yet."""
    with BigPacs(1000) as pacs:
        pacs.may_list.clear()
        with pacs_store(tmp_path, pacs.pacs(read_timeout_s=60)) as store:
            begun = time.monotonic()
            store.watch()
            assert pacs.listing.wait(30)
            store.images.study_of("1.2.5.1")  # asked for by itself
            with store.ledger.writing() as connection:
                held = leases.acquire(
                    connection, "1.2.5.1", "anna", strategy="first", reason="", score=None, seconds=60
                )
            assert held.image_id == "1.2.5.1"
            assert time.monotonic() - begun < 30  # so long the first page takes
            assert known(store) == ["1.2.5.1"]
            pacs.may_list.set()
            wait_until(lambda: len(known(store)) == 1000, "the listing", 0.02)


def test_a_request_never_lists(tmp_path):
    with BigPacs(400) as pacs, pacs_store(tmp_path, pacs.pacs()) as store:
        walk(store)
        pacs.asked.clear()
        with pytest.raises(UnavailableError, match=r"the PACS at .* fails \(HTTP 500"):
            next_sample(store, "random", "anna", model_version=None, rng=np.random.default_rng(0))
        assert set(pacs.asked) == {"instances", "fetch", "page"}
        pages = [path for _, path, _ in pacs.requests if path.startswith("/dicom-web/series?")][
            -pacs.asked.count("page") :
        ]
        assert all("limit=1&" in f"{path}&" for path in pages)  # one series, to see whether the PACS answers at all
        with store.ledger.reading() as connection:
            assert leases.list_all(connection) == []
        with pytest.raises(NotFoundError, match=r"there is no CT series '1\.9' in the PACS at 127"):
            store.images.path("1.9")
        assert set(pacs.asked) == {"instances", "fetch", "page", "series"}


def test_new_studies_are_noticed_while_an_old_listing_goes_on(tmp_path):
    with BigPacs(600) as pacs, pacs_store(tmp_path, pacs.pacs(), poll_seconds=1) as store:
        store.images._watch._poll_s = 0.05
        plain, slow = pacs._answer, threading.Event()

        def slowly(request):
            if "StudyDate" not in request.path:
                slow.wait(0.3)
            plain(request)

        pacs.answers = [slowly]
        store.watch()
        wait_until(lambda: pacs.asked.count("recent") >= 2, "looks for new studies", 0.02)
        assert pacs.asked.index("recent") < len(pacs.asked) - 1 - pacs.asked[::-1].index("page")
        slow.set()


def test_the_log_tells_once_that_the_pacs_is_down_and_labels_go_once_it_is_back(tmp_path, caplog, monkeypatch):
    caplog.set_level("INFO", "lib.store.pacs_watch")
    woken = []
    with BigPacs(3) as pacs:
        pacs.answers = [lambda request: request.send_error(500)]
        with pacs_store(tmp_path, pacs.pacs()) as store:
            store.images._watch._poll_s = 0.02
            monkeypatch.setattr(store.segs, "wake", lambda: woken.append(1))
            store.watch()
            wait_until(lambda: len(pacs.requests) > 6, "some tries", 0.02)
            assert woken == []
            pacs.answers = [pacs._answer]
            wait_until(lambda: len(known(store)) == 3, "the listing", 0.02)
            wait_until(lambda: "can be listed again" in caplog.text, "the log", 0.02)
    assert len(re.findall("can't be listed now", caplog.text)) == len(woken) == 1


def test_tens_of_thousands_of_series(tmp_path):
    """Memory is that of a page, and the next listing of the same takes nothing from those who save."""
    count = 20_000
    with BigPacs(count) as pacs, pacs_store(tmp_path, pacs.pacs(page_size=1000)) as store:
        walk(store)
        memory = psutil.Process().memory_info().rss
        assert walk(store) == count
        assert psutil.Process().memory_info().rss - memory < 100e6  # of the server in this process, too
        with store.ledger.reading() as connection:
            assert images.progress(connection)["total"] == count
