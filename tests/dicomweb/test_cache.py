"""Fetched series on disk: whole or absent, fetched once, of bounded size."""

import fcntl
import multiprocessing
import os
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from lib.dicomweb.cache import SeriesCache
from lib.dicomweb.client import Pacs
from lib.errors import NotFoundError, StorageError, UnavailableError
from tests.dicomweb.bad_pacs import MULTIPART, SERIES, STUDY, BadPacs, instance, listed, multipart, says
from tests.orthanc import ct_series
from tests.store.small_disk import SmallDisk

PLENTY = 1 << 40


class Counted(Pacs):
    """Writes down each fetch in a file."""

    def __init__(self, settings, log):
        super().__init__(settings)
        self.log = log

    def fetch(self, *arguments):
        with self.log.open("a") as file:
            file.write("fetch\n")
        super().fetch(*arguments)

    @property
    def fetches(self):
        return self.log.read_text().count("fetch") if self.log.exists() else 0


@pytest.fixture
def pacs(orthanc, tmp_path):
    return Counted(orthanc.pacs().settings, tmp_path / "fetches")


@pytest.fixture
def cache(tmp_path):
    return SeriesCache(tmp_path / "cache", PLENTY)


def uids(series):
    return series[0].StudyInstanceUID, series[0].SeriesInstanceUID


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def files_of(series):
    return sorted(f"{one.SOPInstanceUID}.dcm" for one in series)


def use(cache, pacs, series):
    with cache.series(pacs, *uids(series)) as folder:
        return names(folder)


def folders(cache):
    """Series in the cache, and what else is there that is no lock file."""
    return sorted(path.name.split("-")[0] for path in cache.folder.iterdir() if path.suffix != ".lock")


def test_a_series_is_fetched_once(orthanc, pacs, cache):
    series = ct_series()
    orthanc.fill(series)
    assert use(cache, pacs, series) == files_of(series)
    assert use(SeriesCache(cache.folder, PLENTY), pacs, series) == files_of(series)
    assert pacs.fetches == 1


def test_a_series_that_grew_is_another(orthanc, pacs, cache):
    series = ct_series()
    orthanc.fill(series[:3])
    with cache.series(pacs, *uids(series)) as before:
        orthanc.fill(series[3:])
        assert use(cache, pacs, series) == files_of(series)
        assert names(before) == files_of(series[:3])  # for who still reads it
    assert pacs.fetches == 2


def test_a_deleted_series_is_not_given_from_the_cache(orthanc, pacs, cache):
    series = ct_series()
    orthanc.fill(series)
    use(cache, pacs, series)
    orthanc.delete(series[0].SeriesInstanceUID)
    with pytest.raises(NotFoundError, match="it may have been deleted"):
        use(cache, pacs, series)


def test_threads_fetch_a_series_once(orthanc, pacs, cache):
    series, other = ct_series(1), ct_series(2)
    orthanc.fill(series, other)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda one: use(cache, pacs, one), [series, other] * 3))
    assert found == [files_of(series), files_of(other)] * 3
    assert pacs.fetches == 2


