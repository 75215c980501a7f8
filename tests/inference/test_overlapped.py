import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.inference import overlapped
from lib.inference.files import plan_jobs, run_job
from lib.inference.overlapped import OneAtATime, segment_all, workers_for
from lib.inference.records import Recipe
from lib.inference.stopwatch import Stopwatch
from lib.volume_io import read_label, write_image


class Watched:
    """An engine that counts its calls and how many of them ran at once."""

    name = "watched"
    device = torch.device("cpu")

    def __init__(self, engine, seconds=0.0):
        self.engine, self.seconds = engine, seconds
        self.calls = self.now = self.most = 0

    def __call__(self, hu, levels, watch):
        self.calls, self.now = self.calls + 1, self.now + 1
        self.most = max(self.most, self.now)
        time.sleep(self.seconds)
        result = self.engine(hu, levels, watch)
        self.now -= 1
        return result


@pytest.fixture
def engine(model, settings):
    return Watched(model.engine(settings), 0.01)


@pytest.fixture
def jobs(ct, tmp_path):
    images = [tmp_path / f"case_{number}.nii" for number in range(4)]
    for path in images:
        write_image(path, ct)
    return plan_jobs(images, tmp_path / "out", ".nii.gz")


@pytest.fixture
def run(jobs, model, engine, weights, settings):
    """Segment the cases with the watched engine."""
    watched = replace(model, chosen=engine)

    def segment(settings=settings, **options):
        recipe = Recipe.of(model, weights, settings)
        return segment_all(jobs, watched, settings, recipe, **options)

    return segment


def test_the_same_labels_as_one_by_one_in_the_order_of_the_jobs(run, jobs, model, settings, tmp_path):
    records = list(run())
    assert [record["image"] for record in records] == [str(job.image) for job in jobs]
    alone = replace(jobs[0], label=tmp_path / "alone.nii.gz")
    record = run_job(alone, model, settings)
    for found in records:
        assert found["volumes_ml"] == record["volumes_ml"]
        assert np.array_equal(read_label(Path(found["label"])).array, read_label(alone.label).array)


def test_threads_share_the_engine_one_at_a_time(run, engine):
    list(run(workers=3))
    assert engine.most == 1
    assert engine.name == OneAtATime(engine).name


def test_other_cases_are_read_and_written_while_the_network_works(run, monkeypatch):
    busy = {"read": threading.Event(), "network": threading.Event()}
    together = threading.Event()
    read = overlapped.run_job

    def slow(job, model, settings, **options):
        def on_slices(done, slices):
            busy["network"].set()
            assert job.image.name != "case_0.nii" or together.wait(5)
            options["on_slices"](done, slices)

        if job.image.name == "case_1.nii":
            assert busy["network"].wait(5)
            together.set()
        return read(job, model, settings, **options | {"on_slices": on_slices})

    monkeypatch.setattr(overlapped, "run_job", slow)
    assert not any("error" in record for record in run(workers=2))
    assert together.is_set()


def test_no_more_volumes_in_memory_than_workers(run, monkeypatch):
    held, most, lock, work = [0], [0], threading.Lock(), overlapped.run_job

    def counted(*arguments, **options):
        with lock:
            held[0] += 1
            most[0] = max(most[0], held[0])
        try:
            return work(*arguments, **options)
        finally:
            with lock:
                held[0] -= 1

    monkeypatch.setattr(overlapped, "run_job", counted)
    list(run(workers=2))
    assert most == [2]


def test_what_was_finished_before_is_not_done_again(run, jobs, engine, settings):
    before = list(run())
    calls = engine.calls
    again = list(run())
    assert engine.calls == calls
    assert again == [record | {"skipped": True} for record in before]
    jobs[2].label.unlink()
    assert ["skipped" in record for record in run()] == [True, True, False, True]
    assert not any("skipped" in record for record in run(again=True))
    other = settings.model_copy(update={"postprocessing": settings.postprocessing.changed({"fill_holes": False})})
    assert not any("skipped" in record for record in run(other))


def test_planes_that_are_missing_are_made(run, jobs):
    list(run())
    assert not any("skipped" in record for record in run(planes="seg.nrrd"))
    assert all("skipped" in record for record in run(planes="seg.nrrd"))
    (jobs[0].label.parent / "case_0_planes.seg.nrrd").unlink()
    assert ["skipped" in record for record in run(planes="seg.nrrd")] == [False, True, True, True]


def test_a_bad_case_does_not_end_the_others(run, jobs):
    jobs[0].image.write_bytes(b"no CT")
    jobs[1].image.unlink()
    records = list(run())
    assert ["error" in record for record in records] == [True, True, False, False]
    assert records[0] == {"image": str(jobs[0].image), "error": records[0]["error"]}
    assert "case_0.nii: not a NIfTI file" in records[0]["error"]
    assert records[1]["error"].startswith("FileNotFoundError: [Errno 2] No such file or directory")
    assert {path.name for path in jobs[0].label.parent.iterdir()} == {"case_2.nii.gz", "case_3.nii.gz", "records"}


def test_no_memory_for_one_case_is_an_error_of_that_case(run, engine, monkeypatch):
    work = overlapped.run_job

    def too_large(job, *arguments, **options):
        if job.image.name == "case_1.nii":
            raise MemoryError("Unable to allocate 9 GiB")
        return work(job, *arguments, **options)

    monkeypatch.setattr(overlapped, "run_job", too_large)
    errors = [record.get("error") for record in run()]
    assert errors == [None, "MemoryError: Unable to allocate 9 GiB", None, None]


def test_an_end_before_the_end_leaves_whole_labels_and_goes_on_from_there(run, jobs, engine):
    engine.seconds = 0.15
    records = run(workers=2)
    next(records)
    records.close()
    names = {path.name for path in jobs[0].label.parent.iterdir()} - {"records"}
    assert 1 <= len(names) < len(jobs)
    engine.seconds = 0
    for name in names:
        assert read_label(jobs[0].label.parent / name).shape == (40, 36, 5)
    assert sum("skipped" in record for record in run()) == len(names)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("case")]


def test_progress_tells_the_slices_read_and_done(run, jobs):
    steps = []
    list(run(on_slices=lambda done, slices: steps.append((done, slices))))
    assert sum(slices for done, slices in steps if done == 0) == sum(done for done, _ in steps) == 5 * len(jobs)


def test_waiting_for_the_engine_is_not_counted(engine):
    hu, levels = np.zeros((1, 16, 16), np.int16), np.zeros((1, 102), np.int16)
    shared, watches = OneAtATime(engine), [Stopwatch(), Stopwatch()]
    engine.seconds = 0.2
    threads = [threading.Thread(target=shared, args=(hu, levels, watch)) for watch in watches]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert engine.most == 1
    assert all(sum(watch.seconds.values()) < 0.2 for watch in watches)


def test_a_gpu_gets_more_readers(monkeypatch):
    monkeypatch.setattr(overlapped, "available_cores", lambda: 64)
    assert workers_for(torch.device("cpu")) == 3
    assert workers_for(torch.device("cuda")) == 8
    monkeypatch.setattr(overlapped, "available_cores", lambda: 2)
    assert workers_for(torch.device("cuda")) == 3
