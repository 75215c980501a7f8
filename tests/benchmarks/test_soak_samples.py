import shutil
import threading
import time

import psutil
import pytest

from lib.benchmarks.soak_samples import Folders, Sampler, columns, take_sample


@pytest.fixture
def folders(tmp_path):
    made = Folders(*(tmp_path / name for name in ("temporary", "sessions", "app", "ledger")))
    for path in (made.temporary, made.sessions, made.app / "model" / "runs", made.ledger):
        path.mkdir(parents=True)
    return made


def test_files_are_counted(folders):
    (folders.temporary / "upload").write_bytes(b"1")
    (folders.sessions / "one").mkdir()
    (folders.sessions / "one" / "image").write_bytes(b"1")
    (folders.app / "model" / "runs" / "model.pt").write_bytes(b"1" * 3000)
    (folders.app / "starter.pt").symlink_to(folders.app / "model")
    for name in ("ledger.sqlite", "ledger.sqlite-wal"):
        (folders.ledger / name).write_bytes(b"1" * 2000)
    sample = take_sample(psutil.Process(), folders, 1.5)
    assert (sample.temporary_files, sample.sessions, sample.app_files, sample.at) == (1, 1, 1, 1.5)
    assert (sample.app_mb, sample.ledger_mb) == (0.003, 0.004)
    assert sample.memory_mb > 1
    assert min(sample.open_files, sample.threads) >= 1


def test_folders_that_come_and_go_do_not_end_it(folders):
    """Trainings and sessions remove theirs at any moment."""
    over = threading.Event()

    def come_and_go():
        while not over.is_set():
            deep = folders.app / "model" / "cache" / "case"
            deep.mkdir(parents=True)
            (deep / "voxels").touch()
            shutil.rmtree(folders.app / "model" / "cache")

    thread = threading.Thread(target=come_and_go)
    thread.start()
    samples = [take_sample(psutil.Process(), folders, 0.0) for _ in range(100)]
    over.set()
    thread.join()
    assert {sample.app_files for sample in samples} <= {0, 1}


def test_it_looks_until_it_is_told_to_stop(folders):
    sampler = Sampler(psutil.Process(), folders, time.monotonic(), every_s=0.01)
    sampler.start()
    while len(sampler.samples) < 3:
        time.sleep(0.01)
    sampler.stop()
    taken = columns(sampler.samples)
    assert len(taken["memory_mb"]) == len(sampler.samples)
    assert taken["at"] == sorted(taken["at"])
    assert columns([])["threads"] == []