def test_processes_fetch_a_series_once(orthanc, pacs, cache):
    series = ct_series()
    orthanc.fill(series)
    forked = multiprocessing.get_context("fork")
    both = [forked.Process(target=use, args=(cache, pacs, series)) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert [one.exitcode for one in both] == [0, 0]
    assert pacs.fetches == 1
    assert use(cache, pacs, series) == files_of(series)


def test_the_longest_unused_goes_first(orthanc, pacs, tmp_path):
    first, second, third = (ct_series(seed) for seed in range(3))
    orthanc.fill(first, second, third)
    cache = SeriesCache(tmp_path / "cache", 2 * size_of(pacs, first, tmp_path))
    for series in (first, second, first, third):
        use(cache, pacs, series)
    assert folders(cache) == sorted(uids(series)[1] for series in (first, third))
    assert len(list(cache.folder.glob("*.lock"))) == 2
    assert use(cache, pacs, second) == files_of(second)


def size_of(pacs, series, tmp_path):
    probe = SeriesCache(tmp_path / "probe", PLENTY)
    with probe.series(pacs, *uids(series)) as folder:
        return int(1.1 * sum(path.stat().st_size for path in folder.iterdir()))


def test_what_is_in_use_stays(orthanc, pacs, tmp_path):
    first, second, third = (ct_series(seed) for seed in range(3))
    orthanc.fill(first, second, third)
    cache = SeriesCache(tmp_path / "cache", 1)
    with cache.series(pacs, *uids(first)) as folder:
        use(cache, pacs, second)
        use(cache, pacs, third)
        assert names(folder) == files_of(first)
        assert folders(cache) == sorted(uids(series)[1] for series in (first, third))
    cache.trim()
    assert os.listdir(cache.folder) == []


def test_what_a_crash_left_is_removed(orthanc, pacs, cache):
    series = ct_series()
    orthanc.fill(series)
    use(cache, pacs, series)
    (key,) = (path.name for path in cache.folder.iterdir() if path.is_dir())
    shutil.rmtree(cache.folder / key)
    for start in (".fetching-", ".removing-"):
        (cache.folder / f"{start}{key}").mkdir()
        (cache.folder / f"{start}{key}" / "part-0").write_text("half")
    assert use(cache, pacs, series) == files_of(series)
    cache.trim()
    assert folders(cache) == [uids(series)[1]]


def test_a_fetch_of_another_process_is_not_swept_away(cache):
    """Its folder is known by the lock that it holds."""
    (cache.folder / ".fetching-1.2.3-4-abc").mkdir()
    with (cache.folder / "1.2.3-4-abc.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        cache.trim()
        assert (cache.folder / ".fetching-1.2.3-4-abc").exists()
    cache.trim()
    assert os.listdir(cache.folder) == []


def test_a_lock_file_that_was_removed_is_no_lock(orthanc, pacs, cache):
    series = ct_series()
    orthanc.fill(series)
    use(cache, pacs, series)
    (lock,) = cache.folder.glob("*.lock")
    using, used = threading.Event(), threading.Event()

    def hold():
        with cache.series(pacs, *uids(series)):
            using.set()
            used.wait(20)

    with ThreadPoolExecutor(1) as pool:
        with lock.open() as removed:
            fcntl.flock(removed, fcntl.LOCK_EX)
            held = pool.submit(hold)
            assert not using.wait(0.3)  # it waits for the lock
            lock.unlink()
        try:
            assert using.wait(20)
            with lock.open() as other, pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            used.set()
        held.result()


def test_removing_and_using_at_the_same_time(orthanc, pacs, tmp_path):
    every = [ct_series(seed, shape=(16, 16, 3)) for seed in range(3)]
    orthanc.fill(*every)
    cache = SeriesCache(tmp_path / "cache", 1)
    stop = threading.Event()

    def sweep():
        while not stop.is_set():
            cache.trim()

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    try:
        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(lambda one: use(cache, pacs, one), every * 6))
    finally:
        stop.set()
        sweeper.join()
    assert found == [files_of(one) for one in every * 6]


def test_half_a_series_leaves_nothing(tmp_path):
    half = says(multipart(instance("1.5")), kind=MULTIPART)
    cache = SeriesCache(tmp_path / "cache", PLENTY)
    with (
        BadPacs(says(listed("SOPInstanceUID", "1.5", "1.6")), says([]), half) as server,
        pytest.raises(UnavailableError, match="gave 1 of the 2 instances of series"),
        cache.series(server.pacs(), STUDY, SERIES),
    ):
        pass
    assert folders(cache) == []


def test_a_full_disk(orthanc, pacs, tmp_path):
    series = ct_series(shape=(64, 64, 40))
    orthanc.fill(series)
    with SmallDisk(tmp_path / "disk", mebibytes=2) as disk:
        cache = SeriesCache(disk.folder / "cache", PLENTY)
        disk.fill(leave=100_000)
        message = f"can't write into {cache.folder}: the disk is full; free space or choose another folder"
        with pytest.raises(StorageError, match=re.escape(message)):
            use(cache, pacs, series)
        assert folders(cache) == []
        disk.make_room()
        assert use(cache, pacs, series) == files_of(series)


def test_a_folder_that_can_not_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"can't write into .*/file/cache: a part of the path is a file"):
        SeriesCache(tmp_path / "file" / "cache", PLENTY)
