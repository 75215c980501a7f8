"""SEGs that come and labels that go while a server runs."""

import time

import numpy as np
import pytest

from lib.store import leases
from lib.store.seg_exchange import SegExchange
from tests.store.pacs_site import two_classes, until


@pytest.fixture
def exchange(site):
    made = SegExchange(site.store, site.pacs, site.images, site.versions.append, poll_s=0.05, walk_s=600)
    yield made
    made.stop()


def seg(site, seed):
    return two_classes(site.images.source(site.id), site.label(seed))


def test_labels_go_and_segs_come(site, exchange):
    site.put(seg(site, 1))
    exchange.start()
    exchange.start()
    until(lambda: len(site.versions) == 1)  # by the look through all
    site.save(site.label(2))
    exchange.wake()
    until(lambda: not exchange.outbox.waiting())
    assert [one.SeriesDescription for one in site.in_pacs() if "SeriesDescription" in one] == ["LiverLoop final v2"]
    site.put(seg(site, 3))
    assert len(site.versions) == 1  # nobody asks for the image, and its study is old
    exchange.look_through_soon()
    until(lambda: len(site.versions) == 2)
    np.testing.assert_array_equal(site.voxels(site.versions[1]), site.label(3).array)


def test_images_in_use_are_looked_at_again(site, exchange):
    exchange.start()
    with site.store.ledger.writing() as connection:
        leases.acquire(connection, site.id, "ann", strategy="random", reason="", score=None, seconds=600)
    time.sleep(0.2)
    site.put(seg(site, 1))
    until(lambda: len(site.versions) == 1)
    with site.store.ledger.writing() as connection:
        leases.free(connection, site.id, actor="ann", why="over")
    exchange.look(site.id)  # somebody asks for it
    site.put(seg(site, 2))
    until(lambda: len(site.versions) == 2)


def test_an_image_that_is_used_is_looked_at_soon(site, orthanc):
    made = SegExchange(site.store, site.pacs, site.images, site.versions.append, poll_s=600, walk_s=600)
    try:
        made.start()
        made.look_soon("1.2.3")  # which is not there, and keeps nothing else from being looked at
        time.sleep(0.2)
        site.put(seg(site, 1))
        made.look_soon(site.id)
        until(lambda: len(site.versions) == 1)
    finally:
        begun = time.monotonic()
        made.stop()
        assert time.monotonic() - begun < 60  # far less than between two looks


def test_it_goes_on_when_the_pacs_is_back(site, exchange, orthanc, caplog):
    site.put(seg(site, 1))
    orthanc.stop()
    try:
        exchange.start()
        until(lambda: sum("can't be looked for now" in one.getMessage() for one in caplog.records) >= 2)
        time.sleep(0.5)
        assert sum("can't be looked for now" in one.getMessage() for one in caplog.records) == 2  # one of each thread
    finally:
        orthanc.start()
    until(lambda: len(site.versions) == 1)


def test_what_is_no_image_is_not_looked_at_again(site, exchange, caplog):
    exchange.look(site.id)
    for number in range(60):
        exchange.look(f"1.2.3.{number}")
    caplog.clear()
    exchange.start()
    site.put(seg(site, 1))
    until(lambda: len(site.versions) == 1)  # what is one still is
    assert not [one for one in caplog.records if "can't be looked for" in one.getMessage()]
